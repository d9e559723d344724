//! Requests that change something at the upstream: uploads, manifests, deletions.
//!
//! What must hold: a body that is passed on is sent once, so the token it needs is got by a request without one; writes
//! go to the first of the upstream's URLs alone, since two registries that are written to in turn are soon not the same;
//! where an upload goes on is on that URL's own origin, whatever the upstream says. The answer is the upstream's own,
//! also when it is a refusal; only what is between it and us (401, a circle, a redirect) becomes an error.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::Instant;

use super::{
    ClientCredential,
    auth::{self, Authorization, Cause, Known, scope::Scope},
    client::{discard, redirect, whole_body},
    error::{Error, ErrorKind, Shown},
    failover::Endpoint,
    request::{Shared, is_refused},
    response::{
        self,
        refusal::{Most, Reason, Refusal, Said},
        warning::ContentNotes,
    },
    upload_body::UploadBody,
};
use crate::oci::{Operation, Repository};

/// The longest answer that is passed on, in bytes: errors with a line for each of some hundred blobs fit.
const MAX_ANSWER: usize = 1024 * 1024;
/// The longest path and query of an upload; with what we make of it, it has to fit a client's request.
const MAX_SESSION: usize = 4 * 1024;

/// What of an answer's head is passed on; all else is between the upstream and us.
///
/// Source: OCI distribution specification v1.1, and the Docker registry API.
const PASSED_ON: [HeaderName; 11] = [
    header::RANGE,
    header::ETAG,
    header::RETRY_AFTER,
    header::ALLOW,
    HeaderName::from_static("docker-content-digest"),
    HeaderName::from_static("docker-upload-uuid"),
    HeaderName::from_static("oci-chunk-min-length"),
    HeaderName::from_static("oci-chunk-max-length"),
    HeaderName::from_static("oci-subject"),
    HeaderName::from_static("oci-tag"),
    HeaderName::from_static("oci-filters-applied"),
];

/// A change to be made.
#[derive(Clone, Debug)]
pub struct WriteRequest<'a> {
    pub method: Method,
    pub repository: &'a Repository,
    pub target: WriteTarget,
    pub action: WriteAction,
    /// Content-Type, Content-Range and the like; not the length, which the content tells.
    pub headers: HeaderMap,
}

/// Where the change is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteTarget {
    /// What follows `/v2/`, with its query.
    Path(String),
    /// Path and query of an upload, as the upstream named them, and perhaps more of a query.
    UploadSession(String),
}

/// What the client must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteAction {
    /// To push, and to read the repository that a blob is mounted from.
    Push {
        from: Option<Repository>,
    },
    Delete,
}

/// The upstream's answer.
#[derive(Debug)]
pub struct WriteResponse {
    pub status: StatusCode,
    /// Those that the specification names, without Location and Content-Length.
    pub headers: HeaderMap,
    /// The path and query of `Location`.
    pub location: Option<String>,
    /// Why it refuses, as far as clients may be told.
    pub reasons: Vec<Reason>,
}

impl WriteResponse {
    /// Whether the change was made.
    pub fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// Whether what was to be changed is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Whether there is something new, which `location` is the place of. Otherwise that is an upload's.
    pub fn is_created(&self) -> bool {
        self.status == StatusCode::CREATED
    }
}

/// How a change is asked for.
pub(super) struct Asking<'a> {
    /// The value of that header.
    pub via: Option<HeaderValue>,
    /// In whose name; `None`: ours.
    pub client: Option<&'a ClientCredential>,
}

impl Shared {
    /// Makes a change.
    pub(super) async fn write(
        &self,
        mut write: WriteRequest<'_>,
        asking: Asking<'_>,
        content: Option<UploadBody>,
    ) -> Result<WriteResponse, Error> {
        let none = || Error::new(ErrorKind::Unavailable, "the upstream has no URL");
        let endpoint = self.endpoints.first().ok_or_else(none)?;
        let url = match &write.target {
            WriteTarget::Path(rest) => endpoint.url(rest)?,
            WriteTarget::UploadSession(target) => session(endpoint.base(), target)?,
        };
        if let Some(via) = asking.via {
            write.headers.insert(header::VIA, via);
        }
        let scope = write.scope();
        let cause = self.cause(&scope, asking.client);
        let begun = Instant::now();
        let answer = match content {
            Some(content) => Box::pin(self.write_with_content(endpoint, cause, write, &url, (content, begun))).await?,
            None => {
                let instead = without_mount(&write, &url);
                let answered = Box::pin(self.write_without_content(endpoint, cause, write, &url)).await;
                match instead {
                    Some((write, url)) if is_refusal(&answered) => {
                        if let Ok(answer) = answered {
                            discard(answer).await;
                        }
                        let scope = Scope::Push { repository: write.repository.clone(), from: None };
                        let cause = self.cause(&scope, asking.client);
                        Box::pin(self.write_without_content(endpoint, cause, write, &url)).await?
                    }
                    _ => answered?,
                }
            }
        };
        self.written(endpoint, answer, &url, &scope).await
    }

    async fn write_without_content(
        &self,
        endpoint: &Endpoint,
        cause: Cause<'_>,
        mut write: WriteRequest<'_>,
        url: &Url,
    ) -> Result<Response, Error> {
        if matches!(write.method, Method::POST | Method::PUT | Method::PATCH) {
            // Some front ends answer 411 without it.
            write.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let (mut authorization, failed) = match Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await
        {
            Known::Nothing => (None, None),
            Known::Authorization(authorization) => (Some(authorization), None),
            Known::Failed(scheme, error) => (None, Some((scheme, error))),
        };
        let first = self.lead(&write, url, authorization.as_ref()).await?;
        let is_asked_back = first.status() == StatusCode::UNAUTHORIZED;
        let wants_token =
            is_asked_back && auth::is_answerable(first.headers()) && !auth::wants_password(first.headers());
        if let Some(shown) = authorization.take_if(|shown| shown.is_own_password())
            && !wants_token
        {
            if !self.refuses_password_by(endpoint, &write, &shown, &first).await? {
                return Ok(first);
            }
            // Its turn is over.
            drop(shown);
            discard(first).await;
            // It is read anew: there may be another one by now.
            let newer = match Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await {
                Known::Authorization(newer) => newer,
                Known::Failed(_, error) => return Err(error),
                Known::Nothing => return Err(refused_password(url)),
            };
            let second = self.lead(&write, url, Some(&newer)).await?;
            return self.second(endpoint, &write, url, &newer, second).await;
        }
        if !is_asked_back {
            match &authorization {
                Some(_) if write.goes_on_after(first.status()) => {}
                Some(authorization) => judge_refusal(authorization, first.status()),
                None if first.status().is_success() => endpoint.note_open(),
                None => {}
            }
            return Ok(first);
        }
        if let Some(authorization) = authorization
            && (authorization.is_token() || !write.goes_on_after(first.status()))
        {
            self.authenticator.refused(&authorization).await;
        }
        let headers = first.headers().clone();
        discard(first).await;
        let challenged = self.authenticator.challenged(&self.sender, endpoint, &headers, cause, failed);
        let authorization = Box::pin(challenged).await?;
        let second = self.lead(&write, url, Some(&authorization)).await?;
        self.second(endpoint, &write, url, &authorization, second).await
    }

    /// What a last answer says of the credential that it was given to.
    async fn second(
        &self,
        endpoint: &Endpoint,
        write: &WriteRequest<'_>,
        url: &Url,
        shown: &Authorization,
        second: Response,
    ) -> Result<Response, Error> {
        if write.goes_on_after(second.status()) {
            return Ok(second);
        }
        if shown.is_own_password() {
            if !self.refuses_password_by(endpoint, write, shown, &second).await? {
                return Ok(second);
            }
            discard(second).await;
            return Err(refused_password(url));
        }
        if second.status() == StatusCode::UNAUTHORIZED {
            self.authenticator.refused(shown).await;
            shown.judge(Some(ErrorKind::Unauthorized));
        }
        if second.status().is_success() {
            shown.judge(None);
        }
        judge_refusal(shown, second.status());
        Ok(second)
    }

    /// Whether an answer refuses forebay's own password, and notes what it says of that.
    async fn refuses_password_by(
        &self,
        endpoint: &Endpoint,
        write: &WriteRequest<'_>,
        shown: &Authorization,
        answer: &Response,
    ) -> Result<bool, Error> {
        let status = answer.status();
        // Nor is a page that stands for a 401 a word.
        let is_page = status == StatusCode::UNAUTHORIZED && !answer.headers().contains_key(header::WWW_AUTHENTICATE);
        if write.goes_on_after(status) || is_page {
            return Ok(false);
        }
        if is_refused(status) {
            return Box::pin(self.refuses_password(endpoint, shown, status)).await;
        }
        if is_about_content(status) {
            self.authenticator.taken(shown);
        }
        Ok(false)
    }

    async fn write_with_content(
        &self,
        endpoint: &Endpoint,
        cause: Cause<'_>,
        write: WriteRequest<'_>,
        url: &Url,
        (content, begun): (UploadBody, Instant),
    ) -> Result<Response, Error> {
        let authorization = self.authorization_beforehand(endpoint, cause).await?.map(Authorization::without_turn);
        let headers = authorized(&write.headers, authorization.as_ref());
        let answer =
            self.sender.send_content(Operation::Push, write.method.clone(), url, headers, Some(content)).await?;
        if redirect::is_redirect(answer.status()) {
            // What was sent is gone, and cannot be sent again.
            let why = format!("{} redirects what was to be stored there", Shown(url));
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        if authorization.is_none() && answer.status().is_success() {
            endpoint.note_open();
        }
        if let Some(shown) = authorization.as_ref().filter(|shown| shown.is_own_password()) {
            if !self.refuses_password_by(endpoint, &write, shown, &answer).await? {
                return Ok(answer);
            }
            discard(answer).await;
            // It is read anew: with another one the client may begin again.
            return Err(match Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await {
                Known::Authorization(_) => {
                    let why = format!("{} refuses a password that has changed, once everything is sent", Shown(url));
                    Error::new(ErrorKind::Unavailable, why).retry_at_once()
                }
                Known::Failed(_, error) => error,
                Known::Nothing => refused_password(url),
            });
        }
        if let Some(authorization) = &authorization {
            judge_refusal(authorization, answer.status());
        }
        if answer.status() == StatusCode::UNAUTHORIZED {
            match &authorization {
                Some(authorization) => {
                    self.authenticator.refused(authorization).await;
                    // One that was good before has died, in all likelihood; one that came for this request is refused.
                    if authorization.came_before(begun) {
                        discard(answer).await;
                        let why =
                            format!("{} refuses a token that it took before, once everything is sent", Shown(url));
                        return Err(Error::new(ErrorKind::Unavailable, why).retry_at_once());
                    }
                }
                None => {
                    endpoint.forget_open();
                    let headers = answer.headers().clone();
                    discard(answer).await;
                    // The next request will know how to ask.
                    Box::pin(self.authenticator.challenged(&self.sender, endpoint, &headers, cause, None)).await?;
                    let why = format!("{} wants to know who asks only once everything is sent", Shown(url));
                    return Err(Error::new(ErrorKind::Unavailable, why).retry_at_once());
                }
            }
        }
        Ok(answer)
    }

    /// The Authorization for a request that cannot be sent twice. Where nothing is known yet, the base of the registry
    /// is asked how it wants to be asked.
    async fn authorization_beforehand(
        &self,
        endpoint: &Endpoint,
        cause: Cause<'_>,
    ) -> Result<Option<Authorization>, Error> {
        let failed = match Box::pin(self.authenticator.known(&self.sender, endpoint, cause)).await {
            Known::Authorization(authorization) => return Ok(Some(authorization)),
            Known::Nothing if endpoint.is_open() => return Ok(None),
            Known::Nothing => None,
            Known::Failed(scheme, error) => Some((scheme, error)),
        };
        let base = endpoint.url("")?;
        let answer = self.sender.send(Operation::Base, Method::GET, &base, HeaderMap::new(), None).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        discard(answer).await;
        if status != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let challenged = self.authenticator.challenged(&self.sender, endpoint, &headers, cause, failed);
        Ok(Some(Box::pin(challenged).await?))
    }

    /// Sends a request without content, and follows where it is led with the same method.
    async fn lead(
        &self,
        write: &WriteRequest<'_>,
        start: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Error> {
        let mut headers = authorized(&write.headers, authorization);
        let mut url = start.clone();
        for _ in 0..=redirect::MAX_HOPS {
            let method = write.method.clone();
            let sent = self.sender.send_content(Operation::Push, method, &url, headers.clone(), None);
            let answer = Box::pin(sent).await?;
            let status = answer.status();
            if !redirect::is_redirect(status) {
                return Ok(answer);
            }
            // The others would have the client go on with GET.
            if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
                && write.method != Method::GET
                && write.method != Method::HEAD
            {
                let why = format!("{} answers a {} with the redirect {status}", Shown(&url), write.method);
                return Err(Error::new(ErrorKind::Protocol, why));
            }
            let next = redirect::target(&url, answer.headers())?;
            discard(answer).await;
            if !redirect::same_origin(&url, &next) {
                headers.remove(header::AUTHORIZATION);
            }
            url = next;
        }
        let why = format!("{} redirects more than {} times in a row", Shown(start), redirect::MAX_HOPS);
        Err(Error::new(ErrorKind::Protocol, why))
    }

    async fn written(
        &self,
        endpoint: &Endpoint,
        answer: Response,
        url: &Url,
        scope: &Scope,
    ) -> Result<WriteResponse, Error> {
        let status = answer.status();
        let kind = match status.as_u16() {
            401 => Some(ErrorKind::Unauthorized),
            // Our own proxy wants to know who asks.
            407 => Some(ErrorKind::Unavailable),
            508 => Some(ErrorKind::Loop),
            _ => None,
        };
        if let Some(kind) = kind {
            let error = Error::new(kind, format!("{} answered {status}", Shown(url))).retry_after(answer.headers());
            if status != StatusCode::UNAUTHORIZED {
                discard(answer).await;
                return Err(error);
            }
            let Said { reasons, .. } = Said::of(&response::body_of_refusal(answer, url).await);
            return Err(error.in_words(Refusal { status: status.as_u16(), reasons }));
        }
        let theirs = answer.headers();
        let warnings = self.without_private(ContentNotes::of(theirs), scope).await.warnings;
        let headers = PASSED_ON
            .iter()
            .flat_map(|name| theirs.get_all(name).iter().map(|value| (name.clone(), value.clone())))
            .chain(warnings.into_iter().map(|warning| (header::WARNING, warning)))
            .collect();
        let location = match theirs.get(header::LOCATION) {
            // Where a blob or a manifest is, is told by the path; nobody goes to the host.
            Some(location) if status == StatusCode::CREATED => path_of(url, location),
            Some(location) if status.is_success() => Some(own(endpoint.base(), url, location)?),
            Some(location) => own(endpoint.base(), url, location).ok(),
            None => None,
        };
        let body = whole_body(answer, url, MAX_ANSWER).await.map_err(|error| match error.kind {
            ErrorKind::TooLarge => Error::new(ErrorKind::Protocol, error.to_string()),
            _ => error,
        })?;
        // What goes with a success says nothing.
        let reasons = match status.is_client_error() || status.is_server_error() {
            true => Said::within(&body, Most::OF_PUSH).reasons,
            false => vec![],
        };
        let Refusal { reasons, .. } =
            self.reasons_for_clients(Refusal { status: status.as_u16(), reasons }, scope).await;
        Ok(WriteResponse { status, headers, location, reasons })
    }
}

fn refused_password(url: &Url) -> Error {
    Error::new(ErrorKind::OurCredentials, format!("{} refuses forebay's own password", Shown(url)))
}

/// Whether an answer shows that the credential was taken: it is of success, or about what was sent.
fn is_about_content(status: StatusCode) -> bool {
    status.is_success()
        || status.is_redirection()
        || (status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 408 | 421 | 429))
}

/// What other refusals than a 401 say of a client's password.
fn judge_refusal(authorization: &Authorization, status: StatusCode) {
    match status {
        StatusCode::FORBIDDEN => authorization.judge(Some(ErrorKind::Denied)),
        StatusCode::NOT_FOUND => authorization.judge(Some(ErrorKind::NotFound)),
        _ => {}
    }
}

impl WriteRequest<'_> {
    /// What a token for it is for.
    pub(super) fn scope(&self) -> Scope {
        match &self.action {
            WriteAction::Push { from } => Scope::Push { repository: self.repository.clone(), from: from.clone() },
            WriteAction::Delete => Scope::Delete(self.repository.clone()),
        }
    }

    /// Whether it is made without its mount after such an answer, which then says nothing of a password, a client's or forebay's own:
    /// the next answer does.
    fn goes_on_after(&self, status: StatusCode) -> bool {
        matches!(self.action, WriteAction::Push { from: Some(_) }) && is_refused(status)
    }
}

/// The upload that begins where a blob cannot be mounted. Who may push here and not read there is told by a registry to
/// send the content; some say 401 to all of it instead, which clients take for the end.
///
/// Source: OCI distribution specification v1.1, "Mounting a blob from another repository".
fn without_mount<'a>(write: &WriteRequest<'a>, url: &Url) -> Option<(WriteRequest<'a>, Url)> {
    let WriteAction::Push { from: Some(_) } = &write.action else { return None };
    let rest: Vec<_> = url.query_pairs().filter(|(key, _)| !matches!(&**key, "mount" | "from")).collect();
    let mut plain = url.clone();
    plain.set_query(None);
    if !rest.is_empty() {
        plain.query_pairs_mut().extend_pairs(rest);
    }
    Some((WriteRequest { action: WriteAction::Push { from: None }, ..write.clone() }, plain))
}

fn is_refusal(answered: &Result<Response, Error>) -> bool {
    match answered {
        Ok(answer) => is_refused(answer.status()),
        Err(error) => matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied),
    }
}

fn authorized(headers: &HeaderMap, authorization: Option<&Authorization>) -> HeaderMap {
    let mut headers = headers.clone();
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization.value.clone());
    }
    headers
}

/// The URL of an upload on the origin of `base`: whatever `target` says, it leads nowhere else.
///
/// # Errors
/// `target` is no path.
pub fn session(base: &Url, target: &str) -> Result<Url, Error> {
    let nonsense = || Error::new(ErrorKind::NotFound, "the upload's place is no path");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !path.starts_with('/') {
        return Err(nonsense());
    }
    let mut url = base.clone();
    url.set_path(path);
    url.set_query(query);
    url.set_fragment(None);
    if redirect::same_origin(&url, base) { Ok(url) } else { Err(nonsense()) }
}

/// Path and query of a `Location` that must be on the upstream's own origin.
///
/// A registry behind a proxy that does TLS for it may call itself by http: it is asked as it was configured.
///
/// # Errors
/// It is elsewhere, no URL, or too long.
pub fn own(base: &Url, asked: &Url, location: &HeaderValue) -> Result<String, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::Protocol, format!("{} has an upload go on {why}", Shown(asked)));
    let url = location.to_str().ok().and_then(|location| asked.join(location).ok());
    let url = url.ok_or_else(|| refuse("at something that is not a URL"))?;
    let same_name = url.host() == base.host();
    let renamed =
        same_name && url.scheme() == "http" && base.scheme() == "https" && matches!(url.port(), None | Some(443));
    if !redirect::same_origin(&url, base) && !renamed {
        return Err(refuse("at another host, which is not asked"));
    }
    let target = path_and_query(&url);
    if target.len() > MAX_SESSION {
        return Err(refuse("at a place with too long a name"));
    }
    Ok(target)
}

fn path_of(asked: &Url, location: &HeaderValue) -> Option<String> {
    let url = asked.join(location.to_str().ok()?).ok()?;
    Some(path_and_query(&url))
}

fn path_and_query(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn an_upload_goes_on_at_the_upstream_itself_or_not_at_all() {
        let (base, asked) = (url("https://ghcr.io/p"), url("https://ghcr.io/p/v2/a/blobs/uploads/"));
        for (location, target) in [
            ("/p/v2/a/blobs/uploads/1?_state=a%2Fb", Some("/p/v2/a/blobs/uploads/1?_state=a%2Fb")),
            ("https://ghcr.io/u/1", Some("/u/1")),
            ("https://GHCR.io:443/u/1", Some("/u/1")),
            ("1", Some("/p/v2/a/blobs/uploads/1")),
            ("?x", Some("/p/v2/a/blobs/uploads/?x")),
            ("http://ghcr.io/u/1", Some("/u/1")),
            ("http://ghcr.io:443/u/1", Some("/u/1")),
            ("http://ghcr.io:8080/u/1", None),
            ("https://evil.example/u/1", None),
            ("//evil.example/u/1", None),
            ("https://ghcr.io:8443/u/1", None),
            ("https://169.254.169.254/", None),
            ("ftp://ghcr.io/u/1", None),
            ("https://[", None),
        ] {
            let found = own(&base, &asked, &HeaderValue::from_str(location).unwrap());
            assert_eq!(found.ok().as_deref(), target, "{location}");
        }
        let long = HeaderValue::from_str(&"x".repeat(MAX_SESSION)).unwrap();
        assert!(own(&base, &asked, &long).is_err());
    }

    #[test]
    fn the_place_of_an_upload_leads_nowhere_else() {
        let base = url("https://ghcr.io/p");
        for (target, expected) in [
            (
                "/v2/a/blobs/uploads/1?_state=a%2Fb&digest=x",
                Some("https://ghcr.io/v2/a/blobs/uploads/1?_state=a%2Fb&digest=x"),
            ),
            ("//evil.example/u", Some("https://ghcr.io//evil.example/u")),
            ("/@evil.example/u", Some("https://ghcr.io/@evil.example/u")),
            ("evil", None),
            ("", None),
        ] {
            assert_eq!(session(&base, target).ok().as_ref().map(Url::as_str), expected, "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_place_is_on_the_same_origin(target in "[ -~]{0,40}") {
            let base = url("https://ghcr.io");
            if let Ok(url) = session(&base, &target) {
                assert!(redirect::same_origin(&url, &base) && url.username().is_empty() && url.password().is_none());
            }
        }
    }
}
