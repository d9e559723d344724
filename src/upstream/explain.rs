//! The `HEAD` of a manifest step by step, for an operator who wants to know why a pull is slow or fails.
//!
//! What must hold: it sends what a client's `HEAD` sends, to the same URLs in the same order and by the same checks; a probe of
//! the connection comes before. It notes no failure of a URL: an operator's question makes no outage.

use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Upstream,
    auth::{
        Authorization,
        token::{TokenKey, TokenSubject},
    },
    client::{follow_redirects::FinalResponse, probe::Probe},
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    failover::Attempts,
    head,
    read_request::ReadRequest,
    redacted_url::RedactedUrl,
    state::UpstreamState,
    with_authorization::FirstResponse,
};
use crate::oci::{Accept, Digest, MediaType, Reference, Repository};

/// A step that has ended.
#[derive(Clone, Debug)]
pub enum ExplainedStep {
    /// A connection to one of the URLs was tried.
    Connection {
        url: String,
        probe: Probe,
        error: Option<Error>,
    },
    Authorization(ExplainedAuthorization),
    /// The last one for a URL: its answer to the `HEAD`, or why there is none.
    Head {
        took: Duration,
        result: Result<ExplainedHead, Error>,
    },
}

/// What a request is sent with.
#[derive(Clone, Debug)]
pub struct ExplainedAuthorization {
    pub took: Duration,
    /// `None` for a password.
    pub token: Option<ExplainedToken>,
    /// Why there is none.
    pub error: Option<Error>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedToken {
    /// Where tokens are had.
    pub realm: String,
    pub scope: String,
    /// The realm got no credentials.
    pub is_anonymous: bool,
    /// It was there already.
    pub is_cached: bool,
}

/// A `HEAD` that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedHead {
    pub status: u16,
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
}

impl ExplainedHead {
    /// Its media type as text.
    pub(crate) fn type_text(&self) -> Option<String> {
        self.media_type.as_ref().map(ToString::to_string)
    }
}

impl ErrorKind {
    /// The status of the upstream's answer, where it tells it.
    pub(crate) fn upstream_status(self) -> Option<u16> {
        match self {
            Self::NotFound => Some(404),
            Self::Unauthorized => Some(401),
            Self::Denied => Some(403),
            Self::TooManyRequests => Some(429),
            Self::Loop => Some(508),
            Self::Unsupported => Some(405),
            Self::RangeNotSatisfiable { .. } => Some(416),
            Self::Foreign { status } | Self::Rejected { status } => Some(status),
            Self::OurCredentials
            | Self::Unavailable
            | Self::Timeout
            | Self::Exhausted
            | Self::Paused
            | Self::TooLarge
            | Self::Protocol => None,
        }
    }
}

impl Upstream {
    /// forebay's own user name at the upstream, if it is known.
    pub(crate) fn account(&self) -> Option<String> {
        self.state.authenticator.account()
    }

    /// The same, if the configuration has it.
    pub(crate) fn configured_account(&self) -> Option<&str> {
        self.state.authenticator.configured_account()
    }

    /// Where forebay's own credentials are: a file, or the program that has them.
    pub(crate) fn credential_place(&self) -> Option<String> {
        self.state.authenticator.credential_place()
    }

    /// Sends the `HEAD` of a manifest, and hands each step to `tell`.
    ///
    /// # Errors
    /// Those of [`Upstream::head_manifest`].
    pub(crate) async fn explain_manifest<T: Future<Output = ()>>(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
        tell: impl Fn(ExplainedStep) -> T,
    ) -> Result<ExplainedHead, Error> {
        let state = &self.state;
        state.pause.admit(state.name())?;
        let request = &self.prepare(ReadRequest::manifest(Method::HEAD, repository, reference, accept))?;
        let mut attempts = Attempts::new(&state.endpoints, true);
        loop {
            let endpoint = attempts.next()?;
            let (probe, connected) = state.sender.probe(endpoint.base()).await;
            let url = RedactedUrl(endpoint.base()).to_string();
            tell(ExplainedStep::Connection { url, probe, error: connected.clone().err() }).await;
            let result = match connected {
                Ok(()) => Box::pin(state.explain_at(endpoint, request, &tell)).await,
                Err(error) => Err(error),
            };
            if let Some(result) = attempts.settle(endpoint, result) {
                return result;
            }
        }
    }
}

/// Where the requests to one URL are, and since when.
#[derive(Clone, Copy)]
enum Phase {
    /// forebay looks for what the request is to be sent with.
    Authorization(Instant),
    Head(Instant),
}

impl UpstreamState {
    async fn explain_at<T: Future<Output = ()>>(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        tell: &impl Fn(ExplainedStep) -> T,
    ) -> Result<ExplainedHead, Error> {
        let cause = self.cause(&request.scope, request.client.as_deref());
        let phase = &Mutex::new(Phase::Authorization(Instant::now()));
        let first = |authorization: Option<Authorization>| async move {
            if let Some(authorization) = &authorization {
                self.tell_authorization(phase, authorization, tell).await;
            }
            *phase.lock() = Phase::Head(Instant::now());
            let first = self.first_read(endpoint, request, authorization).await;
            if let Ok(FirstResponse::Challenge { .. }) = &first {
                *phase.lock() = Phase::Authorization(Instant::now());
            }
            first
        };
        let second = |authorization: Authorization| async move {
            self.tell_authorization(phase, &authorization, tell).await;
            *phase.lock() = Phase::Head(Instant::now());
            self.second_read(endpoint, request, authorization).await
        };
        let answered = self.in_time(endpoint, self.with_authorization(endpoint, cause, first, second)).await;
        let reached = *phase.lock();
        let took = match reached {
            Phase::Authorization(begun) => {
                let error = answered.as_ref().err().cloned();
                let authorization = ExplainedAuthorization { took: begun.elapsed(), token: None, error };
                tell(ExplainedStep::Authorization(authorization)).await;
                return answered.map(|followed| explained_head(&followed));
            }
            Phase::Head(begun) => begun.elapsed(),
        };
        let result = answered.map(|followed| explained_head(&followed));
        tell(ExplainedStep::Head { took, result: result.clone() }).await;
        result
    }

    async fn tell_authorization<T: Future<Output = ()>>(
        &self,
        phase: &Mutex<Phase>,
        authorization: &Authorization,
        tell: &impl Fn(ExplainedStep) -> T,
    ) {
        let reached = *phase.lock();
        // Another password than the first one was read meanwhile: it took no time of its own.
        let Phase::Authorization(begun) = reached else { return };
        let token = authorization.token().map(|key| explained_token(key, authorization, begun));
        let step = ExplainedAuthorization { took: begun.elapsed(), token, error: None };
        tell(ExplainedStep::Authorization(step)).await;
    }
}

fn explained_token(key: &TokenKey, authorization: &Authorization, begun: Instant) -> ExplainedToken {
    ExplainedToken {
        realm: RedactedUrl(&key.realm).to_string(),
        scope: key.scope.parameters().join(" "),
        is_anonymous: key.subject == TokenSubject::Anonymous,
        is_cached: authorization.was_obtained_before(begun),
    }
}

fn explained_head(followed: &FinalResponse) -> ExplainedHead {
    let headers = followed.response.headers();
    ExplainedHead {
        status: followed.response.status().as_u16(),
        digest: head::digest(headers),
        media_type: head::media_type(headers),
    }
}
