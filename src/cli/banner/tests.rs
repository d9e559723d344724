use std::fs;

use forebay::{auth::Anonymous, config::Overrides, transport::TlsConfig};
use rcgen::{CertificateParams, KeyPair};

use super::*;

/// The banner of this configuration, on this listener of a machine at 10.0.4.17, with a certificate for these names.
fn banner(configuration: &str, listening: &str, names: Option<&[&str]>) -> String {
    let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
    let config = Config::parse(configuration, "/forebay.toml".as_ref(), overrides).unwrap();
    banner_of(&config, listening, names)
}

fn banner_of(config: &Config, listening: &str, names: Option<&[&str]>) -> String {
    let certificate = names.map(certificate);
    let bound = Bound {
        listening: &listening.split(' ').map(|address| address.parse().unwrap()).collect::<Vec<_>>(),
        admin: "127.0.0.1:5001".parse().unwrap(),
        machine: Machine { v4: Some("10.0.4.17".parse().unwrap()), v6: None },
        certificate: certificate.as_ref(),
    };
    text(config, &bound)
}

fn certificate(names: &[&str]) -> CertificateFacts {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let pair = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    fs::write(&certificate, CertificateParams::new(names).unwrap().self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    CertificateFacts::read(&TlsConfig { certificate, key, client_ca: None }).unwrap()
}

#[test]
fn a_newcomer_is_told_what_to_paste() {
    let text = banner("", "127.0.0.1:5000", None);
    assert!(text.contains("registry  http://127.0.0.1:5000\n"), "{text}");
    assert!(text.contains("page      http://127.0.0.1:5000/ tells how"), "{text}");
    assert!(text.contains("admin     http://127.0.0.1:5001/ is for operators"), "{text}");
    assert!(!banner("[server]\npage = false\n", "127.0.0.1:5000", None).contains("page "));
    assert!(text.contains("upstreams docker.io, ghcr.io, quay.io, "), "{text}");
    assert!(text.contains("cache     /cache, at most 50.0 GiB\n"), "{text}");
    assert!(text.contains("  { \"registry-mirrors\": [\"http://127.0.0.1:5000\"] }\n"), "{text}");
    assert!(text.ends_with("docker pull 127.0.0.1:5000/ghcr.io/REPOSITORY:TAG\n"), "{text}");
}

#[test]
fn the_origin_is_one_that_clients_can_use() {
    let clear = "";
    for (listening, names, expected) in [
        ("127.0.0.1:5000", None, "http://127.0.0.1:5000"),
        ("0.0.0.0:5000", None, "http://10.0.4.17:5000"),
        ("[::]:5000", None, "http://10.0.4.17:5000"),
        ("127.0.0.1:5000 192.0.2.7:5000", None, "http://192.0.2.7:5000"),
        ("0.0.0.0:5000", Some(&["mirror.lan"][..]), "https://mirror.lan:5000"),
        ("0.0.0.0:5000", Some(&["*.lan", "mirror.lan"]), "https://mirror.lan:5000"),
        ("0.0.0.0:5000", Some(&["mirror.lan", "10.0.4.17"]), "https://10.0.4.17:5000"),
        ("0.0.0.0:5000", Some(&["*.lan"]), "http://10.0.4.17:5000"),
        ("0.0.0.0:5000", Some(&["localhost"]), "http://10.0.4.17:5000"),
        ("127.0.0.1:5000", Some(&["mirror.lan", "localhost"]), "https://localhost:5000"),
        ("127.0.0.1:5000", Some(&["mirror.lan"]), "http://127.0.0.1:5000"),
        ("127.0.0.1:5000", Some(&["127.0.0.1"]), "https://127.0.0.1:5000"),
    ] {
        let text = banner(clear, listening, names);
        assert!(text.contains(&format!("registry  {expected}\n")), "{listening} {names:?}: {text}");
        assert!(text.contains(&format!("\"registry-mirrors\": [\"{expected}\"]")), "{listening} {names:?}: {text}");
        let host = expected.split('/').nth(2).unwrap();
        assert!(text.contains(&format!("docker pull {host}/ghcr.io/")), "{listening} {names:?}: {text}");
        // Docker takes clear HTTP from loopback addresses without being told.
        let insecure = expected.starts_with("http:") && !host.starts_with("127.");
        let told = format!(", \"insecure-registries\": [\"{host}\"] }}\n");
        assert_eq!(text.contains(&told), insecure, "{listening} {names:?}: {text}");
        assert_eq!(text.contains("insecure"), insecure, "{listening} {names:?}: {text}");
    }
}

#[test]
fn tls_alone_is_never_told_as_clear_http() {
    let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
    let mut config = Config::parse("", "/forebay.toml".as_ref(), overrides).unwrap();
    config.server.clear_http = false;
    for names in [&["*.lan"][..], &["mirror.lan"], &[]] {
        let text = banner_of(&config, "0.0.0.0:5000", Some(names));
        assert!(text.contains("registry  https://") && !text.contains("[\"http:"), "{names:?}: {text}");
        // A wildcard is no host to connect to.
        assert_eq!(text.contains("docker pull"), names != ["*.lan"], "{names:?}: {text}");
    }
}

#[test]
fn nothing_is_offered_that_cannot_work() {
    let ghcr = "[[upstream]]\nname = \"ghcr.io\"\n";
    let hub = "[[upstream]]\nname = \"docker.io\"\n";
    for (configuration, mirror, pull) in [
        (format!("{hub}{ghcr}"), true, Some("ghcr.io")),
        (format!("{ghcr}default = true\n"), false, Some("ghcr.io")),
        (hub.to_owned(), true, None),
        (format!("{hub}access = \"client\"\n{ghcr}"), false, Some("ghcr.io")),
        (format!("{hub}{ghcr}access = \"client\"\n"), true, None),
        // Docker refuses a reference with a port inside.
        (format!("{hub}[[upstream]]\nname = \"harbor.lan:8443\"\naliases = [\"harbor\"]\n"), true, Some("harbor")),
    ] {
        let text = banner(&configuration, "127.0.0.1:5000", None);
        assert_eq!(text.contains("registry-mirrors"), mirror, "{configuration}{text}");
        let offered = text.split("docker pull 127.0.0.1:5000/").nth(1).and_then(|rest| rest.split('/').next());
        assert_eq!(offered, pull, "{configuration}{text}");
    }
}

#[test]
fn without_anonymous_pulls_a_login_comes_first() {
    let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
    let mut config = Config::parse("", "/forebay.toml".as_ref(), overrides).unwrap();
    config.access.anonymous = Anonymous::None;
    config.access.htpasswd = Some("/users".into());
    let text = banner_of(&config, "127.0.0.1:5000", None);
    assert!(!text.contains("registry-mirrors"), "Docker does not log in at a mirror: {text}");
    assert!(
        text.ends_with("  docker login 127.0.0.1:5000\n  docker pull 127.0.0.1:5000/ghcr.io/REPOSITORY:TAG\n"),
        "{text}"
    );
    // forebay refuses passwords over clear HTTP from other addresses.
    for (names, allowed, expected) in
        [(None, false, false), (None, true, true), (Some(&["mirror.lan"][..]), false, true)]
    {
        config.access.allow_clear_login = allowed;
        let text = banner_of(&config, "0.0.0.0:5000", names);
        assert_eq!(text.contains("docker login"), expected, "{names:?} {allowed}: {text}");
        assert_eq!(text.contains("docker pull"), expected, "{names:?} {allowed}: {text}");
    }
}
