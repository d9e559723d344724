//! The token realm of a registry.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::users::basic;

use super::{
    Answer, Seen,
    dialect::{Dialect, Post, Realm, Refusal},
    registry::Registry,
};

/// What a token allows.
pub(super) struct Grant {
    pub token: String,
    /// Repository and action.
    pub allowed: Vec<(String, String)>,
}

impl Registry {
    pub(super) fn token(&mut self, realm: &Realm, seen: &Seen) -> Answer {
        let posted = seen.method == "POST";
        let one = |name| seen.parameter(name).into_iter().next();
        if posted && let Post::Unknown(status) = realm.post {
            return Answer::new(status, "no such grant");
        }
        if one("service").as_deref() != realm.service {
            return Answer::new(400, r#"{"error":"invalid_service"}"#);
        }
        let user = match (posted, seen.header("authorization")) {
            (true, _) => match realm.post {
                Post::Refresh { token, .. } if one("refresh_token").as_deref() == Some(token) => Some("refresh"),
                Post::Refresh { password, .. } if one("grant_type").as_deref() == Some("password") => {
                    return Answer::new(password, r#"{"error":"unsupported_grant_type"}"#);
                }
                _ => return realm.wrong_password.into(),
            },
            (false, None) => None,
            (false, Some(shown)) => match user(&self.dialect, shown) {
                Some(user) if one("account").is_none_or(|account| account == user) => Some(user),
                _ => return realm.wrong_password.into(),
            },
        };
        let mut allowed = Vec::new();
        for scope in seen.parameter("scope").iter().flat_map(|scope| scope.split(' ')) {
            let Some((repository, actions)) = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'))
            else {
                return Answer::new(400, r#"{"error":"invalid_scope"}"#);
            };
            let Dialect { public, private, empty, .. } = self.dialect;
            let may = public.contains(&repository)
                || (user.is_some() && (private.contains(&repository) || empty.contains(&repository)));
            if !may
                && user.is_none()
                && let Some(refusal) = realm.nameless
            {
                return refusal.into();
            }
            let read = ["pull", "metadata_read"];
            let is_granted = |action: &&str| may && (read.contains(action) || user.is_some());
            let granted = actions.split(',').filter(is_granted);
            allowed.extend(granted.map(|action| (repository.to_owned(), action.to_owned())));
        }
        let number = self.next();
        let token = format!("{}-token-{number}", self.dialect.name);
        self.grants.push(Grant { token: token.clone(), allowed });
        let mut answer = json!({ "expires_in": 300 });
        for field in realm.fields {
            answer[*field] = token.clone().into();
        }
        Answer::new(200, answer.to_string()).with("content-type", "application/json")
    }
}

/// Who this value of an Authorization header proves to be.
pub(super) fn user(dialect: &Dialect, shown: &str) -> Option<&'static str> {
    let proves = |(name, password): &&(&str, &str)| shown == basic(name, password);
    dialect.users.iter().find(proves).map(|(name, _)| *name)
}

/// Whether the name in it is one of this registry's, whatever the password.
pub(super) fn is_of(dialect: &Dialect, shown: &str) -> bool {
    let pair = shown.strip_prefix("Basic ").and_then(|pair| STANDARD.decode(pair).ok()).unwrap_or_default();
    let pair = String::from_utf8_lossy(&pair);
    pair.split_once(':').is_some_and(|(name, _)| dialect.users.iter().any(|(user, _)| *user == name))
}

impl From<Refusal> for Answer {
    fn from(Refusal(status, body): Refusal) -> Self {
        Self::new(status, body).with("content-type", "application/json")
    }
}
