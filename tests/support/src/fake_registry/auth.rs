//! Authentication, and the token realm with its dialects.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, header};
use serde_json::json;

use crate::users::basic;

use super::{State, record::Record, serve::repository};

/// How the registry wants to be asked.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    #[default]
    Open,
    Basic {
        username: String,
        password: String,
    },
    /// As ECR: a wrong password is answered by 403.
    Forbidding {
        username: String,
        password: String,
    },
    Bearer(Bearer),
}

/// Tokens, and the dialect of the realm that issues them.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// Where the challenge says that tokens are had; `None`: the registry's own `/token`.
    pub realm: Option<String>,
    pub service: Option<String>,
    /// Whole WWW-Authenticate values, in place of the usual one. `REALM` in them is replaced.
    pub challenges: Vec<String>,
    /// User names and passwords that get a token, by GET or by POST.
    pub users: Vec<(String, String)>,
    /// User names (empty: anonymous) and the repositories that they may use; none: everybody all of them. A token for
    /// others is issued all the same, and is good for nothing.
    pub rights: Vec<(&'static str, &'static str)>,
    /// The identity token that gets a token by POST.
    pub refresh_token: Option<String>,
    /// What a wrong password is refused with, in the registry's words.
    pub wrong: u16,
    /// A part of the scopes that each user is refused with 401, as ACR does.
    pub refuse_scope: Option<&'static str>,
    /// Whether anyone at all gets a token.
    pub anonymous: bool,
    /// The status that GETs, and POSTs, are refused with; `None`: they are answered.
    pub refuse_get: Option<u16>,
    pub refuse_post: Option<u16>,
    /// The name under which the token stands in the answer.
    pub field: &'static str,
    pub expires_in: Option<u64>,
    /// How many bytes a token has beside its number.
    pub padding: usize,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            realm: None,
            service: Some("fake.registry".to_owned()),
            challenges: vec![],
            users: vec![],
            rights: vec![],
            refresh_token: None,
            wrong: 401,
            refuse_scope: None,
            anonymous: true,
            refuse_get: None,
            refuse_post: None,
            field: "token",
            expires_in: None,
            padding: 0,
        }
    }
}

const DENIED: &str = r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#;

/// Status, headers and body of an answer.
pub(super) type Plain = (u16, Vec<(&'static str, String)>, String);

impl State {
    /// The 401 that the request deserves, or `None` if it may pass. `repository` is what it asks for.
    pub(super) fn refusal(&self, headers: &HeaderMap, repository: Option<&str>) -> Option<Plain> {
        self.refusal_without(headers, repository, |scopes| {
            repository.is_none_or(|repository| scopes == format!("repository:{repository}:pull"))
        })
    }

    /// The same for what changes something: the token has to be for that, and for the source of a mount.
    pub(super) fn refusal_of_write(&self, record: &Record) -> Option<Plain> {
        let repository = repository(&record.path).unwrap_or_default();
        let action = if record.method == Method::DELETE { "delete" } else { "push" };
        self.refusal_without(&record.headers, Some(repository), |scopes| {
            let may = |name: &str, action: &str| {
                let of = |scope: &str| {
                    scope.strip_prefix("repository:")?.rsplit_once(':').map(|(of, it)| (of == name, it.to_owned()))
                };
                scopes.split(' ').filter_map(of).any(|(is, actions)| is && actions.split(',').any(|it| it == action))
            };
            may(repository, action) && record.parameter("from").iter().all(|from| may(from, "pull"))
        })
    }

    fn refusal_without(
        &self,
        headers: &HeaderMap,
        repository: Option<&str>,
        suffices: impl Fn(&str) -> bool,
    ) -> Option<Plain> {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let challenges = match &self.auth {
            Auth::Open => return None,
            Auth::Basic { username, password } | Auth::Forbidding { username, password } => {
                if shown == Some(&basic(username, password)) {
                    return None;
                }
                if matches!(self.auth, Auth::Forbidding { .. }) && shown.is_some() {
                    return Some((403, vec![], DENIED.to_owned()));
                }
                vec![r#"Basic realm="fake registry""#.to_owned()]
            }
            Auth::Bearer(bearer) => {
                let token = shown.and_then(|shown| shown.strip_prefix("Bearer "));
                let known = token.and_then(|token| self.tokens.iter().find(|(issued, _)| issued == token));
                if known.is_some_and(|(_, scopes)| suffices(scopes)) {
                    return None;
                }
                self.challenges(bearer, repository)
            }
        };
        let headers = challenges.into_iter().map(|challenge| ("www-authenticate", challenge)).collect();
        Some((401, headers, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.to_owned()))
    }

    fn challenges(&self, bearer: &Bearer, repository: Option<&str>) -> Vec<String> {
        let realm = bearer.realm.clone().unwrap_or_else(|| format!("{}token", self.api));
        if !bearer.challenges.is_empty() {
            return bearer.challenges.iter().map(|challenge| challenge.replace("REALM", &realm)).collect();
        }
        let mut challenge = format!(r#"Bearer realm="{realm}""#);
        if let Some(service) = &bearer.service {
            challenge += &format!(r#",service="{service}""#);
        }
        if let Some(repository) = repository {
            // As CCR and Aliyun do: more than is needed, with a comma in quotes.
            challenge += &format!(r#",scope="repository:{repository}:pull,push""#);
        }
        vec![challenge]
    }

    /// The realm's answer.
    pub(super) fn token(&mut self, request: &Record) -> Plain {
        let bearer = match &self.auth {
            Auth::Bearer(bearer) => bearer.clone(),
            Auth::Open | Auth::Basic { .. } | Auth::Forbidding { .. } => Bearer::default(),
        };
        let refuse = |status: u16| (status, vec![], if status == 403 { DENIED } else { "{}" }.to_owned());
        let posted = request.method == Method::POST;
        if let Some(status) = if posted { bearer.refuse_post } else { bearer.refuse_get } {
            return refuse(status);
        }
        let first = |name| request.parameter(name).into_iter().next();
        let allowed = if posted {
            match first("grant_type").as_deref() {
                Some("refresh_token") => {
                    bearer.refresh_token.is_some() && first("refresh_token") == bearer.refresh_token
                }
                Some("password") => {
                    let user = first("username").zip(first("password"));
                    user.is_some_and(|user| bearer.users.contains(&user))
                }
                _ => false,
            }
        } else {
            match request.header("authorization") {
                None => bearer.anonymous,
                Some(shown) => bearer.users.iter().any(|(username, password)| shown == basic(username, password)),
            }
        };
        let scopes = request.parameter("scope");
        if bearer.refuse_scope.is_some_and(|refused| scopes.iter().any(|scope| scope.contains(refused))) {
            return refuse(401);
        }
        if !allowed {
            return (bearer.wrong, vec![], DENIED.to_owned());
        }
        self.issued += 1;
        let token = format!("token-{}{}", self.issued, "x".repeat(bearer.padding));
        let user = asker(request);
        let granted = request.parameter("scope").into_iter().filter(|scope| bearer.grants(&user, scope));
        self.tokens.push((token.clone(), granted.collect::<Vec<_>>().join(" ")));
        let mut answer = json!({ bearer.field: token });
        if let Some(seconds) = bearer.expires_in {
            answer["expires_in"] = seconds.into();
        }
        (200, vec![("content-type", "application/json".to_owned())], answer.to_string())
    }
}

impl Bearer {
    fn grants(&self, user: &str, scope: &str) -> bool {
        let repository = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        let has = |repository: &str| self.rights.contains(&(user, repository));
        self.rights.is_empty() || repository.is_none_or(|(repository, _)| has(repository))
    }
}

/// The user of a request to the realm; anonymous: empty.
fn asker(request: &Record) -> String {
    let shown = request.header("authorization").and_then(|shown| shown.strip_prefix("Basic "));
    let decoded = shown.and_then(|shown| String::from_utf8(STANDARD.decode(shown).ok()?).ok());
    let name = decoded.and_then(|pair| Some(pair.split_once(':')?.0.to_owned()));
    name.or_else(|| request.parameter("username").into_iter().next()).unwrap_or_default()
}
