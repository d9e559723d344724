//! One request that is over, as the access log has it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::Method;

use crate::{
    cache::Outcome,
    oci::{Operation, Reference, Repository, is_referrers_tag},
    request_id::RequestId,
    rule::{RuleName, Subject},
};

const UNAUTHORIZED: u16 = 401;
const NOT_FOUND: u16 = 404;

/// The failures of browsers and scanners, which ask for what no registry has, by any host.
const OF_STRANGERS: [&str; 3] = ["no_such_path", "foreign_host", "invalid_host"];

/// Below it is all that clients of a registry ask for.
const API: &str = "/v2/";

/// The longest part of a path that is kept, in bytes: a repository, and a manifest by its sha512 digest.
const MAX_PATH: usize = 512;
/// The longest part of a cause, in bytes: an error with its whole chain.
const MAX_CAUSE: usize = 1024;
/// The longest part of a name that a client makes up (`ns=`, user), in bytes.
const MAX_NAME: usize = 128;
/// The longest part of a method that a client makes up, in bytes: what `Method` keeps without memory of its own.
const MAX_METHOD: usize = 15;

/// What the access log says of a request. Nothing here is a secret.
#[derive(Debug)]
pub struct FinishedRequest {
    pub id: RequestId,
    /// The number of the first request of its pull.
    pub pull: Option<u64>,
    /// Whether this request makes a pull: it counts as one, and names the image.
    pub is_pull: bool,
    /// Its upstream authorizes each client.
    pub is_of_client: bool,
    /// The client showed credentials.
    pub has_credentials: bool,
    /// Address and port.
    pub peer: Arc<str>,
    pub method: Method,
    /// The path, and behind it the User-Agent.
    pub path_and_agent: Box<str>,
    pub path_len: usize,
    /// The value of `ns=`.
    pub namespace: Option<String>,
    pub upstream: Option<Arc<str>>,
    /// The upstream that it names and that is not configured.
    pub unconfigured: Option<Box<str>>,
    pub repository: Option<Repository>,
    /// The tag or digest in its path.
    pub reference: Option<Reference>,
    pub operation: Operation,
    pub outcome: Outcome,
    pub status: u16,
    pub sent: u64,
    /// How many bytes the client was sent to the object store for.
    pub redirected: Option<u64>,
    /// Whether the client got all of the response.
    pub is_complete: bool,
    pub started: Instant,
    pub first_byte: Duration,
    pub duration: Duration,
    /// By the clock of the system.
    pub ended_at: SystemTime,
    /// How long it waited for its upstream.
    pub waited: Option<Duration>,
    /// How many bytes of bodies upstreams sent for it.
    pub received: Option<u64>,
    pub user: Option<Arc<str>>,
    pub failure: Option<&'static str>,
    pub upstream_cause: Option<&'static str>,
    pub rule: Option<Arc<RuleName>>,
    pub cause: Option<String>,
}

impl FinishedRequest {
    pub(crate) fn path(&self) -> &str {
        self.path_and_agent.get(..self.path_len).unwrap_or_default()
    }

    pub(crate) fn user_agent(&self) -> Option<&str> {
        self.path_and_agent.get(self.path_len..).filter(|agent| !agent.is_empty())
    }

    /// The client's address.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.peer.parse::<SocketAddr>().ok().map(|peer| peer.ip().to_canonical())
    }

    pub(crate) fn ended(&self) -> Instant {
        self.started + self.duration
    }

    /// The pull that it belongs to.
    pub(crate) fn pull_id(&self) -> Option<RequestId> {
        self.pull.map(|number| RequestId { number, ..self.id })
    }

    /// What the request is about, as patterns match it; `None`: no repository.
    pub(crate) fn subject(&self) -> Option<Subject> {
        let upstream = self.upstream.as_deref().or(self.unconfigured.as_deref())?;
        let repository = self.repository.as_ref()?;
        Some(match &self.reference {
            Some(reference) => Subject::reference(upstream, repository, reference),
            None => Subject::repository(upstream, repository),
        })
    }

    /// Whether the client did not get what it asked for. No error: the challenge to a client without credentials, 404 for
    /// what clients only look for, which are HEADs, signatures and referrers, unless the upstream is not configured, and
    /// what no client of a registry asks for.
    pub(crate) fn is_error(&self) -> bool {
        let is_challenge = self.status == UNAUTHORIZED && !self.has_credentials;
        let is_nothing_found = self.unconfigured.is_none() && self.status == NOT_FOUND && self.is_look_up();
        let is_of_stranger =
            !self.path().starts_with(API) && self.failure.is_some_and(|failure| OF_STRANGERS.contains(&failure));
        self.failure.is_some() && !is_challenge && !is_nothing_found && !is_of_stranger
    }

    fn is_look_up(&self) -> bool {
        self.method == Method::HEAD
            || self.operation == Operation::Referrers
            || matches!(&self.reference, Some(Reference::Tag(tag)) if is_referrers_tag(tag))
    }

    /// Whether it is a response with a manifest or a blob.
    pub(crate) fn has_content(&self) -> bool {
        self.method == Method::GET && matches!(self.operation, Operation::Manifest | Operation::Blob)
    }

    /// Shortens the texts that clients and upstreams make up.
    pub(super) fn shorten(&mut self) {
        if self.path_len > MAX_PATH {
            let path = start_of(self.path(), MAX_PATH);
            let path_len = path.len();
            self.path_and_agent = [path, self.user_agent().unwrap_or_default()].concat().into();
            self.path_len = path_len;
        }
        for (text, most) in [(&mut self.namespace, MAX_NAME), (&mut self.cause, MAX_CAUSE)] {
            if let Some(text) = text {
                text.truncate(text.floor_char_boundary(most));
                text.shrink_to(most);
            }
        }
        if let Some(start) = self.method.as_str().get(..MAX_METHOD).filter(|start| *start != self.method.as_str()) {
            // The start of a token is a token.
            self.method = Method::from_bytes(start.as_bytes()).unwrap_or(Method::GET);
        }
        if let Some(user) = &mut self.user
            && user.len() > MAX_NAME
        {
            *user = start_of(user, MAX_NAME).into();
        }
        if let Some(name) = &mut self.unconfigured
            && name.len() > MAX_NAME
        {
            *name = start_of(name, MAX_NAME).into();
        }
    }

    /// How much memory it takes, in bytes, with texts that others may keep as well.
    pub(super) fn memory(&self) -> usize {
        let shared = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let own = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
        size_of::<Self>()
            + self.path_and_agent.len()
            + self.peer.len()
            + self.repository.as_ref().map_or(0, |repository| repository.as_str().len())
            + self.reference.as_ref().map_or(0, |reference| reference.as_str().len())
            + self.unconfigured.as_ref().map_or(0, |name| name.len())
            + shared(&self.user)
            + own(&self.namespace)
            + own(&self.cause)
    }
}

/// The start of a text, of at most `most` bytes.
fn start_of(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
impl FinishedRequest {
    /// A hit of `docker.io/library/app:1` that ended at `ended`.
    pub(crate) fn of_test(number: u64, ended: Instant) -> Self {
        let path = "/v2/library/app/manifests/1";
        Self {
            id: RequestId { instance: 7, number },
            pull: Some(number),
            is_pull: true,
            is_of_client: false,
            has_credentials: false,
            peer: "10.0.0.1:1234".into(),
            method: Method::GET,
            path_and_agent: format!("{path}docker/29.1 linux").into(),
            path_len: path.len(),
            namespace: None,
            upstream: Some("docker.io".into()),
            unconfigured: None,
            repository: Some("library/app".parse().unwrap()),
            reference: Some("1".parse().unwrap()),
            operation: Operation::Manifest,
            outcome: Outcome::Hit,
            status: 200,
            sent: 100,
            redirected: None,
            is_complete: true,
            started: ended,
            first_byte: Duration::ZERO,
            duration: Duration::ZERO,
            ended_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            waited: None,
            received: None,
            user: None,
            failure: None,
            upstream_cause: None,
            rule: None,
            cause: None,
        }
    }

    /// The same for another path below `library/app`.
    pub(crate) fn about(mut self, operation: Operation, reference: &str) -> Self {
        let reference: Reference = reference.parse().unwrap();
        let path = format!("/v2/library/app/{}s/{}", operation.as_str(), reference.as_str());
        self.reference = Some(reference);
        self.is_pull = false;
        Self { operation, ..self.at(&path) }
    }

    /// The same for this path.
    pub(crate) fn at(self, path: &str) -> Self {
        Self { path_and_agent: path.into(), path_len: path.len(), ..self }
    }

    pub(crate) fn failed(self, status: u16, failure: &'static str) -> Self {
        Self { status, failure: Some(failure), outcome: Outcome::Bypass, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_what_a_client_did_not_get() {
        let request = |method: Method, status, failure| FinishedRequest {
            method,
            status,
            failure,
            ..FinishedRequest::of_test(1, Instant::now())
        };
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        for (request, expected) in [
            (request(Method::GET, 200, None), false),
            (request(Method::GET, 404, Some("manifest_unknown")), true),
            (request(Method::HEAD, 404, Some("manifest_unknown")), false),
            (request(Method::HEAD, 502, Some("upstream_unavailable")), true),
            (request(Method::GET, 404, Some("manifest_unknown")).about(Operation::Manifest, &signature), false),
            (request(Method::GET, 503, Some("upstream_resting")).about(Operation::Manifest, &signature), true),
            (request(Method::GET, 401, Some("unauthenticated")), false),
            (FinishedRequest { has_credentials: true, ..request(Method::GET, 401, Some("unauthenticated")) }, true),
            (request(Method::GET, 200, Some("client_left")), true),
            (request(Method::GET, 499, Some("client_left")), true),
            (request(Method::GET, 404, Some("no_such_path")).at("/wp-login.php"), false),
            (request(Method::GET, 421, Some("foreign_host")).at("/"), false),
            (request(Method::GET, 400, Some("invalid_host")).at("/"), false),
            (request(Method::GET, 404, Some("no_such_path")), true),
            (request(Method::GET, 421, Some("foreign_host")), true),
            (request(Method::GET, 421, Some("foreign_host")).at("/v2/"), true),
            (request(Method::GET, 400, Some("invalid_host")), true),
            (request(Method::GET, 404, Some("unconfigured_upstream")), true),
            (
                FinishedRequest {
                    unconfigured: Some("quay.io".into()),
                    ..request(Method::HEAD, 404, Some("unconfigured_upstream"))
                },
                true,
            ),
        ] {
            assert_eq!(request.is_error(), expected, "{request:?}");
        }
    }

    #[test]
    fn texts_that_clients_make_up_are_shortened() {
        let long = "ä".repeat(20_000);
        let mut request = FinishedRequest {
            path_and_agent: format!("{long}docker/29.1").into(),
            path_len: long.len(),
            method: Method::from_bytes(&[b'X'; 20_000]).unwrap(),
            namespace: Some(long.clone()),
            user: Some(long.as_str().into()),
            unconfigured: Some(long.as_str().into()),
            cause: Some(long),
            ..FinishedRequest::of_test(1, Instant::now())
        };
        request.shorten();
        assert_eq!((request.path().len(), request.user_agent()), (MAX_PATH, Some("docker/29.1")));
        assert_eq!(request.method.as_str(), "X".repeat(MAX_METHOD));
        assert!(request.memory() < 3000, "{}", request.memory());
        let before = request.path_and_agent.as_ptr();
        request.shorten();
        assert_eq!(request.path_and_agent.as_ptr(), before, "a short text is not copied");
    }
}
