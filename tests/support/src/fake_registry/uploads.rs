//! Pushes: uploads under way, manifests put, and what is deleted.
//!
//! The place of an upload changes with every answer, and its query has to come back to the letter.

use std::{io, sync::Arc};

use bytes::Bytes;
use forebay::oci::Digest;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    super::uploads::{errors, verified},
    Shared, State,
    auth::Plain,
    body::Body,
    fault::Fault,
    record::{Record, Server},
    serve::{below_v2, plain},
};

/// Whether a request is one of those here.
pub(super) fn is_write(record: &Record) -> bool {
    let path = below_v2(&record.path).unwrap_or_default();
    record.server == Server::Api
        && (path.contains("/blobs/uploads/")
            || matches!(record.method, Method::PUT | Method::DELETE)
                && (path.contains("/manifests/") || path.contains("/blobs/")))
}

/// Reads the content, unless the request is refused, and executes the request.
pub(super) async fn serve(
    record: &Record,
    mut request: Request<Incoming>,
    faults: &[Fault],
    shared: &Arc<Shared>,
) -> io::Result<Response<Body>> {
    if let Some(refusal) = shared.state().refused(record, faults) {
        return Ok(plain(refusal));
    }
    let hold = faults.iter().find_map(|fault| match fault {
        Fault::HoldContent { at, gate } => Some((*at, gate.clone())),
        _ => None,
    });
    let mut content = Vec::new();
    let mut held = false;
    loop {
        if let Some((at, gate)) = &hold
            && content.len() >= *at
            && !held
        {
            held = true;
            gate.pass().await;
        }
        match request.body_mut().frame().await {
            None => break,
            Some(Ok(frame)) => content.extend(frame.into_data().unwrap_or_default()),
            // The client left: nothing of it is kept.
            Some(Err(error)) => {
                shared.broken.send_modify(|broken| *broken += 1);
                return Err(io::Error::other(error));
            }
        }
    }
    Ok(plain(shared.state().write(record, content)))
}

impl State {
    fn refused(&self, record: &Record, faults: &[Fault]) -> Option<Plain> {
        for fault in faults {
            match fault {
                Fault::Answer { status, headers, body } => return Some((*status, headers.clone(), body.clone())),
                Fault::Redirect { status, to: super::To::Location(location) } => {
                    return Some((*status, vec![("location", location.clone())], String::new()));
                }
                _ => {}
            }
        }
        self.refusal_of_write(record)
    }

    fn write(&mut self, record: &Record, content: Vec<u8>) -> Plain {
        let path = below_v2(&record.path).unwrap_or_default().to_owned();
        if let Some((repository, session)) = path.split_once("/blobs/uploads/") {
            return if session.is_empty() {
                self.begin(record, repository, content)
            } else {
                self.go_on(record, repository, session, content)
            };
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            let digest: Digest = digest.parse().unwrap();
            if self.content.blob(repository, digest.as_str()).is_none() {
                return error(404, "BLOB_UNKNOWN");
            }
            self.content.remove_blob(repository, &digest);
            return (202, vec![], String::new());
        }
        let (repository, reference) = path.split_once("/manifests/").unwrap();
        if record.method == Method::PUT {
            return self.put_manifest(record, repository, reference, content.into());
        }
        if self.content.manifest(repository, reference).is_none() {
            return error(404, "MANIFEST_UNKNOWN");
        }
        match reference.parse::<Digest>() {
            Ok(digest) => self.content.delete_manifest(repository, &digest),
            Err(_) => self.content.untag(repository, reference),
        }
        (202, vec![], String::new())
    }

    fn begin(&mut self, record: &Record, repository: &str, content: Vec<u8>) -> Plain {
        let parameter = |name: &str| record.parameter(name).into_iter().next();
        if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
            && let Some(bytes) = self.content.blob(&from, &digest)
        {
            let digest: Digest = digest.parse().unwrap();
            self.content.put_blob(repository, &digest, bytes);
            return self.created(repository, &digest);
        }
        if let Some(digest) = parameter("digest") {
            return self.commit(repository, &digest, content);
        }
        let session = self.uploads.begin(repository);
        self.under_way(&session, 202)
    }

    fn go_on(&mut self, record: &Record, repository: &str, session: &str, content: Vec<u8>) -> Plain {
        let Some(upload) = self.uploads.find(repository, session, &record.query) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        match record.method {
            Method::GET => self.under_way(session, 204),
            Method::DELETE => {
                self.uploads.end(session);
                (204, vec![], String::new())
            }
            Method::PATCH | Method::PUT => {
                let first = record.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
                if first.is_some_and(|first: usize| first != upload.bytes.len()) {
                    return self.under_way(session, 416);
                }
                upload.bytes.extend(content);
                if record.method == Method::PATCH {
                    return self.under_way(session, 202);
                }
                let Some(digest) = record.parameter("digest").into_iter().next() else {
                    return error(400, "DIGEST_INVALID");
                };
                let upload = self.uploads.end(session);
                self.commit(repository, &digest, upload.bytes)
            }
            _ => error(405, "UNSUPPORTED"),
        }
    }

    fn commit(&mut self, repository: &str, digest: &str, content: Vec<u8>) -> Plain {
        let Some(digest) = verified(digest, &content) else { return error(400, "DIGEST_INVALID") };
        self.content.put_blob(repository, &digest, Bytes::from(content));
        self.created(repository, &digest)
    }

    fn created(&self, repository: &str, digest: &Digest) -> Plain {
        let location = format!("{}v2/{repository}/blobs/{digest}", self.api);
        (201, vec![("location", location), ("docker-content-digest", digest.to_string())], String::new())
    }

    fn under_way(&mut self, session: &str, status: u16) -> Plain {
        let upload = self.uploads.answered(session);
        let place = format!("{}v2/{}/blobs/uploads/{session}?_state={}", self.api, upload.repository, upload.state);
        let headers = vec![
            ("location", place),
            ("range", upload.range()),
            ("docker-upload-uuid", session.to_owned()),
            ("oci-chunk-min-length", "7".to_owned()),
            ("set-cookie", "session=secret".to_owned()),
            ("server", "fake/1".to_owned()),
        ];
        (status, headers, String::new())
    }

    fn put_manifest(&mut self, record: &Record, repository: &str, reference: &str, content: Bytes) -> Plain {
        let json: Value = serde_json::from_slice(&content).unwrap_or_default();
        if !json.is_object() {
            return error(400, "MANIFEST_INVALID");
        }
        let media_type = record.header("content-type").unwrap_or_default();
        let digest = self.content.add_manifest(repository, media_type, content);
        let mut tags = record.parameter("tag");
        match reference.parse::<Digest>() {
            Ok(named) if named != digest => return error(400, "DIGEST_INVALID"),
            Ok(_) => {}
            Err(_) => self.content.tag(repository, reference, &digest),
        }
        tags.iter().for_each(|tag| self.content.tag(repository, tag, &digest));
        let location = format!("/v2/{repository}/manifests/{reference}");
        let mut headers = vec![("location", location), ("docker-content-digest", digest.to_string())];
        headers.extend(tags.drain(..).map(|tag| ("oci-tag", tag)));
        if let Some(subject) = json["subject"]["digest"].as_str() {
            headers.push(("oci-subject", subject.to_owned()));
        }
        (201, headers, String::new())
    }
}

fn error(status: u16, code: &str) -> Plain {
    (status, vec![("content-type", "application/json".to_owned())], errors(code))
}
