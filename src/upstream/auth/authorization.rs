//! An Authorization header, and what forebay notes when the upstream has responded to it.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::{
    super::{Verdict, error::ErrorKind, principal::PrincipalVerdict},
    credential::Credential,
    credential_trial::TrialTurn,
    scope::Scope,
    token::{Token, TokenKey},
};
use crate::oci::Repository;

/// The value of an Authorization header, and where it comes from.
pub(in crate::upstream) struct Authorization {
    pub value: HeaderValue,
    pub(super) origin: Origin,
}

/// Where the value of an Authorization header comes from.
pub(super) enum Origin {
    /// A token from a realm; `verdict`: on the client's password that forebay sent to the realm.
    Token { key: Box<TokenKey>, token: Token, verdict: Option<PrincipalVerdict> },
    /// forebay's own password, sent in a request for `scope`.
    OwnPassword { credential: Arc<Credential>, turn: Option<TrialTurn>, scope: Scope },
    /// A client's password. After its request, forebay keeps only the verdict.
    ClientPassword(PrincipalVerdict),
}

impl Authorization {
    /// Whether it is a token, as opposed to a password.
    pub(in crate::upstream) fn is_token(&self) -> bool {
        matches!(self.origin, Origin::Token { .. })
    }

    /// What its token was issued for, if it is a token.
    pub(in crate::upstream) fn token(&self) -> Option<&TokenKey> {
        match &self.origin {
            Origin::Token { key, .. } => Some(key),
            Origin::OwnPassword { .. } | Origin::ClientPassword(_) => None,
        }
    }

    /// Whether it is forebay's own password.
    pub(in crate::upstream) fn is_own_password(&self) -> bool {
        matches!(self.origin, Origin::OwnPassword { .. })
    }

    /// The repository, if it is forebay's own password in a request for one.
    pub(in crate::upstream) fn repository(&self) -> Option<&Repository> {
        match &self.origin {
            Origin::OwnPassword { scope, .. } => scope.repository(),
            Origin::Token { .. } | Origin::ClientPassword(_) => None,
        }
    }

    /// Whether it is forebay's own password in a request for the base.
    pub(in crate::upstream) fn is_login(&self) -> bool {
        matches!(&self.origin, Origin::OwnPassword { scope: Scope::Login, .. })
    }

    /// The same Authorization for a request whose response takes long: no other request waits for it.
    pub(in crate::upstream) fn without_turn(mut self) -> Self {
        if let Origin::OwnPassword { turn, .. } = &mut self.origin {
            *turn = None;
        }
        self
    }

    /// Whether it is a client's password, which cannot be read again.
    pub(in crate::upstream) fn is_clients_password(&self) -> bool {
        matches!(self.origin, Origin::ClientPassword(_))
    }

    /// Whether it is a client's password that the upstream has not accepted yet, or a token for one: some realms issue
    /// a token for any password.
    pub(in crate::upstream) fn may_be_guess(&self) -> bool {
        self.verdict().is_some_and(|verdict| !verdict.is_accepted())
    }

    /// Whether it is a token that was obtained before this moment.
    pub(in crate::upstream) fn was_obtained_before(&self, moment: Instant) -> bool {
        matches!(&self.origin, Origin::Token { token, .. } if token.obtained() < moment)
    }

    /// Notes a response's verdict on a client's password. `error`: the error of the response; `None`: success. The
    /// upstream refused the same request without the password.
    ///
    /// A registry may answer 403 or 404 to a wrong password. If it has accepted the password before, such a response
    /// has another reason. A 404 to a token is never about the password: a push gets one for each blob that it has yet
    /// to send.
    pub(in crate::upstream) fn judge(&self, error: Option<ErrorKind>) {
        let Some(verdict) = self.verdict() else { return };
        let may_refuse_password = |kind| match self.origin {
            Origin::Token { .. } => matches!(kind, ErrorKind::Unauthorized | ErrorKind::Denied),
            Origin::OwnPassword { .. } | Origin::ClientPassword(_) => may_refuse_password(kind),
        };
        match error {
            None => verdict.note(Verdict::Accepted),
            Some(kind) if may_refuse_password(kind) && !verdict.is_accepted() => verdict.note(Verdict::Refused),
            Some(_) => {}
        }
    }

    /// Where the verdict on a client's password is noted.
    fn verdict(&self) -> Option<&PrincipalVerdict> {
        match &self.origin {
            Origin::Token { verdict, .. } => verdict.as_ref(),
            Origin::OwnPassword { .. } => None,
            Origin::ClientPassword(verdict) => Some(verdict),
        }
    }
}

/// Whether an error may mean that the password in the request is wrong.
fn may_refuse_password(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Unauthorized
        | ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Unsupported
        | ErrorKind::Rejected { .. }
        | ErrorKind::Foreign { .. }
        | ErrorKind::Protocol => true,
        ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Exhausted
        | ErrorKind::Paused
        | ErrorKind::OurCredentials
        | ErrorKind::TooManyRequests
        | ErrorKind::TooLarge
        | ErrorKind::Loop
        | ErrorKind::RangeNotSatisfiable { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::Url;

    use super::*;
    use crate::upstream::auth::{credential::Secret, token::TokenSubject};

    fn verdict(accepted_before: bool) -> PrincipalVerdict {
        let verdict = PrincipalVerdict::default();
        if accepted_before {
            verdict.note_accepted_before();
        }
        verdict
    }

    fn client_password(accepted_before: bool) -> (Authorization, PrincipalVerdict) {
        let verdict = verdict(accepted_before);
        let origin = Origin::ClientPassword(verdict.clone());
        (Authorization { value: HeaderValue::from_static("Basic YTpi"), origin }, verdict)
    }

    fn token(verdict: Option<PrincipalVerdict>) -> Authorization {
        let realm = Url::parse("https://auth.example/token").unwrap();
        let key = Box::new(TokenKey { subject: TokenSubject::Anonymous, realm, service: None, scope: Scope::Login });
        let token = Token::new("t", Duration::from_secs(60)).unwrap();
        Authorization { value: token.authorization(), origin: Origin::Token { key, token, verdict } }
    }

    #[test]
    fn a_response_gives_the_verdict_on_a_clients_password() {
        for (error, first, later) in [
            (None, Verdict::Accepted, Verdict::Accepted),
            (Some(ErrorKind::Unauthorized), Verdict::Refused, Verdict::Unknown),
            (Some(ErrorKind::Denied), Verdict::Refused, Verdict::Unknown),
            (Some(ErrorKind::NotFound), Verdict::Refused, Verdict::Unknown),
            (Some(ErrorKind::Protocol), Verdict::Refused, Verdict::Unknown),
            (Some(ErrorKind::Unavailable), Verdict::Unknown, Verdict::Unknown),
            (Some(ErrorKind::Timeout), Verdict::Unknown, Verdict::Unknown),
            (Some(ErrorKind::TooManyRequests), Verdict::Unknown, Verdict::Unknown),
        ] {
            for (accepted_before, expected) in [(false, first), (true, later)] {
                let (authorization, verdict) = client_password(accepted_before);
                authorization.judge(error);
                assert_eq!(verdict.verdict(), expected, "{error:?} {accepted_before}");
            }
        }
    }

    #[test]
    fn a_response_to_a_token_gives_the_verdict_on_its_password() {
        for (error, first, later) in [
            (None, Verdict::Accepted, Verdict::Accepted),
            (Some(ErrorKind::Unauthorized), Verdict::Refused, Verdict::Unknown),
            (Some(ErrorKind::Denied), Verdict::Refused, Verdict::Unknown),
            (Some(ErrorKind::NotFound), Verdict::Unknown, Verdict::Unknown),
            (Some(ErrorKind::Protocol), Verdict::Unknown, Verdict::Unknown),
            (Some(ErrorKind::Unavailable), Verdict::Unknown, Verdict::Unknown),
        ] {
            for (accepted_before, expected) in [(false, first), (true, later)] {
                let verdict = verdict(accepted_before);
                let authorization = token(Some(verdict.clone()));
                assert_eq!(authorization.may_be_guess(), !accepted_before);
                authorization.judge(error);
                assert_eq!(verdict.verdict(), expected, "{error:?} {accepted_before}");
            }
        }
    }

    #[test]
    fn a_clients_password_may_be_a_guess_until_it_was_accepted() {
        let ((new, _), (known, _), token) = (client_password(false), client_password(true), token(None));
        let kind = |of: &Authorization| (of.is_token(), of.is_clients_password(), of.may_be_guess());
        assert_eq!((kind(&new), kind(&known)), ((false, true, true), (false, true, false)));
        assert_eq!(kind(&token), (true, false, false));
        let credential = Arc::new(Credential::Password { username: "a".into(), password: Secret::new("b".into()) });
        let origin = Origin::OwnPassword { credential, turn: None, scope: Scope::Login };
        let own = Authorization { value: HeaderValue::from_static("Basic YTpi"), origin };
        assert_eq!(kind(&own), (false, false, false));
        assert!(own.is_own_password() && !new.is_own_password() && !token.is_own_password());
    }
}
