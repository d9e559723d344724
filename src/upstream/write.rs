//! Requests that change something at the upstream: uploads, manifests, deletions.
//!
//! What must hold: a body is sent once, so its token is fetched by a request without one; all writes go to the first of
//! the upstream's URLs, since two registries that get writes in turn soon differ; an upload continues on that URL's own
//! origin, whatever the upstream says. The response is the upstream's own, also a refusal; only what is between the
//! upstream and forebay (401, a loop, a redirect) becomes an error.

mod attempt;
mod response;
mod upload;
pub mod upload_location;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};

use self::attempt::WriteAttempt;
use super::{
    ClientCredential, Upstream,
    auth::scope::Scope,
    client::body::discard,
    error::{Error, ErrorKind},
    password_check::is_refusal,
    response::refusal::Reason,
    state::UpstreamState,
    upload_body::UploadBody,
};
use crate::oci::Repository;

/// A change to be made.
#[derive(Clone, Debug)]
pub struct WriteRequest<'a> {
    pub method: Method,
    pub repository: &'a Repository,
    pub target: WriteTarget,
    pub action: WriteAction,
    /// Content-Type, Content-Range and the like; the body tells the Content-Length.
    pub headers: HeaderMap,
}

/// The URL of a change.
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
    /// To push; `from`: to read the repository that a blob is mounted from, too.
    Push {
        from: Option<Repository>,
    },
    Delete,
}

/// The upstream's response to a change.
#[derive(Debug)]
pub struct WriteResponse {
    pub status: StatusCode,
    /// The headers that the specification names, without Location and Content-Length.
    pub headers: HeaderMap,
    /// The path and query of `Location`.
    pub location: Option<String>,
    /// Why the upstream refuses, as far as clients may read it.
    pub reasons: Vec<Reason>,
}

impl WriteResponse {
    /// Whether the change was made.
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// Why the upstream could not answer, if this says so: the client gets the response as it is.
    pub(crate) fn outage(&self) -> Option<Error> {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::TooManyRequests,
            status if status.is_server_error() => ErrorKind::Unavailable,
            _ => return None,
        };
        Some(Error::new(kind, format!("the upstream answered {} to a change", self.status.as_u16())))
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Whether there is new content, at `location`. Otherwise that is the location of an upload.
    pub(crate) fn is_created(&self) -> bool {
        self.status == StatusCode::CREATED
    }
}

impl Upstream {
    /// Makes a change, with the body that the client sends for it. A response of any status is a success; it is an
    /// error if the upstream cannot be reached, or requires other credentials.
    pub async fn write(
        &self,
        mut write: WriteRequest<'_>,
        content: Option<UploadBody>,
    ) -> Result<WriteResponse, Error> {
        if let Some(via) = self.via.header()? {
            write.headers.insert(header::VIA, via.clone());
        }
        let scope = write.scope();
        let client = self.client.as_deref();
        let result = self.state.write(write, &scope, client, content).await;
        match &result {
            Ok(response) => response.outage().iter().for_each(|error| self.state.failures.note(error)),
            Err(error) => self.state.failures.note(error),
        }
        result.map_err(|error| self.state.error_for_clients(error, &scope))
    }
}

impl UpstreamState {
    async fn write(
        &self,
        request: WriteRequest<'_>,
        scope: &Scope,
        client: Option<&ClientCredential>,
        content: Option<UploadBody>,
    ) -> Result<WriteResponse, Error> {
        let none = || Error::new(ErrorKind::Unavailable, "the upstream has no URL");
        let endpoint = self.endpoints.first().ok_or_else(none)?;
        let url = match &request.target {
            WriteTarget::Path(rest) => endpoint.url(rest)?,
            WriteTarget::UploadSession(target) => upload_location::url_of(endpoint.base(), target)?,
        };
        let attempt = WriteAttempt { endpoint, cause: self.cause(scope, client), request, url: url.clone() };
        let response = match content {
            Some(content) => Box::pin(self.write_with_content(attempt, content)).await?,
            None => Box::pin(self.write_or_upload(attempt, client)).await?,
        };
        self.write_response(endpoint, response, &url, scope).await
    }

    /// Makes a change without content. A refused mount becomes the start of an upload.
    async fn write_or_upload(
        &self,
        attempt: WriteAttempt<'_>,
        client: Option<&ClientCredential>,
    ) -> Result<Response, Error> {
        let (endpoint, upload) = (attempt.endpoint, without_mount(&attempt.request, &attempt.url));
        let result = Box::pin(self.write_without_content(attempt)).await;
        match upload {
            Some((request, url)) if may_be_refused_mount(&result) => {
                if let Ok(response) = result {
                    discard(response).await;
                }
                let scope = Scope::Push { repository: request.repository.clone(), from: None };
                let attempt = WriteAttempt { endpoint, cause: self.cause(&scope, client), request, url };
                Box::pin(self.write_without_content(attempt)).await
            }
            _ => result,
        }
    }
}

impl WriteRequest<'_> {
    /// The scope of its token.
    pub(super) fn scope(&self) -> Scope {
        match &self.action {
            WriteAction::Push { from } => Scope::Push { repository: self.repository.clone(), from: from.clone() },
            WriteAction::Delete => Scope::Delete(self.repository.clone()),
        }
    }

    /// Whether an upload follows instead of the mount. Then the refusal says nothing about a password: the next
    /// response does.
    fn is_refused_mount(&self, status: StatusCode) -> bool {
        matches!(self.action, WriteAction::Push { from: Some(_) }) && is_refusal(status)
    }

    /// Some load balancers answer 411 without a length.
    fn set_empty_length(&mut self) {
        if matches!(self.method, Method::POST | Method::PUT | Method::PATCH) {
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
}

/// The upload that starts if a blob cannot be mounted. A client that may push here, and not read there, gets a 202 by
/// the specification, to send the content; some registries answer 401 instead, which clients take as final.
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

fn may_be_refused_mount(result: &Result<Response, Error>) -> bool {
    match result {
        Ok(response) => is_refusal(response.status()),
        Err(error) => matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied),
    }
}
