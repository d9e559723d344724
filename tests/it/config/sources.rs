//! Where a configuration comes from: file, variables, flags; and which of them wins.

use std::ffi::OsString;

use forebay::config::{Key, Loaded, Place, Variables, compose};

use super::*;

const FILE: &str = "/etc/forebay/forebay.toml";

fn loaded(text: &str, variables: &[(&str, &str)], flags: Overrides) -> Result<Loaded, Error> {
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    compose(Some(Path::new(FILE)), text, &Variables::new(variables.iter().map(pair)), flags)
}

fn with(text: &str, variables: &[(&str, &str)]) -> Config {
    loaded(text, variables, overrides()).unwrap().config
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let text = "server.listen = \"127.0.0.1:1\"\ncache.max_size = 1\ncache.tag_ttl = \"1s\"\n";
    let variables = [
        ("FOREBAY_SERVER__LISTEN", "127.0.0.1:2,:3"),
        ("FOREBAY_CACHE__MAX_SIZE", "2"),
        ("FOREBAY_CACHE__TAG_TTL", ""),
    ];
    let flags = Overrides { max_size: Some(3), ..overrides() };
    let Loaded { config, origins, warnings, file } = loaded(text, &variables, flags).unwrap();
    assert_eq!(config.server.listen, ["127.0.0.1:2".parse().unwrap(), "[::]:3".parse().unwrap()]);
    assert_eq!(config.cache.max_size, 3);
    assert_eq!(config.cache.tag_ttl, Duration::from_secs(1), "an empty variable is no variable");
    assert_eq!((warnings, file.as_deref()), (Vec::new(), Some(Path::new(FILE))));
    for (key, place) in [
        ("server.listen", "FOREBAY_SERVER__LISTEN".to_owned()),
        ("cache.max_size", "--max-size".to_owned()),
        ("cache.tag_ttl", format!("{FILE}:3:7")),
        ("cache.directory", "--cache-dir".to_owned()),
        ("cache.min_free", "default".to_owned()),
    ] {
        assert_eq!(origins.of(&Key::new(key)).to_string(), place, "{key}");
    }
    assert_eq!(origins.of(&Key::new("admin.listen")), Place::Default);
    let said = origins.mistake(&Key::new("cache.tag_ttl"), "wrong").to_string();
    assert_eq!(said, format!("{FILE}:3:7: cache.tag_ttl: wrong"));
    assert_eq!(origins.mistake(&Key::new("cache.max_size"), "wrong").to_string(), "--max-size: wrong");
}

#[test]
fn variables_set_values_of_every_kind() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let variables = [
        ("FOREBAY_SERVER__TLS__CERTIFICATE", path("tls.crt")),
        ("FOREBAY_SERVER__TLS__KEY", path("tls.key")),
        ("FOREBAY_SERVER__CLEAR_HTTP", "false".to_owned()),
        ("FOREBAY_SERVER__MAX_CONNECTIONS", "7".to_owned()),
        ("FOREBAY_SERVER__TRUSTED_NETWORKS", "10.0.0.0/8, fd00::/8".to_owned()),
        ("FOREBAY_CACHE__MIN_FREE", "4096".to_owned()),
        ("FOREBAY_CACHE__VERIFY_EVERY", "0".to_owned()),
        ("FOREBAY_ACCESS__ANONYMOUS", "none".to_owned()),
        ("FOREBAY_ACCESS__HTPASSWD", path("htpasswd")),
        ("FOREBAY_STATE_DIRECTORY", "/keys".to_owned()),
        ("FOREBAY_UPSTREAM__GHCR_IO__USERNAME", "ci".to_owned()),
        ("FOREBAY_UPSTREAM__GHCR_IO__PASSWORD_FILE", path("hub.password")),
        ("FOREBAY_UPSTREAM__HARBOR__NAME", "harbor".to_owned()),
        ("FOREBAY_UPSTREAM__HARBOR__URLS", "https://one.lan,https://two.lan".to_owned()),
    ];
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let config = with("", &variables);
    let tls = config.server.tls.unwrap();
    assert_eq!((tls.certificate, tls.key), (directory.path().join("tls.crt"), directory.path().join("tls.key")));
    assert!(!config.server.clear_http);
    assert_eq!((config.server.max_connections, config.server.trusted_networks.len()), (7, 2));
    assert_eq!((config.cache.min_free, config.cache.verify_every), (4096, Duration::ZERO));
    assert_eq!(config.access.anonymous, Anonymous::None);
    assert_eq!(config.state_directory.as_deref(), Some(Path::new("/keys")));
    let names: Vec<_> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!((names.len(), names[1], names[10]), (11, "ghcr.io", "harbor"), "the built-in list, and one more");
    assert!(matches!(&config.upstreams[1].credential, CredentialSource::Password { username, .. } if username == "ci"));
    assert_eq!(config.upstreams[10].urls.len(), 2);
}

/// A variable amends an upstream of the file, and does not bring back the built-in list.
#[test]
fn an_upstreams_variable_amends_the_one_of_the_file() {
    let text = "[[upstream]]\nname = \"Harbor.lan:8443\"\nconnections = 2\n";
    let config = with(text, &[("FOREBAY_UPSTREAM__HARBOR_LAN_8443__CONNECTIONS", "3")]);
    assert_eq!(config.upstreams.len(), 1);
    assert_eq!(config.upstreams[0].connections, 3);
}

#[test]
fn one_value_is_a_list_of_one_for_every_list() {
    let text = |listed: bool| {
        let value = |value: &str| if listed { format!("[\"{value}\"]") } else { format!("\"{value}\"") };
        format!(
            "[server]\nlisten = {}\ntrusted_networks = {}\nallowed_hosts = {}\n[admin]\nallowed_hosts = {}\n\
             [access]\nhtpasswd = \"htpasswd\"\npush_users = {}\n[[upstream]]\nname = \"a.b\"\nurls = {}\naliases = {}\n\
             hosts = {}\nrealms = {}\n[cluster]\npeers = {}\nkey_file = \"cluster.key\"\n\
             [store]\nurl = \"s3://a\"\nredirect_clients = {}\n\
             [[warm]]\nimages = {}\nat = \"02:00\"\nplatforms = {}\n",
            value(":5000"),
            value("10.0.0.0/8"),
            value("mirror.lan"),
            value("admin.lan"),
            value("ci"),
            value("https://a.b"),
            value("b.c"),
            value("hub.lan"),
            value("auth.b"),
            value("dns:peers.lan:5000"),
            value("10.0.0.0/8"),
            value("a.b/c"),
            value("linux/arm64")
        )
    };
    let directory = directory();
    let read = |listed: bool| parse_in(directory.path(), &text(listed)).unwrap();
    assert_eq!(read(true), read(false));
    assert_eq!(read(false).server.listen, ["[::]:5000".parse().unwrap()]);
    // A list takes a list, and nothing else does.
    let lists = forebay::config::keys().into_iter().filter(|key| {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let said = |header: String| {
            parse(&format!("{header}\n{name} = []\n")).map_or_else(|error| error.to_string(), |_| String::new())
        };
        // The rules of an upstream stand in an upstream.
        let one = match section {
            "" => said(String::new()),
            "upstream.rule" => said("[[upstream]]\nname = \"a.b\"\n[[upstream.rule]]".to_owned()),
            section => said(format!("[{section}]")),
        };
        let said = if one.contains("two brackets") { said(format!("[[{section}]]")) } else { one };
        !said.contains("a list")
    });
    let tested = text(true);
    for list in lists {
        let name = list.rsplit('.').next().unwrap();
        assert!(tested.contains(&format!("{name} = ")), "{list} is a list, and is not tested here");
    }
}

#[test]
fn a_relative_path_of_a_variable_is_not_relative_to_the_file() {
    let text = "state_directory = \"keys\"\n";
    assert_eq!(with(text, &[]).state_directory.as_deref(), Some(Path::new("/etc/forebay/keys")));
    let config = with(text, &[("FOREBAY_STATE_DIRECTORY", "keys")]);
    assert_eq!(config.state_directory.as_deref(), Some(Path::new("keys")));
}

/// Whatever Kubernetes puts into the environment of a pod beside a Service of this name.
#[test]
fn the_variables_of_kubernetes_change_nothing() {
    let address = "tcp://10.96.0.7:5000";
    let variables = [
        ("FOREBAY_SERVICE_HOST", "10.96.0.7"),
        ("FOREBAY_SERVICE_PORT", "5000"),
        ("FOREBAY_SERVICE_PORT_REGISTRY", "5000"),
        ("FOREBAY_PORT", address),
        ("FOREBAY_PORT_5000_TCP", address),
        ("FOREBAY_PORT_5000_TCP_PROTO", "tcp"),
        ("FOREBAY_PORT_5000_TCP_PORT", "5000"),
        ("FOREBAY_PORT_5000_TCP_ADDR", "10.96.0.7"),
        ("FOREBAY_LOG", "info"),
    ];
    let loaded = loaded("", &variables, overrides()).unwrap();
    assert_eq!((loaded.warnings, loaded.config), (Vec::new(), with("", &[])));
}
