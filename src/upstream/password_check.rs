//! Whether a refusal is about forebay's own password, or about the request.

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::{
    auth::Authorization,
    client::{body::discard, follow_redirects::FinalResponse},
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    read_request::ReadRequest,
    response::{self, RequestKind},
    state::UpstreamState,
};
use crate::oci::Operation;

/// Whether a status may refuse the credential.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Whether an error is about the content, and not about the credential.
fn is_about_content(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Rejected { .. } | ErrorKind::RangeNotSatisfiable { .. })
}

impl UpstreamState {
    /// Checks a response to forebay's own password, and notes what it says about the password.
    pub(super) async fn check_password(
        &self,
        endpoint: &Endpoint,
        request: &ReadRequest,
        sent: &Authorization,
        followed: FinalResponse,
    ) -> Result<FinalResponse, Error> {
        let (status, is_other_origin) = (followed.response.status(), followed.is_other_origin);
        let mut result = self.check(endpoint, followed, request, Some(sent)).await;
        let kind = result.as_ref().err().map(|error| error.kind);
        // A refusal of a HEAD without the registry's header may be a page: a GET follows.
        let is_refused =
            !is_other_origin && is_refusal(status) && matches!(kind, Some(ErrorKind::Unauthorized | ErrorKind::Denied));
        let is_granted = kind.is_none() || is_other_origin;
        if is_granted || (!is_refused && kind.is_some_and(is_about_content)) {
            self.authenticator.note_accepted(sent);
            if is_granted && matches!(request.operation, Operation::Manifest | Operation::Blob) {
                self.authenticator.note_granted_path(&request.path_and_query);
            }
        }
        if is_refused
            && let Err(error) = &mut result
            && Box::pin(self.refuses_password(endpoint, sent, status)).await?
        {
            error.kind = ErrorKind::OurCredentials;
        }
        result
    }

    /// Whether a 401 or 403 refuses forebay's own password, and not the request. Notes a refused password. Of requests
    /// that are refused together, one verifies.
    ///
    /// # Errors
    /// The base cannot be asked, which says nothing about the password.
    pub(super) async fn refuses_password(
        &self,
        endpoint: &Endpoint,
        sent: &Authorization,
        status: StatusCode,
    ) -> Result<bool, Error> {
        let since = Instant::now();
        let _turn = self.authenticator.verification_turn().await;
        if self.authenticator.had_unrelated_refusal(since) {
            return Ok(false);
        }
        if self.authenticator.is_withheld(sent) {
            self.authenticator.note_refused_by_repository(sent).await;
            return Ok(true);
        }
        match self.verify_password(endpoint, sent, status).await? {
            PasswordVerdict::Refused => {
                self.authenticator.note_refused(sent).await;
                Ok(true)
            }
            PasswordVerdict::RefusedByRepository => {
                self.authenticator.note_refused_by_repository(sent).await;
                Ok(true)
            }
            PasswordVerdict::Accepted => {
                self.authenticator.note_accepted(sent);
                self.authenticator.note_unrelated_refusal();
                Ok(false)
            }
            PasswordVerdict::Unknown => {
                self.authenticator.note_unrelated_refusal();
                Ok(false)
            }
        }
    }

    /// The base tells whether the password is right, by a 401. A base that answers 403 may do so to each request: it
    /// refuses the password if it challenges requests without one, or, for a password that was accepted before, if the
    /// content that was last served for it is refused, too. A base that is open to all tells nothing: then a 401 of the
    /// repository counts, until a password was accepted.
    async fn verify_password(
        &self,
        endpoint: &Endpoint,
        sent: &Authorization,
        status: StatusCode,
    ) -> Result<PasswordVerdict, Error> {
        let was_accepted = self.authenticator.was_accepted(sent);
        let is_from_base = status == StatusCode::UNAUTHORIZED && sent.is_login();
        let refusal = match is_from_base {
            true => Some(ErrorKind::Unauthorized),
            false => self.base_refusal(endpoint, Some(sent)).await?,
        };
        let refused_if = |is_refused| if is_refused { PasswordVerdict::Refused } else { PasswordVerdict::Unknown };
        Ok(match refusal {
            Some(ErrorKind::Unauthorized) => PasswordVerdict::Refused,
            Some(ErrorKind::Denied) => match self.authenticator.granted_path().filter(|_| was_accepted) {
                Some(path) => refused_if(self.is_path_refused(endpoint, sent, &path).await?),
                None => refused_if(self.base_refusal(endpoint, None).await? == Some(ErrorKind::Unauthorized)),
            },
            Some(_) | None if was_accepted => PasswordVerdict::Unknown,
            None | Some(ErrorKind::NotFound | ErrorKind::Foreign { status: 404 })
                if self.base_refusal(endpoint, None).await? == Some(ErrorKind::Unauthorized) =>
            {
                PasswordVerdict::Accepted
            }
            Some(_) | None if status == StatusCode::UNAUTHORIZED && sent.repository().is_some() => {
                PasswordVerdict::RefusedByRepository
            }
            Some(_) | None => PasswordVerdict::Unknown,
        })
    }

    /// Whether the content that was last served for the password is refused now.
    async fn is_path_refused(&self, endpoint: &Endpoint, sent: &Authorization, path: &str) -> Result<bool, Error> {
        let request = ReadRequest { method: Method::HEAD, path_and_query: path.to_owned(), ..ReadRequest::base(None) };
        let followed = self.send(endpoint, &request, Some(sent)).await?;
        Ok(!followed.is_other_origin && is_refusal(followed.response.status()))
    }

    /// How the base refuses a request; `None`: it does not.
    async fn base_refusal(
        &self,
        endpoint: &Endpoint,
        authorization: Option<&Authorization>,
    ) -> Result<Option<ErrorKind>, Error> {
        let followed = self.send(endpoint, &ReadRequest::base(None), authorization).await?;
        let kind = RequestKind { any_type: true, ..RequestKind::default() };
        match response::check(followed, kind).await {
            Ok(followed) => {
                discard(followed.response).await;
                Ok(None)
            }
            Err(error) if error.kind.is_outage() && !matches!(error.kind, ErrorKind::Foreign { .. }) => Err(error),
            // A page of a proxy says nothing about a password, but is an answer.
            Err(error) => Ok(Some(error.kind)),
        }
    }
}

/// What the base says about a password.
enum PasswordVerdict {
    Accepted,
    Refused,
    /// This repository refuses it, and the base tells nothing.
    RefusedByRepository,
    /// The refusal is about the request.
    Unknown,
}
