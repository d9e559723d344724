//! Which of an upstream's challenges forebay answers.

use http::{HeaderMap, header};

use super::{
    challenge::{self, Challenge},
    scope::Scope,
};

/// How an endpoint authenticates its clients. forebay learns this from the endpoint's last challenge, so that a request
/// normally takes one round trip and not two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Scheme {
    Bearer { realm: String, service: Option<String> },
    Basic,
}

impl Scheme {
    /// The scheme of the challenge that forebay answers; `None` if forebay supports none of them.
    ///
    /// Bearer is preferred to Basic: a stolen token is worth less than a stolen password. If the upstream offers both,
    /// as Quay does, an anonymous client needs Bearer, too.
    pub(super) fn choose(headers: &HeaderMap) -> Option<Self> {
        let challenges = challenges(headers);
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => {
                Some(Self::Bearer { realm: bearer.realm.clone(), service: bearer.service.clone() })
            }
            Challenge::Basic { .. } | Challenge::Other(_) => None,
        });
        let offers_basic = || challenges.iter().any(|challenge| matches!(challenge, Challenge::Basic { .. }));
        bearer.or_else(|| offers_basic().then_some(Self::Basic))
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    challenge::parse(headers.get_all(header::WWW_AUTHENTICATE).iter())
}

/// Whether the response has a challenge that forebay can answer, with whatever credentials.
pub(in crate::upstream) fn is_answerable(headers: &HeaderMap) -> bool {
    Scheme::choose(headers).is_some()
}

/// Whether the challenge of the response requires a password.
pub(in crate::upstream) fn wants_password(headers: &HeaderMap) -> bool {
    Scheme::choose(headers) == Some(Scheme::Basic)
}

/// Whether the challenge of the response differs from the endpoint's usual challenge.
pub(in crate::upstream) fn names_other_scheme(usual: Option<&Scheme>, headers: &HeaderMap) -> bool {
    Scheme::choose(headers).as_ref() != usual
}

/// The scope widened by the challenge of the response; `None` if the challenge adds nothing that forebay may request.
pub(in crate::upstream) fn widened(scope: &Scope, headers: &HeaderMap) -> Option<Scope> {
    challenges(headers).iter().find_map(|challenge| match challenge {
        Challenge::Bearer(bearer) => scope.widened(bearer.scope.as_deref()?),
        Challenge::Basic { .. } | Challenge::Other(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn bearer_is_preferred_to_basic() {
        let bearer = || Some(Scheme::Bearer { realm: "https://a/token".to_owned(), service: None });
        for (challenge, expected) in [
            (r#"Basic realm="a", Bearer realm="https://a/token""#, bearer()),
            (r#"Bearer realm="https://a/token""#, bearer()),
            (r#"Negotiate, Basic realm="a""#, Some(Scheme::Basic)),
            ("Negotiate", None),
        ] {
            let headers = HeaderMap::from_iter([(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))]);
            assert_eq!(Scheme::choose(&headers), expected, "{challenge}");
        }
    }
}
