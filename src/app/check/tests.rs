use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{facts::Disk, *};
use crate::{
    config::Overrides,
    machine::Machine,
    transport::{CertificateFacts, TlsConfig, certificate_for_tests},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn config(text: &str) -> Config {
    let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
    Config::parse(text, "/forebay.toml".as_ref(), overrides).unwrap()
}

fn addresses(text: &str) -> Vec<SocketAddr> {
    text.split_whitespace().map(|address| address.parse().unwrap()).collect()
}

/// A machine on which all is well.
fn facts() -> Facts {
    Facts {
        now: SystemTime::now(),
        certificate: None,
        authorities: Vec::new(),
        users: None,
        secrets: Vec::new(),
        missing_helpers: Vec::new(),
        disk: Disk { is_writable: true, total: Some(1 << 40) },
        ports: Vec::new(),
        listening: addresses("127.0.0.1:5000"),
        machine: Machine { v4: Some("10.0.4.17".parse().unwrap()), v6: None },
        own_peers: Vec::new(),
        host_name: "build7".to_owned(),
    }
}

/// The warnings, as `key: problem`.
fn told(config: &Config, facts: &Facts) -> Vec<String> {
    warnings(config, facts).iter().map(Warning::to_string).collect()
}

/// Each of these words is in the only warning, or there is no word and no warning.
fn assert_told(config: &Config, facts: &Facts, words: &[&str]) {
    let told = told(config, facts);
    assert_eq!(told.len(), usize::from(!words.is_empty()), "{words:?}: {told:#?}");
    for word in words {
        assert!(told[0].contains(word), "{word:?} is not in {told:?}");
    }
}

#[test]
fn nothing_is_wrong_with_the_default_configuration() {
    assert_told(&config(""), &facts(), &[]);
    let small = Facts { disk: Disk { is_writable: true, total: Some(1 << 30) }, ..facts() };
    assert_told(&config(""), &small, &[]);
}

#[test]
fn a_certificate_is_warned_of_by_its_dates() {
    let mut config = config("");
    config.server.tls = Some(TlsConfig { certificate: "good.crt".into(), key: "key".into(), client_ca: None });
    let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
    for (from, until, words) in [
        (now - DAY, now + 15 * DAY, &[][..]),
        (now - DAY, now + 13 * DAY, &["server.tls.certificate: good.crt expires on 2024-10-17, in 13 days"]),
        (now - DAY, now + DAY, &["in 1 day:"]),
        (now - 2 * DAY, now - DAY, &["good.crt expired on 2024-10-03; every client will refuse it"]),
        (now + DAY, now + 90 * DAY, &["good.crt is valid from 2024-10-05 on; until then every client"]),
    ] {
        let mut certificate = mirror(&["mirror.lan"]);
        (certificate.not_before, certificate.not_after) = (Some(from), Some(until));
        let facts = Facts { now, certificate: Some(certificate.clone()), ..facts() };
        assert_told(&config, &facts, words);
        // A CA's certificates are warned of in the same way.
        let key = of_upstream(0, "ca");
        let ca = Facts { certificate: None, authorities: vec![(key, "ca.crt".into(), vec![certificate])], ..facts };
        let told = told(&config, &ca);
        assert_eq!(told.len(), words.len(), "{told:?}");
        assert!(told.iter().all(|text| text.starts_with("upstream[0].ca: certificate 1 of ca.crt ")), "{told:?}");
    }
}

fn mirror(names: &[&str]) -> CertificateFacts {
    certificate_for_tests(names)
}

#[test]
fn a_certificate_is_warned_of_by_its_names() {
    let mut of_host = config("[[upstream]]\nname = \"docker.io\"\nhosts = [\"hub.lan\", \"*:5000\"]\n");
    let mut plain = config("");
    for config in [&mut of_host, &mut plain] {
        config.server.tls = Some(TlsConfig { certificate: "a.crt".into(), key: "key".into(), client_ca: None });
    }
    for (config, listening, names, words) in [
        (&plain, "0.0.0.0:5000", &["mirror.lan"][..], &[][..]),
        (&plain, "0.0.0.0:5000", &[], &["server.tls.certificate: a.crt names no host"]),
        (&plain, "0.0.0.0:5000", &["localhost", "127.0.0.1"], &["a.crt is for localhost, 127.0.0.1 alone"]),
        (&plain, "127.0.0.1:5000", &["localhost"], &[]),
        (&of_host, "0.0.0.0:5000", &["hub.lan"], &[]),
        (&of_host, "0.0.0.0:5000", &["*.lan"], &[]),
        (&of_host, "0.0.0.0:5000", &["mirror.lan"], &["upstream[0].hosts[0]: ", "for hub.lan: it is for mirror.lan"]),
    ] {
        let facts = Facts { certificate: Some(mirror(names)), listening: addresses(listening), ..facts() };
        assert_told(config, &facts, words);
    }
}

#[test]
fn hosts_on_a_port_without_a_listener_are_warned_of() {
    let config = config("[[upstream]]\nname = \"docker.io\"\nhosts = [\"a.lan\", \"b.lan:5002\", \"*:5003\"]\n");
    for (listening, words) in [
        ("127.0.0.1:5002 127.0.0.1:5003", &[][..]),
        ("127.0.0.1:5002", &["upstream[0].hosts[2]: no listener has port 5003", "*:5003"]),
        ("127.0.0.1:5003", &["upstream[0].hosts[1]: no listener has port 5002", "b.lan:5002"]),
        // Unknown.
        ("", &[]),
    ] {
        assert_told(&config, &Facts { listening: addresses(listening), ..facts() }, words);
    }
}

#[test]
fn ports_are_warned_of_by_what_is_there() {
    let port = |port_use| {
        let address = "192.0.2.7:443".parse().unwrap();
        Facts { ports: vec![(Key::new("server").field("listen"), address, port_use)], ..facts() }
    };
    for (port_use, words) in [
        (PortUse::Free, &[][..]),
        (PortUse::Ours, &[]),
        (PortUse::Taken, &["server.listen: another program listens on 192.0.2.7:443"]),
        (PortUse::Forbidden, &["may not listen on port 443"]),
        (PortUse::Elsewhere, &["192.0.2.7 is no address of this machine"]),
    ] {
        assert_told(&config(""), &port(port_use), words);
    }
    assert_eq!(port(PortUse::Ours).ours().count(), 1);
}

#[test]
fn the_cache_is_warned_of_by_its_disk() {
    let disk = |is_writable, total| Facts { disk: Disk { is_writable, total }, ..facts() };
    let ten = config("[cache]\nmax_size = \"10 GiB\"\nmin_free = 0\n");
    for (config, facts, words) in [
        (&ten, disk(true, Some(10 << 30)), &[][..]),
        (&ten, disk(true, None), &[]),
        (
            &ten,
            disk(true, Some(9 << 30)),
            &["cache.max_size: 10.0 GiB is more than the file system of /cache", "9.0 GiB"],
        ),
        (&config("[cache]\nmax_size = \"10 GiB\"\n"), disk(true, Some(10 << 30)), &["cache.max_size: "]),
        (&ten, disk(false, Some(1 << 40)), &["cache.directory: this user cannot write /cache"]),
    ] {
        assert_told(config, &facts, words);
    }
}

#[test]
fn paths_that_a_shell_would_expand_are_warned_of() {
    for (path, words) in [
        ("/var/cache/forebay", &[][..]),
        ("/var/cache/a~b", &[]),
        ("/var/cache/100$", &[]),
        ("/var/cache/$1", &[]),
        ("~/cache", &["state_directory: ~ is not expanded in "]),
        ("~ann/cache", &["~ann is not expanded"]),
        ("${HOME}/cache", &["${HOME} is not expanded"]),
        ("/var/$NAME-cache", &["$NAME is not expanded"]),
    ] {
        let config = config(&format!("state_directory = \"{path}\"\n"));
        assert_told(&config, &facts(), words);
    }
}

#[test]
fn secrets_for_all_users_are_warned_of() {
    for (mode, words) in [
        (0o100_600, &[][..]),
        (0o100_640, &[]),
        (0o100_644, &["upstream[0].password_file: every user of this machine may use /pw (mode 644)"]),
    ] {
        let secrets = vec![(of_upstream(0, "password_file"), PathBuf::from("/pw"), mode)];
        assert_told(&config(""), &Facts { secrets, ..facts() }, words);
    }
}

#[test]
fn a_push_that_nobody_may_use_is_warned_of() {
    let push = |access: &str, credentials: bool| {
        let mut config = config("[[upstream]]\nname = \"docker.io\"\npush = true\n");
        config.access.htpasswd = access.contains("users").then(|| "users".into());
        config.access.push_users = match access.split_whitespace().last() {
            Some("nobody") => Some(crate::auth::PushUsers::default()),
            Some("ci") => Some(crate::auth::PushUsers { users: ["ci".into()].into(), certificates: false }),
            Some("certificates") => Some(crate::auth::PushUsers { users: [].into(), certificates: true }),
            _ => None,
        };
        if credentials {
            config.upstreams[0].credential = crate::upstream::CredentialSource::Helper("x".to_owned());
        }
        config
    };
    let none = "no client may push to docker.io: ";
    for (access, credentials, users, words) in [
        ("", false, None, &[][..]),
        ("", true, None, &["upstream[0].push: ", none, "only users of access.htpasswd may"]),
        ("users", true, Some(1), &[]),
        ("users", false, Some(1), &[]),
        ("nobody", false, None, &[none, "access.push_users is empty"]),
        ("users ci", true, Some(1), &[]),
        ("certificates", true, None, &[]),
    ] {
        assert_told(&push(access, credentials), &Facts { users, ..facts() }, words);
    }
    // No user at all: the file is warned of as well.
    let told = told(&push("users", true), &Facts { users: Some(0), ..facts() });
    assert!(told[0].starts_with("access.htpasswd: users has no user") && told[1].contains(none), "{told:?}");
}

#[test]
fn an_upstream_of_clients_that_cannot_log_in_is_warned_of() {
    let client = "access = \"client\"\n";
    let hub = "[[upstream]]\nname = \"docker.io\"\n";
    let ghcr = "[[upstream]]\nname = \"ghcr.io\"\n";
    for (text, users, listening, words) in [
        (format!("{hub}{ghcr}{client}"), false, "127.0.0.1:5000", &[][..]),
        (
            format!("{hub}{ghcr}{client}"),
            true,
            "127.0.0.1:5000",
            &["upstream[1].access: clients cannot log in to ghcr.io"],
        ),
        (format!("{hub}{ghcr}{client}hosts = [\"ghcr.lan\"]\n"), true, "127.0.0.1:5000", &[]),
        (
            format!("{hub}{client}{ghcr}{client}"),
            false,
            "127.0.0.1:5000",
            &["upstream[1].access: ", "the default upstream"],
        ),
        (format!("{hub}{client}"), false, "127.0.0.1:5000", &[]),
        (format!("{hub}{client}"), false, "10.0.4.17:5000", &["passwords over clear HTTP are refused"]),
        (format!("{hub}{client}"), false, "10.0.4.17:5000 127.0.0.1:5000", &[]),
        (format!("[access]\nallow_clear_login = true\n{hub}{client}"), false, "10.0.4.17:5000", &[]),
    ] {
        let mut config = config(&text);
        config.access.htpasswd = users.then(|| "users".into());
        let facts = Facts { users: users.then_some(1), listening: addresses(listening), ..facts() };
        assert_told(&config, &facts, words);
    }
}

#[test]
fn an_upstream_that_is_this_forebay_is_warned_of() {
    for (url, listening, is_own) in [
        ("http://127.0.0.1:5000", "127.0.0.1:5000", true),
        ("http://localhost:5000", "127.0.0.1:5000", true),
        ("http://127.0.0.1:5001", "127.0.0.1:5000", false),
        ("http://10.0.4.17:5000", "0.0.0.0:5000", true),
        ("http://10.0.4.17:5000", "[::]:5000", true),
        ("http://10.0.4.18:5000", "0.0.0.0:5000", false),
        ("http://10.0.4.17:5000", "127.0.0.1:5000", false),
        ("http://build7:5000", "0.0.0.0:5000", true),
        ("https://hub.lan", "0.0.0.0:443", true),
        ("https://hub.lan", "0.0.0.0:5000", false),
        ("https://registry-1.docker.io", "0.0.0.0:443", false),
    ] {
        let text = format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{url}\"]\nhosts = [\"hub.lan\"]\n");
        let words: &[&str] = if is_own { &["upstream[0].urls[0]: ", "is this forebay itself"] } else { &[] };
        assert_told(&config(&text), &Facts { listening: addresses(listening), ..facts() }, words);
    }
}

#[test]
fn a_name_of_docker_hub_that_images_do_not_have_is_warned_of() {
    for (name, words) in [
        ("docker.io", &[][..]),
        ("registry-1.docker.io", &["upstream[0].name: ", "write name = \"docker.io\""]),
        ("index.docker.io", &["write name = \"docker.io\""]),
    ] {
        assert_told(&config(&format!("[[upstream]]\nname = \"{name}\"\n")), &facts(), words);
    }
}

#[test]
fn a_helper_that_is_not_installed_is_warned_of() {
    let config = config("[[upstream]]\nname = \"a.example\"\ncredential_helper = \"ecr-login\"\n");
    let facts = Facts { missing_helpers: vec![(0, "ecr-login".to_owned())], ..facts() };
    assert_told(&config, &facts, &["upstream[0].credential_helper: docker-credential-ecr-login is not in PATH"]);
}

#[test]
fn a_cluster_that_this_forebay_is_no_part_of_is_warned_of() {
    let peers = |own: &str| format!("[cluster]\nkey_file = \"k\"\npeers = [\"{own}\", \"http://10.0.4.18:5000\"]\n");
    let client = "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\n";
    let dns = "[cluster]\nkey_file = \"k\"\npeers = [\"dns:forebay.lan:5000\"]\n";
    for (text, listening, words) in [
        (peers("http://10.0.4.17:5000"), "0.0.0.0:5000", &[][..]),
        (peers("http://10.0.4.17:5000"), "", &[]),
        (peers("http://10.0.4.99:5000"), "0.0.0.0:5000", &["cluster.peers: none is an address of this machine"]),
        (peers("http://node1:5000"), "0.0.0.0:5000", &["cluster.peers: none is an address of this machine"]),
        (
            format!("{}advertise = \"http://node1:5000\"\n", peers("http://node1:5000")),
            "127.0.0.1:5000",
            &["cluster: no other machine reaches 127.0.0.1:5000", "server.listen"],
        ),
        (dns.to_owned(), "0.0.0.0:5000", &[]),
        (dns.to_owned(), "127.0.0.1:5000", &["cluster: no other machine reaches 127.0.0.1:5000"]),
        (
            format!("{client}{dns}"),
            "0.0.0.0:5000",
            &["cluster.peers: a peer without TLS is not asked for images of a.b"],
        ),
        (format!("{client}{dns}server_name = \"forebay.lan\"\n"), "0.0.0.0:5000", &[]),
        (
            peers("https://10.0.4.17:5000"),
            "0.0.0.0:5000",
            &["cluster: the others reach this forebay over TLS", "add [server.tls]"],
        ),
        (
            "[cluster]\nkey_file = \"k\"\npeers = [\"http://10.0.4.17:5000\"]\n".to_owned(),
            "0.0.0.0:5000",
            &["cluster.peers: has this forebay alone"],
        ),
    ] {
        let facts = Facts { listening: addresses(listening), ..facts() };
        let cluster: Vec<String> =
            told(&config(&text), &facts).into_iter().filter(|warning| warning.starts_with("cluster")).collect();
        assert_eq!(cluster.len(), usize::from(!words.is_empty()), "{text}: {cluster:#?}");
        assert!(words.iter().all(|word| cluster[0].contains(word)), "{text}: {cluster:#?}");
    }
    let mut only_tls = config(&peers("http://10.0.4.17:5000"));
    only_tls.server.clear_http = false;
    let of_all = Facts { listening: addresses("0.0.0.0:5000"), ..facts() };
    let warnings = told(&only_tls, &of_all);
    assert!(
        warnings.iter().any(|one| one.starts_with("cluster: the others reach this forebay over http,")),
        "{warnings:#?}"
    );
}

#[test]
fn redirects_that_no_client_gets_are_warned_of() {
    let store = |keys: &str| format!("[store]\nurl = \"s3://a\"\nendpoint = \"http://s3.lan\"\n{keys}\n");
    let upstream = |keys: &str| format!("[[upstream]]\nname = \"docker.io\"\n{keys}\n");
    let (redirect, clients) = ("redirect = true", "redirect_clients = [\"10.0.0.0/8\"]");
    let secure = format!("{clients}\nredirect_endpoint = \"https://s3.example\"");
    for (keys, of_upstream, tls, words) in [
        (clients, redirect, false, &[][..]),
        ("", "", false, &[]),
        ("", redirect, false, &["upstream[0].redirect: no client is redirected: write the networks", "[store]"]),
        (clients, "", false, &["store.redirect_clients: no client is redirected: write redirect = true"]),
        (
            "redirect_endpoint = \"https://s3.example\"",
            "",
            false,
            &["store.redirect_endpoint: no client is redirected"],
        ),
        (clients, redirect, true, &["store.endpoint: clients that come over TLS are served from here"]),
        (&secure, redirect, true, &[]),
    ] {
        let mut config = config(&(upstream(of_upstream) + &store(keys)));
        config.server.tls =
            tls.then(|| TlsConfig { certificate: "tls.crt".into(), key: "tls.key".into(), client_ca: None });
        assert_told(&config, &facts(), words);
    }
}
