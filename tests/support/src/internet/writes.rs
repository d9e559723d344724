//! Pushes: uploads under way, manifests put, and what is deleted.

use bytes::Bytes;
use forebay::oci::Digest;
use serde_json::Value;

use super::{
    super::uploads::{errors, verified},
    Answer, Seen,
    dialect::Mount,
    registry::Registry,
};

impl Registry {
    /// `rest` follows `/blobs/`.
    pub(super) fn write_blob(&mut self, repository: &str, rest: &str, seen: &Seen) -> Answer {
        match (rest.strip_prefix("uploads/"), seen.method.as_str()) {
            (Some(""), "POST") => self.begin(repository, seen),
            (Some(session), "GET" | "PATCH" | "PUT" | "DELETE") => self.go_on(repository, session, seen),
            (None, "DELETE") => {
                if let Some(refusal) = self.dialect.delete {
                    return refusal.into();
                }
                let Ok(digest) = rest.parse::<Digest>() else { return error(400, "DIGEST_INVALID") };
                self.content.remove_blob(repository, &digest);
                Answer::new(202, "")
            }
            _ => error(405, "UNSUPPORTED"),
        }
    }

    pub(super) fn write_manifest(&mut self, repository: &str, reference: &str, seen: &Seen) -> Answer {
        match seen.method.as_str() {
            "PUT" => self.put_manifest(repository, reference, seen),
            "DELETE" => {
                if let Some(refusal) = self.dialect.delete {
                    return refusal.into();
                }
                let Ok(digest) = reference.parse::<Digest>() else { return error(405, "UNSUPPORTED") };
                if self.content.manifest(repository, reference).is_none() {
                    return error(404, "MANIFEST_UNKNOWN");
                }
                self.content.delete_manifest(repository, &digest);
                Answer::new(202, "")
            }
            _ => error(405, "UNSUPPORTED"),
        }
    }

    fn begin(&mut self, repository: &str, seen: &Seen) -> Answer {
        let parameter = |name: &str| seen.parameter(name).into_iter().next();
        if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
            && let Some(bytes) = self.content.blob(&from, &digest)
        {
            match self.dialect.mount {
                Mount::Made => {
                    let digest: Digest = digest.parse().unwrap();
                    self.content.put_blob(repository, &digest, bytes);
                    return self.created(repository, &digest);
                }
                Mount::Begun => {}
                Mount::Refused(refusal) => return refusal.into(),
            }
        }
        if let Some(digest) = parameter("digest") {
            return self.commit(repository, &digest, &seen.content);
        }
        let session = self.uploads.begin(repository);
        self.under_way(&session, 202)
    }

    fn go_on(&mut self, repository: &str, session: &str, seen: &Seen) -> Answer {
        let Some(upload) = self.uploads.find(repository, session, &seen.path_and_query) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        match seen.method.as_str() {
            "GET" => self.under_way(session, 204),
            "DELETE" => {
                self.uploads.end(session);
                Answer::new(204, "")
            }
            _ => {
                upload.bytes.extend_from_slice(&seen.content);
                if seen.method == "PATCH" {
                    return self.under_way(session, 202);
                }
                let Some(digest) = seen.parameter("digest").into_iter().next() else {
                    return error(400, "DIGEST_INVALID");
                };
                let upload = self.uploads.end(session);
                self.commit(repository, &digest, &upload.bytes)
            }
        }
    }

    fn commit(&mut self, repository: &str, digest: &str, content: &[u8]) -> Answer {
        let Some(digest) = verified(digest, content) else { return error(400, "DIGEST_INVALID") };
        self.content.put_blob(repository, &digest, Bytes::copy_from_slice(content));
        self.created(repository, &digest)
    }

    fn created(&self, repository: &str, digest: &Digest) -> Answer {
        let location = format!("{}/v2/{repository}/blobs/{digest}", self.dialect.url);
        Answer::new(201, "").with("location", location).with("docker-content-digest", digest.as_str())
    }

    fn under_way(&mut self, session: &str, status: u16) -> Answer {
        let upload = self.uploads.answered(session);
        let location = self.dialect.upload.replace("{repository}", &upload.repository).replace("{session}", session);
        Answer::new(status, "")
            .with("location", location.replace("{state}", &upload.state))
            .with("range", upload.range())
            .with("docker-upload-uuid", session)
    }

    fn put_manifest(&mut self, repository: &str, reference: &str, seen: &Seen) -> Answer {
        let Ok(json) = serde_json::from_slice::<Value>(&seen.content) else { return error(400, "MANIFEST_INVALID") };
        let named = json["layers"].as_array().into_iter().flatten().chain([&json["config"]]);
        for digest in named.filter_map(|descriptor| descriptor["digest"].as_str()) {
            if self.content.blob(repository, digest).is_none() {
                return error(400, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        let digest = self.content.add_manifest(
            repository,
            seen.header("content-type").unwrap_or_default(),
            seen.content.clone(),
        );
        if reference.parse::<Digest>().is_err() {
            self.content.tag(repository, reference, &digest);
        }
        let location = format!("{}/v2/{repository}/manifests/{digest}", self.dialect.url);
        Answer::new(201, "").with("location", location).with("docker-content-digest", digest.as_str())
    }
}

fn error(status: u16, code: &str) -> Answer {
    Answer::new(status, errors(code)).with("content-type", "application/json")
}
