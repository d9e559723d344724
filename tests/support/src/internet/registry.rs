//! One registry: its API, and the hosts that its redirects lead to.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use forebay::oci::{ByteRange, ResolvedRange};

use super::{
    super::{
        blob,
        fake_registry::{Image, content::Content},
        uploads::Uploads,
    },
    Answer, Seen,
    dialect::{Dialect, Redirect},
    realm::{Grant, user},
};

/// The tag of every image.
pub const TAG: &str = "1";

pub(super) struct Registry {
    pub dialect: Dialect,
    pub content: Content,
    pub uploads: Uploads,
    pub images: BTreeMap<&'static str, Image>,
    pub grants: Vec<Grant>,
    /// URLs that redirects led to: what is there, and whether they are still good.
    led: HashMap<String, Led>,
    pub cut_next_blob: bool,
    pub revokes_at_next_part: bool,
    issued: usize,
    got: usize,
}

#[derive(Clone)]
struct Led {
    redirect: Redirect,
    repository: String,
    kind: Kind,
    reference: String,
    once: bool,
    used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Blob,
    Tags,
}

impl Registry {
    pub(super) fn new(dialect: Dialect, seed: u64) -> Self {
        let mut content = Content::default();
        let mut images = BTreeMap::new();
        for (index, repository) in (0..).zip(dialect.public.iter().chain(dialect.private)) {
            let layer = blob::content(100_000, seed + index);
            images.insert(*repository, content.add_image(repository, TAG, &[&layer]));
        }
        let (grants, led, uploads) = (vec![], HashMap::new(), Uploads::default());
        Self {
            dialect,
            content,
            uploads,
            images,
            grants,
            led,
            cut_next_blob: false,
            revokes_at_next_part: false,
            issued: 0,
            got: 0,
        }
    }

    pub(super) fn next(&mut self) -> usize {
        self.issued += 1;
        self.issued
    }

    pub(super) fn blob(&self, repository: &str, digest: &str) -> Bytes {
        self.content.blob(repository, digest).unwrap()
    }

    pub(super) fn change_passwords(&mut self, password: &'static str) {
        let users: Vec<_> = self.dialect.users.iter().map(|(name, _)| (*name, password)).collect();
        // For as long as the test's process, as all that is said of a registry.
        self.dialect.users = users.leak();
    }

    pub(super) fn revoke(&mut self) {
        self.grants.clear();
    }

    pub(super) fn answer(&mut self, seen: &Seen) -> Answer {
        let url = seen.url();
        if let Some(realm) = self.dialect.realm
            && url.split('?').next() == Some(realm.url)
        {
            return self.token(&realm, seen);
        }
        match url.strip_prefix(self.dialect.url).and_then(|path| path.strip_prefix("/v2/")) {
            Some(path) => self.api(path, seen),
            None => self.target(&url, seen),
        }
    }

    fn api(&mut self, path: &str, seen: &Seen) -> Answer {
        let found = parse(path);
        let (repository, action) = match &found {
            Some((repository, Kind::Tags, _)) => (Some(&**repository), self.dialect.tags_action),
            Some((repository, _, reference)) => (Some(&**repository), action(seen, reference)),
            None => (None, ""),
        };
        if seen.method == "PATCH" && std::mem::take(&mut self.revokes_at_next_part) {
            self.revoke();
        }
        if let Some(refusal) = self.refusal(seen, repository, action) {
            return refusal;
        }
        let Some((repository, kind, reference)) = found else {
            let status = if path.is_empty() { 200 } else { 404 };
            return Answer::new(status, "{}").with("content-type", "application/json");
        };
        if action != "pull" && kind != Kind::Tags {
            return match kind {
                Kind::Manifest => self.write_manifest(&repository, &reference, seen),
                Kind::Blob | Kind::Tags => self.write_blob(&repository, &reference, seen),
            };
        }
        let mut headers = Vec::new();
        if kind == Kind::Manifest
            && let Some(limit) = self.dialect.limit
        {
            if self.got >= limit.pulls {
                return Answer::new(429, limit.body).with("retry-after", limit.retry_after);
            }
            self.got += usize::from(seen.method == "GET");
            let remaining = (limit.pulls - self.got).to_string();
            headers.extend(limit.headers.iter().map(|(name, value)| (*name, value.replace("{remaining}", &remaining))));
        }
        let redirect = match kind {
            Kind::Manifest => self.dialect.manifests,
            Kind::Blob if seen.method == "HEAD" && self.dialect.blob_head.is_some() => {
                return self.dialect.blob_head.unwrap().into();
            }
            Kind::Blob => self.dialect.blobs.filter(|_| self.content.blob(&repository, &reference).is_some()),
            Kind::Tags => None,
        };
        let mut answer = match redirect {
            Some(redirect) => self.lead(redirect, &repository, kind, &reference),
            None => self.serve(&repository, kind, &reference, seen),
        };
        answer.headers.extend(headers);
        answer
    }

    /// The refusal; `None`: the client may have it.
    fn refusal(&self, seen: &Seen, repository: Option<&str>, action: &str) -> Option<Answer> {
        if self.dialect.challenges.is_empty() {
            return None;
        }
        let shown = seen.header("authorization");
        let mut error = "";
        if let Some(token) = shown.and_then(|shown| shown.strip_prefix("Bearer ")) {
            let grant = self.grants.iter().find(|grant| grant.token == token);
            let suffices = |grant: &Grant| {
                repository.is_none_or(|name| grant.allowed.iter().any(|(of, may)| of == name && may == action))
            };
            match grant {
                Some(grant) if suffices(grant) => return None,
                Some(_) => error = r#",error="insufficient_scope""#,
                None => error = r#",error="invalid_token""#,
            }
        } else if let Some(shown) = shown.filter(|_| self.dialect.takes_passwords) {
            match (user(&self.dialect, shown), self.dialect.wrong_password) {
                (Some(_), _) => return None,
                (None, Some(refusal)) => return Some(refusal.into()),
                (None, None) => {}
            }
        }
        let challenges = match repository {
            _ if shown.is_some() && self.dialect.bad_challenges.is_some() => self.dialect.bad_challenges.unwrap(),
            Some(_) => self.dialect.challenges,
            None => self.dialect.base_challenges,
        };
        let mut answer = Answer::new(401, self.dialect.unauthorized).with("content-type", "application/json");
        for challenge in challenges {
            let line = challenge.replace("{repository}", repository.unwrap_or_default()).replace("{action}", action);
            let error = if line.contains("scope=") { error } else { "" };
            answer = answer.with("www-authenticate", line + error);
        }
        Some(answer)
    }

    fn lead(&mut self, redirect: Redirect, repository: &str, kind: Kind, reference: &str) -> Answer {
        let hex = reference.split_once(':').map_or("", |(_, hex)| hex);
        let signature = format!("signed{}", self.next());
        let location = redirect
            .location
            .replace("{repository}", repository)
            .replace("{reference}", reference)
            .replace("{hex}", hex)
            .replace("{signature}", &signature);
        let once = redirect.location.contains("{signature}");
        let led = Led { redirect, repository: repository.into(), kind, reference: reference.into(), once, used: false };
        let url = if location.starts_with('/') { format!("{}{location}", self.dialect.url) } else { location.clone() };
        self.led.insert(url, led);
        Answer::new(redirect.status, "moved").with("location", location)
    }

    /// What redirects led to.
    fn target(&mut self, url: &str, seen: &Seen) -> Answer {
        let expired = self.dialect.blobs.or(self.dialect.manifests).map(|redirect| redirect.expired);
        let Some(led) = self.led.get_mut(url) else {
            return expired.map_or_else(|| Answer::new(404, "nothing here"), Answer::from);
        };
        if let Some(refusal) = led.redirect.authorization
            && seen.header("authorization").is_some()
        {
            return refusal.into();
        }
        let got = seen.method == "GET";
        if led.once && (led.used || (led.redirect.get_only && !got)) {
            return led.redirect.expired.into();
        }
        led.used = got;
        let led = led.clone();
        let mut answer = self.serve(&led.repository, led.kind, &led.reference, seen);
        if got && led.kind == Kind::Blob && std::mem::take(&mut self.cut_next_blob) {
            answer.body.truncate(answer.body.len() / 2);
        }
        answer
    }

    fn serve(&self, repository: &str, kind: Kind, reference: &str, seen: &Seen) -> Answer {
        let unknown = |code: &str| Answer::new(404, format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#));
        match kind {
            Kind::Tags => {
                let tags = serde_json::json!({ "name": repository, "tags": self.content.tags(repository) });
                Answer::new(200, tags.to_string()).with("content-type", "application/json")
            }
            Kind::Manifest => match self.content.manifest(repository, reference) {
                Some((digest, media_type, bytes)) => {
                    Answer::new(200, bytes).with("content-type", media_type).with("docker-content-digest", digest)
                }
                None => unknown("MANIFEST_UNKNOWN"),
            },
            Kind::Blob => match self.content.blob(repository, reference) {
                Some(bytes) => part(bytes, seen.header("range")).with("content-type", "application/octet-stream"),
                None => unknown("BLOB_UNKNOWN"),
            },
        }
    }
}

fn part(bytes: Bytes, range: Option<&str>) -> Answer {
    let total = bytes.len() as u64;
    match range.and_then(|range| ByteRange::parse(range.as_bytes())).map(|range| range.resolve(total)) {
        None => Answer::new(200, bytes),
        Some(None) => Answer::new(416, "").with("content-range", format!("bytes */{total}")),
        Some(Some(ResolvedRange { first, last })) => Answer::new(206, bytes.slice(first as usize..=last as usize))
            .with("content-range", format!("bytes {first}-{last}/{total}")),
    }
}

/// What a token must allow for a request about a manifest or a blob.
fn action(seen: &Seen, reference: &str) -> &'static str {
    match seen.method.as_str() {
        _ if reference.starts_with("uploads/") => "push",
        "GET" | "HEAD" => "pull",
        "DELETE" => "delete",
        _ => "push",
    }
}

/// Repository, kind and reference of what follows `/v2/`.
fn parse(path: &str) -> Option<(String, Kind, String)> {
    let path = path.split('?').next()?;
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Some((repository.to_owned(), Kind::Tags, String::new()));
    }
    [("/manifests/", Kind::Manifest), ("/blobs/", Kind::Blob)].into_iter().find_map(|(part, kind)| {
        let (repository, reference) = path.split_once(part)?;
        Some((repository.to_owned(), kind, reference.to_owned()))
    })
}
