//! Which part of the page a request means (pure).
//!
//! No path of a registry is among these: each of those has a component `v2`.

use http::{HeaderMap, Method, header};

use crate::{
    html::{Asset, LIVE, STYLE},
    setup::Client,
};

static SCRIPT: Asset = Asset::script(include_bytes!("script.js"));

/// A part of the page.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Resource {
    Home,
    /// The latest pulls of the visitor.
    Pulls,
    /// The snippets for one client as plain text.
    Guide(Client),
    /// The certificate of the CA that clients have to trust.
    Authority,
    Asset(&'static Asset),
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
            "/page/pulls" => Self::Pulls,
            "/page/style.css" => Self::Asset(&STYLE),
            "/page/live.js" => Self::Asset(&LIVE),
            "/page/script.js" => Self::Asset(&SCRIPT),
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
            let is_home = |method| matches!(of(&method, "/", accept), Some(Resource::Home));
            assert_eq!((is_home(Method::GET), is_home(Method::HEAD)), (expected, expected), "{accept:?}");
            assert!(of(&Method::POST, "/", accept).is_none());
        }
    }

    #[test]
    fn each_path_is_one_part() {
        let name = |path: &str| match of(&Method::GET, path, None) {
            Some(Resource::Home) => "home".to_owned(),
            Some(Resource::Pulls) => "pulls".to_owned(),
            Some(Resource::Guide(client)) => client.as_str().to_owned(),
            Some(Resource::Authority) => "ca".to_owned(),
            Some(Resource::Asset(asset)) => asset.content_type().to_owned(),
            None => "none".to_owned(),
        };
        for (path, expected) in [
            ("/setup/docker", "docker"),
            ("/setup/buildkit", "buildkit"),
            ("/setup/ca.crt", "ca"),
            ("/page/pulls", "pulls"),
            ("/page/style.css", "text/css; charset=utf-8"),
            ("/page/live.js", "text/javascript; charset=utf-8"),
            ("/page/script.js", "text/javascript; charset=utf-8"),
            ("/setup/Docker", "none"),
            ("/setup/", "none"),
            ("/setup/docker/", "none"),
            ("//setup/docker", "none"),
            ("/v2/", "none"),
            ("/setup/v2/docker/manifests/1", "none"),
        ] {
            assert_eq!(name(path), expected, "{path}");
            assert!(of(&Method::DELETE, path, None).is_none(), "{path}");
        }
    }
}
