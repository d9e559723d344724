//! Which part of the page a request means (pure).
//!
//! No path of a registry is among these: each of those has a component `v2`.

use http::{HeaderMap, Method, header};

use super::asset::Asset;
use crate::setup::Client;

/// A part of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Resource {
    Home,
    /// The snippets for one client as plain text.
    Guide(Client),
    /// The certificate of the CA that clients have to trust.
    Authority,
    Asset(Asset),
}

impl Resource {
    /// `None`: the request means no part of the page. Only browsers get HTML.
    pub(in super::super) fn of(method: &Method, path: &str, headers: &HeaderMap) -> Option<Self> {
        if *method != Method::GET && *method != Method::HEAD {
            return None;
        }
        Some(match path {
            "/" => return accepts_html(headers).then_some(Self::Home),
            "/setup/ca.crt" => Self::Authority,
            "/page/style.css" => Self::Asset(Asset::Style),
            "/page/script.js" => Self::Asset(Asset::Script),
            path => {
                let name = path.strip_prefix("/setup/")?;
                Self::Guide(Client::ALL.into_iter().find(|client| client.as_str() == name)?)
            }
        })
    }
}

/// Whether `Accept` names `text/html`; a wildcard is that of a program.
///
/// Source: RFC 9110 section 12.5.1.
fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/html"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        is_html && weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(method: &Method, path: &str, accept: Option<&str>) -> Option<Resource> {
        let accept = accept.map(|accept| (header::ACCEPT, HeaderValue::from_str(accept).unwrap()));
        Resource::of(method, path, &accept.into_iter().collect())
    }

    #[test]
    fn only_a_browser_gets_html() {
        for (accept, expected) in [
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), true),
            (Some("application/json, Text/HTML ; q=0.1"), true),
            (Some("text/html;level=1"), true),
            (Some("text/html;q=0"), false),
            (Some("text/html; q=0.000"), false),
            (Some("text/html; q=x"), false),
            (Some("*/*"), false),
            (Some("text/*"), false),
            (Some("application/vnd.oci.image.index.v1+json, */*"), false),
            (Some(""), false),
            (None, false),
        ] {
            let expected = expected.then_some(Resource::Home);
            assert_eq!(of(&Method::GET, "/", accept), expected, "{accept:?}");
            assert_eq!(of(&Method::HEAD, "/", accept), expected, "{accept:?}");
            assert_eq!(of(&Method::POST, "/", accept), None);
        }
    }

    #[test]
    fn each_path_is_one_part() {
        for (path, expected) in [
            ("/setup/docker", Some(Resource::Guide(Client::Docker))),
            ("/setup/buildkit", Some(Resource::Guide(Client::Buildkit))),
            ("/setup/ca.crt", Some(Resource::Authority)),
            ("/page/style.css", Some(Resource::Asset(Asset::Style))),
            ("/page/script.js", Some(Resource::Asset(Asset::Script))),
            ("/setup/Docker", None),
            ("/setup/", None),
            ("/setup/docker/", None),
            ("//setup/docker", None),
            ("/v2/", None),
            ("/setup/v2/docker/manifests/1", None),
        ] {
            assert_eq!(of(&Method::GET, path, None), expected, "{path}");
            assert_eq!(of(&Method::DELETE, path, None), None, "{path}");
        }
    }
}
