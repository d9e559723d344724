//! The configuration as an operator meets it: what a file means, and what is said about a bad one.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, time::Duration};

pub mod example;
pub mod mistakes;
pub mod refused;
pub mod rules;
pub mod sources;

use forebay::{
    auth::Anonymous,
    config::{Config, Error, Overrides, parse_size},
    upstream::{CredentialSource, UpstreamTimeouts},
};
use proptest::prelude::*;
use tempfile::TempDir;

/// A directory with the files that good configurations name.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["tls.crt", "tls.key", "clients.crt", "ca.crt", "htpasswd", "hub.password", "config.json", "push.key"] {
        fs::write(directory.path().join(name), "content").unwrap();
    }
    directory
}

fn overrides() -> Overrides {
    Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() }
}

fn parse_in(directory: &Path, text: &str) -> Result<Config, Error> {
    Config::parse(text, &directory.join("forebay.toml"), overrides())
}

fn parse(text: &str) -> Result<Config, Error> {
    let directory = directory();
    parse_in(directory.path(), text)
}

#[test]
fn a_cache_may_lie_where_no_key_is_to_be_kept() {
    let state = parse("").unwrap().state_directory.expect("the user of the tests has a home");
    for cache in [state.clone(), state.parent().unwrap().to_owned()] {
        let parse = |text: &str| {
            let overrides = Overrides { cache_dir: Some(cache.clone()), ..Overrides::default() };
            Config::parse(text, "/forebay.toml".as_ref(), overrides)
        };
        assert_eq!(parse("").unwrap().state_directory, None);
        let upstream = "[[upstream]]\nname = \"a.example\"\nurls = [\"http://127.0.0.1:9\"]\npush = true\n";
        for text in [upstream.to_owned(), format!("state_directory = {state:?}\n")] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("state_directory"), "{error}");
        }
    }
}

#[test]
fn every_key_has_a_default() {
    let config = parse("").unwrap();
    assert!(config.state_directory.as_ref().is_none_or(|directory| directory.ends_with("forebay")));
    assert_eq!(config.server.listen, ["127.0.0.1:5000".parse().unwrap()]);
    assert!(config.server.clear_http);
    assert_eq!(config.server.max_connections, 8192);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.server.drain_delay, Duration::ZERO);
    assert_eq!(config.server.tls, None);
    assert_eq!(config.admin.listen, "127.0.0.1:5001".parse().unwrap());
    assert_eq!(config.cache.max_size, 50 << 30);
    assert_eq!(config.cache.min_free, 1 << 30);
    assert_eq!(config.cache.manifest_memory, 64 << 20);
    assert_eq!(config.cache.tag_ttl, Duration::from_secs(60));
    assert_eq!(config.cache.stale_if_error, Duration::from_secs(30 * 24 * 60 * 60));
    assert_eq!(config.cache.negative_ttl, Duration::from_secs(10));
    assert_eq!(config.cache.prefetch, 3);
    assert_eq!(config.cache.verify_every, Duration::from_secs(7 * 24 * 60 * 60));
    assert_eq!(config.access.anonymous, Anonymous::Pull);
    assert_eq!(config.access.htpasswd, None);
    assert_eq!(Config::load(None, overrides()).unwrap(), config, "no file is an empty file");
}

#[test]
fn without_upstreams_the_well_known_registries_are_mirrored() {
    let upstreams = parse("").unwrap().upstreams;
    let names: Vec<_> = upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!(
        names,
        [
            "docker.io",
            "ghcr.io",
            "quay.io",
            "gcr.io",
            "registry.k8s.io",
            "mcr.microsoft.com",
            "public.ecr.aws",
            "nvcr.io",
            "ccr.ccs.tencentyun.com",
            "dockerhub.qingcloud.com"
        ]
    );
    let hub = &upstreams[0];
    assert_eq!(hub.urls[0].as_str(), "https://registry-1.docker.io/");
    assert_eq!(
        hub.aliases.iter().map(|alias| &**alias).collect::<Vec<_>>(),
        ["index.docker.io", "registry-1.docker.io"]
    );
    assert_eq!(hub.realms, ["auth.docker.io"]);
    assert!(hub.default && hub.library);
    assert!(upstreams[1..].iter().all(|upstream| !upstream.default && !upstream.library));
    assert!(upstreams[1..].iter().all(|upstream| upstream.urls[0].host_str() == Some(&upstream.name)));
    assert!(upstreams.iter().all(|upstream| upstream.credential == CredentialSource::Anonymous));
    assert_eq!(upstreams[7].realms, ["authn.nvidia.com"]);
}

#[test]
fn a_registrys_name_is_enough() {
    let config = parse("[[upstream]]\nname = \"Docker.io\"\n[[upstream]]\nname = \"harbor.lan:8443\"\n").unwrap();
    let [hub, harbor] = &config.upstreams[..] else { panic!("two upstreams") };
    assert_eq!((&*hub.name, hub.urls[0].as_str()), ("docker.io", "https://registry-1.docker.io/"));
    assert!(hub.default && hub.library && hub.aliases.len() == 2);
    assert_eq!(hub.realms, ["auth.docker.io"]);
    assert_eq!((&*harbor.name, harbor.urls[0].as_str()), ("harbor.lan:8443", "https://harbor.lan:8443/"));
    assert!(!harbor.default && !harbor.library);
}

#[test]
fn docker_hub_is_the_default_unless_another_is_or_it_is_refused() {
    let defaults = |text: &str| -> Vec<bool> { parse(text).unwrap().upstreams.iter().map(|up| up.default).collect() };
    let both = "[[upstream]]\nname = \"docker.io\"\n[[upstream]]\nname = \"ghcr.io\"\n";
    assert_eq!(defaults(both), [true, false]);
    assert_eq!(defaults(&format!("{both}default = true\n")), [false, true]);
    assert_eq!(defaults("[[upstream]]\nname = \"docker.io\"\ndefault = false\n"), [false]);
}

/// Credentials for a server of one's own must not become visible to Docker's realm.
#[test]
fn a_known_registry_at_another_address_gets_no_realm() {
    let config = parse("[[upstream]]\nname = \"docker.io\"\nurls = [\"https://hub.lan\"]\n").unwrap();
    assert!(config.upstreams[0].realms.is_empty());
    assert!(config.upstreams[0].library);
}

#[test]
fn every_key_is_read() {
    let directory = directory();
    let text = r#"
        state_directory = "keys"
        [server]
        listen = ["0.0.0.0:80", "[::]:443"]
        clear_http = false
        max_connections = 7
        drain_timeout = "1m 5s"
        drain_delay = "20s"
        trusted_networks = ["10.0.0.0/8", "fd00::1"]
        [server.tls]
        certificate = "tls.crt"
        key = "tls.key"
        client_ca = "clients.crt"
        [admin]
        listen = "127.0.0.1:9"
        [cache]
        directory = "cache"
        max_size = "300 MB"
        min_free = 4096
        manifest_memory = "1.5 MiB"
        tag_ttl = "0s"
        stale_if_error = "1h"
        negative_ttl = "500ms"
        prefetch = 0
        verify_every = 0
        [access]
        anonymous = "none"
        htpasswd = "htpasswd"
        push_users = ["ci", "certificate:*"]
        [push]
        key_file = "push.key"
        [[upstream]]
        name = "one.lan"
        urls = ["https://one.lan:5000", "https://two.lan/prefix"]
        aliases = ["ONE"]
        hosts = ["Hub.lan", "hub.lan:5000", "*:5002"]
        default = true
        library = true
        realms = ["Auth.lan:8443"]
        connections = 16
        connect_timeout = "1s"
        response_timeout = "2m"
        idle_timeout = "500ms"
        ca = "ca.crt"
        username = "robot$ci"
        password_file = "hub.password"
        access = "shared"
        push = true
        [[upstream]]
        name = "two.lan"
        credential_helper = "ecr-login"
        [[upstream]]
        name = "three.lan"
        docker_config = "config.json"
    "#;
    let file = directory.path().join("forebay.toml");
    fs::write(&file, text).unwrap();
    let config = Config::load(Some(&file), Overrides::default()).unwrap();
    let at = |name: &str| directory.path().join(name);

    assert_eq!(config.server.listen, ["0.0.0.0:80".parse().unwrap(), "[::]:443".parse().unwrap()]);
    assert!(!config.server.clear_http);
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(65));
    assert_eq!(config.server.drain_delay, Duration::from_secs(20));
    let networks: Vec<String> = config.server.trusted_networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "fd00::1/128"]);
    let tls = config.server.tls.unwrap();
    assert_eq!((tls.certificate, tls.key, tls.client_ca), (at("tls.crt"), at("tls.key"), Some(at("clients.crt"))));
    assert_eq!(config.admin.listen, "127.0.0.1:9".parse().unwrap());
    assert_eq!(config.state_directory, Some(at("keys")));
    assert_eq!(config.cache.directory, at("cache"));
    assert_eq!(config.cache.max_size, 300_000_000);
    assert_eq!(config.cache.min_free, 4096);
    assert_eq!(config.cache.manifest_memory, 3 << 19);
    assert_eq!(config.cache.tag_ttl, Duration::ZERO);
    assert_eq!(config.cache.stale_if_error, Duration::from_secs(3600));
    assert_eq!(config.cache.negative_ttl, Duration::from_millis(500));
    assert_eq!(config.cache.prefetch, 0);
    assert_eq!(config.cache.verify_every, Duration::ZERO);
    assert_eq!(config.access.anonymous, Anonymous::None);
    assert_eq!(config.access.htpasswd, Some(at("htpasswd")));
    let push_users = config.access.push_users.unwrap();
    assert!(push_users.certificates && push_users.users.iter().map(|user| &**user).eq(["ci"]));
    assert_eq!(config.push.key_file, Some(at("push.key")));
    assert_eq!(config.upstreams.iter().map(|upstream| upstream.push).collect::<Vec<_>>(), [true, false, false]);
    let [one, two, three] = &config.upstreams[..] else { panic!("three upstreams") };
    assert_eq!(
        one.urls.iter().map(|url| url.as_str()).collect::<Vec<_>>(),
        ["https://one.lan:5000/", "https://two.lan/prefix"]
    );
    assert_eq!(&*one.aliases[0], "one");
    assert_eq!(one.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["hub.lan", "hub.lan:5000", "*:5002"]);
    assert!(one.default && one.library);
    assert_eq!(one.realms, ["auth.lan:8443"]);
    assert_eq!((one.connections, two.connections), (16, 6));
    let timeouts = |connect, response, idle| {
        let [connect, response, idle] = [connect, response, idle].map(Duration::from_millis);
        UpstreamTimeouts { connect, response, idle }
    };
    assert_eq!(one.timeouts, timeouts(1000, 120_000, 500));
    assert_eq!(two.timeouts, timeouts(10_000, 30_000, 30_000));
    assert_eq!(one.ca, Some(at("ca.crt")));
    let password = CredentialSource::Password { username: "robot$ci".to_owned(), password_file: at("hub.password") };
    assert_eq!(one.credential, password);
    assert_eq!(two.credential, CredentialSource::Helper("ecr-login".to_owned()));
    assert_eq!(three.credential, CredentialSource::DockerConfig(at("config.json")));
}

#[test]
fn flags_win_over_the_file() {
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let flags = Overrides {
        listen: vec![address("127.0.0.1:1"), address("127.0.0.1:2")],
        admin: Some(address("127.0.0.1:3")),
        cache_dir: Some("/flag".into()),
        max_size: Some(12),
    };
    let text = "server.listen = [\"127.0.0.1:8\"]\nadmin.listen = \"127.0.0.1:9\"\ncache.directory = \"/file\"\ncache.max_size = 1\n";
    let config = Config::parse(text, "/forebay.toml".as_ref(), flags).unwrap();
    assert_eq!(config.server.listen, [address("127.0.0.1:1"), address("127.0.0.1:2")]);
    assert_eq!(config.admin.listen, address("127.0.0.1:3"));
    assert_eq!(config.cache.directory, Path::new("/flag"));
    assert_eq!(config.cache.max_size, 12);
}

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, bytes) in [
        ("0", 0),
        ("1048576", 1 << 20),
        ("50 GiB", 50 << 30),
        ("50GiB", 50 << 30),
        ("300 MB", 300_000_000),
        ("1.5 KiB", 1536),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "GiB", "-1", "1 XB", "2 EiB", "1e3"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

proptest! {
    /// Whatever is in the file: an error or a configuration, never a panic.
    #[test]
    fn no_text_is_fatal(text in "(?s).{0,200}") {
        let _ = parse(&text);
    }

    /// Values out of a file's words, so that more than the parser is reached.
    #[test]
    fn no_value_is_fatal(key in "(server.listen|server.drain_timeout|cache.max_size|admin.listen|cache.tag_ttl)", value in "(\\[)?(\"[0-9a-zé:.*\\[\\] /-]{0,12}\"|-?[0-9]{0,20})(\\])?") {
        let _ = parse(&format!("{key} = {value}"));
    }

    #[test]
    fn no_upstream_is_fatal(name in "[a-z0-9.:\\[\\]/%é-]{0,12}", url in "[a-z0-9.:/?#@\\[\\]é-]{0,16}", host in "[a-z0-9.:*\\[\\]é-]{0,12}") {
        let _ = parse(&format!("[[upstream]]\nname = '{name}'\nurls = ['https://{url}']\nhosts = ['{host}']\nrealms = ['{host}']"));
    }
}
