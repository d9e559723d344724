//! The configuration as an operator meets it: what a file means, and what is said about a bad one.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, time::Duration};

use forebay::{
    auth::Anonymous,
    config::{Config, Error, Overrides, parse_size},
    upstream::CredentialSource,
};
use proptest::prelude::*;
use tempfile::TempDir;

const EXAMPLE: &str = include_str!("../../config.example.toml");

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
fn a_bad_flag_is_named_as_a_flag() {
    let same: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let error = Config::load(None, Overrides { admin: Some(same), ..overrides() }).unwrap_err();
    assert!(error.to_string().starts_with("--admin: 127.0.0.1:5000 is where the registry listens"), "{error}");
    let error = Config::load(None, Overrides { max_size: Some(0), ..overrides() }).unwrap_err();
    assert!(error.to_string().starts_with("--max-size: "), "{error}");
}

/// Text, the line and key that must be named, and what must be said.
const REFUSED: &[(&str, usize, &str, &str)] = &[
    // What the parser finds.
    ("[server]\nlisten = [\"127.0.0.1:5000\"", 2, "server.listen[0]", "unclosed array"),
    ("[server]\n\nlisen = []", 3, "server.lisen", "unknown field `lisen`"),
    ("[serve]\nlisten = []", 1, "serve", "unknown field `serve`"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"c.d\"\nurl = \"x\"",
        5,
        "upstream[1].url",
        "unknown field `url`",
    ),
    ("[server]\nclear_http = \"yes\"", 2, "server.clear_http", "expected a boolean"),
    ("[server]\nlisten = [1]", 2, "server.listen[0]", "expected a string"),
    ("[server]\nmax_connections = -1", 2, "server.max_connections", "-1"),
    ("[server]\ndrain_timeout = \"soon\"", 2, "server.drain_timeout", "must be a duration such as \"30s\""),
    (
        "[server]\ntrusted_networks = [\"10.0.0.0/8\", \"10.0.0.1/8\"]",
        2,
        "server.trusted_networks[1]",
        "write 10.0.0.0/8",
    ),
    ("[server]\ntrusted_networks = [\"cluster\"]", 2, "server.trusted_networks[0]", "must be a network such as"),
    ("[server]\ndrain_timeout = 30", 2, "server.drain_timeout", "must be a duration such as"),
    ("[cache]\ntag_ttl = \"200 years\"", 2, "cache.tag_ttl", "100 years"),
    ("[cache]\nmax_size = \"much\"", 2, "cache.max_size", "must be a size such as \"50 GiB\""),
    ("[cache]\nmax_size = -1", 2, "cache.max_size", "must be a size such as \"50 GiB\""),
    ("[cache]\nmax_size = 1.5", 2, "cache.max_size", "must be a size such as \"50 GiB\""),
    ("[cache]\nmin_free = \"9 EiB\"", 2, "cache.min_free", "at most 1 EiB"),
    ("[access]\nanonymous = \"push\"", 2, "access.anonymous", "unknown variant `push`"),
    ("[server]\n[server.tls]\nkey = \"tls.key\"", 2, "server.tls", "missing field `certificate`"),
    ("[[upstream]]\nurls = []", 1, "upstream[0]", "missing field `name`"),
    ("[cache]\nmax_size = 1\nmax_size = 2", 3, "cache.max_size", "duplicate key"),
    ("[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = 'c.d", 4, "upstream[1].name", "literal string"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"c.d\"\nname = \"e.f\"",
        5,
        "upstream[1].name",
        "duplicate key",
    ),
    // What makes no sense by itself.
    ("state_directory = \"\"", 1, "state_directory", "must not be empty"),
    ("state_directory = \"/cache/keys\"", 1, "state_directory", "must not be in the cache directory"),
    ("[server]\nlisten = []", 2, "server.listen", "at least one"),
    (
        "[server]\nlisten = [\n  \"127.0.0.1:1\",\n  \"localhost:5000\",\n]",
        4,
        "server.listen[1]",
        "must be ADDRESS:PORT",
    ),
    ("[server]\nlisten = [\":5000\"]", 2, "server.listen[0]", "must be ADDRESS:PORT"),
    ("[server]\nlisten = [\"127.0.0.1:7\", \"127.0.0.1:7\"]", 2, "server.listen", "twice"),
    ("[server]\nmax_connections = 0", 2, "server.max_connections", "at least 1"),
    ("[server]\nclear_http = false", 2, "server.clear_http", "nothing would be served"),
    ("[admin]\nlisten = \"5001\"", 2, "admin.listen", "must be ADDRESS:PORT"),
    ("[admin]\nlisten = \"127.0.0.1:5000\"", 2, "admin.listen", "an address of its own"),
    ("[cache]\nmax_size = 0", 2, "cache.max_size", "more than 0"),
    ("[cache]\nmin_free = \"1 EiB\"", 2, "cache.min_free", "must be less than the file system"),
    ("[access]\npush_users = \"ci\"", 2, "access.push_users", "expected a sequence"),
    ("[access]\npush_users = [\"ci\"]", 2, "access.push_users[0]", "access.htpasswd is not set"),
    ("[access]\npush_users = [\"\"]", 2, "access.push_users[0]", "must not be empty"),
    ("[access]\npush_users = [\"certificate:*\"]", 2, "access.push_users[0]", "server.tls.client_ca is not set"),
    ("[access]\npush_users = [\"certificate:ci\"]", 2, "access.push_users[0]", "must be a user of access.htpasswd"),
    ("[access]\nhtpasswd = \"htpasswd\"\npush_users = [\"ci\", \"ci\"]", 3, "access.push_users[1]", "twice"),
    ("[access]\nanonymous = \"none\"", 2, "access.anonymous", "no client could pull"),
    // Files.
    ("[server.tls]\ncertificate = \"no.crt\"\nkey = \"tls.key\"", 2, "server.tls.certificate", "no.crt: No such file"),
    ("[server.tls]\ncertificate = \"tls.crt\"\nkey = \"no.key\"", 3, "server.tls.key", "no.key: No such file"),
    (
        "[server.tls]\ncertificate=\"tls.crt\"\nkey=\"tls.key\"\nclient_ca = \".\"",
        4,
        "server.tls.client_ca",
        "not a regular file",
    ),
    ("[access]\nhtpasswd = \"none\"", 2, "access.htpasswd", "No such file"),
    ("[[upstream]]\nname = \"a.b\"\nca = \"no\"", 3, "upstream[0].ca", "No such file"),
    (
        "[[upstream]]\nname = \"a.b\"\nusername = \"u\"\npassword_file = \"no\"",
        4,
        "upstream[0].password_file",
        "No such file",
    ),
    ("[[upstream]]\nname = \"a.b\"\ndocker_config = \"no\"", 3, "upstream[0].docker_config", "No such file"),
    // One upstream.
    ("[[upstream]]\nname = \"\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"https://a.b\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"a.b/c\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"..\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"V2\"", 2, "upstream[0].name", "reserved"),
    ("[[upstream]]\nname = \"none\"", 2, "upstream[0].name", "reserved"),
    ("[[upstream]]\nname = \"a.b\"\naliases = [\"ok\", \"a b\"]", 3, "upstream[0].aliases[1]", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"a.b\"\nconnections = 0", 3, "upstream[0].connections", "1 to 16"),
    ("[[upstream]]\nname = \"a.b\"\nconnections = 17", 3, "upstream[0].connections", "1 to 16"),
    ("[cache]\nverify_every = 7", 2, "cache.verify_every", "must be a duration such as \"30s\""),
    ("[cache]\nverify_every = \"-1d\"", 2, "cache.verify_every", "must be a duration"),
    ("[cache]\nverify_every = true", 2, "cache.verify_every", "must be a duration"),
    ("[cache]\nprefetch = 17", 2, "cache.prefetch", "0 to 16"),
    ("[[upstream]]\nname = \"a.b\"\nurls = []", 3, "upstream[0].urls", "at least one URL"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"a.b\"]", 3, "upstream[0].urls[0]", "must be a URL"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b\", \"ftp://a.b\"]", 3, "upstream[0].urls[1]", "not ftp:"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b?x=1\"]", 3, "upstream[0].urls[0]", "query"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b#x\"]", 3, "upstream[0].urls[0]", "fragment"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b/v2/\"]", 3, "upstream[0].urls[0]", "forebay adds it"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://u@a.b\"]", 3, "upstream[0].urls[0]", "password_file"),
    ("[[upstream]]\nname = \"a.b\"\nhosts = [\"http://x/\"]", 3, "upstream[0].hosts[0]", "must be a name"),
    ("[server]\nallowed_hosts = [\"a.lan\", \"*:5000\"]", 2, "server.allowed_hosts[1]", "not any name"),
    ("[admin]\nallowed_hosts = [\"*.lan\"]", 2, "admin.allowed_hosts[0]", "must be a name"),
    ("[[upstream]]\nname = \"a.b\"\nhosts = [\"x\", \"*:http\"]", 3, "upstream[0].hosts[1]", "must be a name"),
    (
        "[[upstream]]\nname = \"a.b\"\nrealms = [\"https://auth.b/token\"]",
        3,
        "upstream[0].realms[0]",
        "HOST or HOST:PORT",
    ),
    ("[[upstream]]\nname = \"a.b\"\nrealms = [\"*.b\"]", 3, "upstream[0].realms[0]", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"a.b\"\nusername = \"u\"", 3, "upstream[0].username", "needs password_file"),
    (
        "[[upstream]]\nname = \"a.b\"\npassword_file = \"hub.password\"",
        3,
        "upstream[0].password_file",
        "needs username",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nusername = \"u:v\"\npassword_file = \"hub.password\"",
        3,
        "upstream[0].username",
        "colon",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nusername = \"u\"\npassword_file = \"hub.password\"\ncredential_helper = \"x\"",
        5,
        "upstream[0].credential_helper",
        "already come from username",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\ndocker_config = \"config.json\"\ncredential_helper = \"x\"",
        3,
        "upstream[0].docker_config",
        "already come from credential_helper",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\ncredential_helper = \"../x\"",
        3,
        "upstream[0].credential_helper",
        "docker-credential-",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b\", \"http://c.d\"]\ndocker_config = \"config.json\"",
        3,
        "upstream[0].urls",
        "must not mix https and http",
    ),
    // What the next version does.
    ("[push]\nkey_file = \"missing.key\"", 2, "push.key_file", "cannot read"),
    ("[push]\nkey = \"x\"", 2, "push.key", "unknown field"),
    ("[[upstream]]\nname = \"a.b\"\npush = \"yes\"", 3, "upstream[0].push", "invalid type"),
    ("[[upstream]]\nname = \"a.b\"\naccess = \"all\"", 3, "upstream[0].access", "unknown variant `all`"),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\ncredential_helper = \"x\"",
        3,
        "upstream[0].access",
        "only the client's own credentials are used",
    ),
    ("[[upstream]]\nname = \"a.b\"\naccess_ttl = \"1m\"", 3, "upstream[0].access_ttl", "needs access = \"client\""),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\naccess_grace = \"1s\"",
        4,
        "upstream[0].access_grace",
        "must be at least access_ttl",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\nurls = [\"https://a.b\", \"http://a.b\"]",
        4,
        "upstream[0].urls",
        "must not mix https and http",
    ),
    ("[access]\naccess_ttl = \"1x\"", 2, "access.access_ttl", "must be a duration"),
    // Two upstreams.
    ("[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"A.B\"", 4, "upstream[1].name", "already a name of a.b"),
    ("[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"a.b:443\"", 4, "upstream[1].name", "already a name of a.b"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"c.d\"\naliases = [\"x\", \"a.b\"]",
        5,
        "upstream[1].aliases[1]",
        "already a name of a.b",
    ),
    (
        "[[upstream]]\nname = \"docker.io\"\n[[upstream]]\nname = \"index.docker.io\"",
        4,
        "upstream[1].name",
        "already a name of docker.io",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\naliases = [\"a.b\"]",
        3,
        "upstream[0].aliases[0]",
        "already a name of this upstream",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nhosts = [\"m.lan\"]\n[[upstream]]\nname = \"c.d\"\nhosts = [\"M.lan\"]",
        6,
        "upstream[1].hosts[0]",
        "already belongs to a.b",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\ndefault = true\n[[upstream]]\nname = \"c.d\"\ndefault = true",
        6,
        "upstream[1].default",
        "a.b is the default already",
    ),
];

#[test]
fn what_is_wrong_is_named_with_file_line_and_key() {
    let directory = directory();
    for (text, line, key, said) in REFUSED {
        let error = parse_in(directory.path(), text).expect_err(text);
        let seen = error.to_string();
        assert_eq!(error.key(), Some(*key), "{text}\n{seen}");
        assert_eq!(error.position().map(|position| position.line), Some(*line), "{text}\n{seen}");
        assert!(error.problem().contains(said), "{text}\n{seen}");
        let place = format!("{}:{line}:", directory.path().join("forebay.toml").display());
        assert!(seen.starts_with(&place), "{text}\n{seen}");
        assert!(!seen.contains('\n'), "{text}\n{seen}");
    }
}

#[test]
fn urls_may_mix_schemes_where_there_is_no_password_to_lose() {
    for text in [
        "urls = [\"https://a.b\", \"http://c.d\"]",
        "urls = [\"http://a.b\", \"http://c.d\"]\ncredential_helper = \"x\"",
        "urls = [\"https://a.b\", \"https://c.d\"]\ncredential_helper = \"x\"",
    ] {
        assert!(parse(&format!("[[upstream]]\nname = \"a.b\"\n{text}")).is_ok(), "{text}");
    }
}

#[test]
fn a_column_counts_characters() {
    let error = parse("[server]\n'é' = 1").unwrap_err();
    assert_eq!(error.position().map(|position| (position.line, position.column)), Some((2, 1)));
    let error = parse("server = { listen = [\"é\", \"x\"] }").unwrap_err();
    assert_eq!(error.key(), Some("server.listen[0]"));
    let error = parse("access.anonymous = \"pull\" # é\nserver.listen = [\"127.0.0.1:1\", \"é\"]").unwrap_err();
    assert_eq!(error.position().map(|position| (position.line, position.column)), Some((2, 33)));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/forebay.toml")), overrides()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nowhere/forebay.toml: cannot read the configuration file: No such file or directory (os error 2)"
    );
}

/// A password that was written into a URL by mistake must not go into a log.
#[test]
fn a_password_is_not_repeated() {
    let error = parse("[[upstream]]\nname = \"a.b\"\nurls = [\"https://user:hunter2@a.b\"]").unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
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

/// `#key = …` and `#[table]` are settings that are switched off; `# …` is prose.
fn switched_on(example: &str) -> String {
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with([' ', '#']) => setting,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_what_the_defaults_are() {
    assert_eq!(parse(EXAMPLE).unwrap(), parse("").unwrap());
}

#[test]
fn the_example_with_everything_switched_on_is_good() {
    parse(&switched_on(EXAMPLE)).unwrap();
}

/// Which keys there are is learnt from what the parser expects in place of an unknown one, so a
/// key that is added to the code and not to the example fails here.
#[test]
fn the_example_names_every_key_that_exists() {
    let mut exist = BTreeSet::new();
    collect_keys("", &mut exist);
    assert!(exist.contains("server.tls.client_ca") && exist.contains("upstream.push"), "{exist:?}");

    let example: toml::Table = switched_on(EXAMPLE).parse().unwrap();
    let mut named = BTreeSet::new();
    collect_named("", &toml::Value::Table(example), &mut named);
    assert_eq!(exist.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new(), "missing in config.example.toml");
}

#[test]
fn every_key_of_the_example_says_what_it_is_for() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line);
        if setting.contains(" = ") && !setting.starts_with('#') {
            let before = index.checked_sub(1).map_or("", |index| lines[index]);
            assert!(line.contains(" # ") || before.starts_with("# "), "line {}: {line}", index + 1);
        }
    }
}

/// Every key beneath `table`, by its path without indices.
fn collect_keys(table: &str, keys: &mut BTreeSet<String>) {
    const PROBE: &str = "no-such-key";
    let sections = [format!("[{table}]\n"), format!("[[{table}]]\n")];
    let sections = if table.is_empty() { vec![String::new()] } else { sections.to_vec() };
    let found = sections.iter().find_map(|section| {
        let error = parse(&format!("{section}{PROBE} = 1")).err()?;
        let expected = error.problem().strip_prefix(&format!("unknown field `{PROBE}`, expected "))?;
        Some(expected.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
    });
    for key in found.unwrap_or_default() {
        let path = if table.is_empty() { key } else { format!("{table}.{key}") };
        collect_keys(&path, keys);
        keys.insert(path);
    }
}

fn collect_named(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect_named(&path, value, keys);
                keys.insert(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| collect_named(path, item, keys)),
        _ => {}
    }
}
