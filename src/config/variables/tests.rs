//! Variables over a tree, and what is said of those that set nothing.

use serde::Deserialize;

use super::*;
use crate::config::error::Key;

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code, reason = "only the names of the fields matter")]
struct Root {
    state_directory: Option<String>,
    server: Server,
    upstream: Vec<Upstream>,
    rule: Vec<Upstream>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code, reason = "only the names of the fields matter")]
struct Server {
    listen: Option<Vec<String>>,
    clear_http: Option<bool>,
    max_connections: Option<u64>,
    tls: Option<Tls>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code, reason = "only the names of the fields matter")]
struct Tls {
    key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code, reason = "only the names of the fields matter")]
struct Upstream {
    name: Option<String>,
    username: Option<String>,
    urls: Option<Vec<String>>,
}

/// The tree after these variables, over upstreams of these names; and what was said.
fn amended(names: &[&str], variables: &[(&str, &str)]) -> (Node, Findings) {
    let mut root = Node::empty(Place::Default);
    if !names.is_empty() {
        let section = |name: &&str| {
            let mut section = Node::empty(Place::Default);
            section.set(&["name"], Node::text(*name, Place::Default));
            section
        };
        let sections = Value::List(names.iter().map(section).collect());
        root.set(&["upstream"], Node { value: sections, place: Place::Default });
    }
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let findings = amend(&mut root, &Variables::new(variables), &Schema::of::<Root>(), &["docker.io", "ghcr.io"]);
    (root, findings)
}

fn said(mistakes: &[Mistake]) -> Vec<String> {
    mistakes.iter().map(ToString::to_string).collect()
}

fn text(root: &Node, key: &str) -> Option<String> {
    root.at(&Key::new(key)).map(|node| match &node.value {
        Value::Text(text) | Value::Integer(text, _) => text.clone(),
        value => format!("{value:?}"),
    })
}

#[test]
fn a_variable_sets_the_key_of_its_path() {
    let (root, findings) = amended(
        &[],
        &[
            ("FOREBAY_STATE_DIRECTORY", "/keys"),
            ("FOREBAY_SERVER__LISTEN", ":5000, [::1]:80"),
            ("FOREBAY_SERVER__MAX_CONNECTIONS", " 7 "),
            ("FOREBAY_SERVER__CLEAR_HTTP", ""),
            ("FOREBAY_SERVER__TLS__KEY", "tls.key"),
            ("FOREBAY_LOG", "info"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!((said(&findings.mistakes), said(&findings.warnings)), (vec![], vec![]));
    for (key, expected) in [
        ("state_directory", Some("/keys")),
        ("server.listen[0]", Some(":5000")),
        ("server.listen[1]", Some("[::1]:80")),
        ("server.max_connections", Some("7")),
        ("server.clear_http", None),
        ("server.tls.key", Some("tls.key")),
        ("upstream", None),
    ] {
        assert_eq!(text(&root, key).as_deref(), expected, "{key}");
    }
}

#[test]
fn an_upstreams_variables_amend_or_add_it() {
    let user = "FOREBAY_UPSTREAM__GHCR_IO__USERNAME";
    let (root, findings) = amended(&[], &[(user, "ci")]);
    assert_eq!(said(&findings.warnings), Vec::<String>::new());
    assert_eq!(text(&root, "upstream[1].username").as_deref(), Some("ci"), "of the built-in list");
    let (root, _) = amended(&["a.lan", "Ghcr.io"], &[(user, "ci")]);
    assert_eq!(text(&root, "upstream[1].username").as_deref(), Some("ci"));
    let name = "FOREBAY_UPSTREAM__HARBOR_LAN_8443__NAME";
    let (root, _) = amended(&["a.lan"], &[(name, "harbor.lan:8443")]);
    assert_eq!(text(&root, "upstream[1].name").as_deref(), Some("harbor.lan:8443"));
    let (root, _) = amended(&["[::1]:5"], &[("FOREBAY_UPSTREAM_____1__5__USERNAME", "ci")]);
    assert_eq!(text(&root, "upstream[0].username").as_deref(), Some("ci"), "a name with two underscores");
    let (_, findings) = amended(&["a-b.lan", "a.b.lan"], &[("FOREBAY_UPSTREAM__A_B_LAN__USERNAME", "ci")]);
    let expected = "FOREBAY_UPSTREAM__A_B_LAN__USERNAME: could mean a-b.lan or a.b.lan: set this in the file";
    assert_eq!(said(&findings.mistakes), [expected]);
    let (_, findings) = amended(&[], &[("FOREBAY_UPSTREAM__GHCR_IO__NAME", "quay.io")]);
    assert_eq!(findings.mistakes.len(), 1);
}

#[test]
fn an_unknown_variable_is_warned_of_with_what_it_may_mean() {
    for (name, meant) in [
        ("FOREBAY_SERVER_LISTEN", "did you mean FOREBAY_SERVER__LISTEN?"),
        ("FOREBAY_SERVER__LISTNE", "did you mean FOREBAY_SERVER__LISTEN?"),
        ("FOREBAY_LISTEN", "unknown variable, which has no effect"),
        ("FOREBAY_LOGS", "did you mean FOREBAY_LOG?"),
        ("FOREBAY_SERVER", "unknown variable"),
        ("FOREBAY_RULE__NAME", "variables cannot set [[rule]]"),
        ("FOREBAY_UPSTREAM__GHCR_IO__USERNME", "did you mean FOREBAY_UPSTREAM__GHCR_IO__USERNAME?"),
        (
            "FOREBAY_UPSTREAM__GHCR_OI__USERNAME",
            "no upstream has this name; did you mean FOREBAY_UPSTREAM__GHCR_IO__USERNAME?",
        ),
        ("FOREBAY_UPSTREAM__HARBOR__URLS", "to add one, set FOREBAY_UPSTREAM__HARBOR__NAME"),
        ("FOREBAY_UPSTREAM__GHCR_IO__PASSWORD", "its path into FOREBAY_UPSTREAM__GHCR_IO__PASSWORD_FILE"),
        ("FOREBAY_COLOUR", "unknown variable"),
    ] {
        let (_, findings) = amended(&[], &[(name, "x")]);
        let warnings = said(&findings.warnings);
        assert_eq!((findings.mistakes.len(), warnings.len()), (0, 1), "{name}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("{name}: ")) && warnings[0].contains(meant), "{warnings:?}");
    }
}
