use std::fs;

use tempfile::TempDir;

use super::{super::Overrides, *};

/// Every key, with a value that is not its default.
const EVERYTHING: &str = r#"
state_directory = "state"
[server]
listen = ["127.0.0.1:5010", "[::1]:5010"]
clear_http = false
max_connections = 100
drain_timeout = "90s"
drain_delay = "5s"
trusted_networks = ["10.0.0.0/8", "192.0.2.7"]
allowed_hosts = ["mirror.lan", "other.lan:5010"]
page = false
[server.tls]
certificate = "file"
key = "file"
client_ca = "file"
[admin]
listen = "127.0.0.1:5011"
allowed_hosts = ["admin.lan"]
socket = "control.sock"
socket_group = "operators"
token_file = "/etc/forebay/admin.token"
[cache]
directory = "cache"
max_size = 123456789
min_free = 0
manifest_memory = "1 MiB"
tag_ttl = "0"
stale_if_error = "36h"
negative_ttl = "1500ms"
prefetch = 0
verify_every = "1d"
[download]
complete = "never"
[access]
anonymous = "none"
htpasswd = "file"
push_users = ["ci", "certificate:*"]
allow_clear_login = true
client_rate = "100 MB/s"
access_ttl = "5m"
access_grace = "2h"
[push]
key_file = "file"
[[upstream]]
name = "docker.io"
default = false
username = "someone"
password_file = "file"
push = true
[[upstream]]
name = "harbor.lan:8443"
urls = ["http://10.0.0.1:80", "http://10.0.0.2"]
aliases = ["harbor"]
hosts = ["harbor.mirror.lan", "*:5010"]
default = true
library = true
realms = ["auth.lan:443"]
ca = "file"
access = "client"
connections = 2
connect_timeout = "3s"
response_timeout = "4s"
idle_timeout = "6s"
max_rate_in = "50 MB/s"
max_rate_out = "500 MB/s"
[[upstream]]
name = "ghcr.io"
credential_helper = "helper"
[[upstream]]
name = "quay.io"
docker_config = "file"
[[upstream.rule]]
match = "quay.io/*"
tag_ttl = "2h"
stale_if_error = "3d"
immutable = false
freeze = true
minimum_age = "7d"
minimum_age_first = "allow"
deny = false
[[rule]]
match = "*:v*"
tag_ttl = "2h"
stale_if_error = "3d"
immutable = false
freeze = true
minimum_age = "7d"
minimum_age_first = "allow"
deny = false
[[warm]]
images = ["docker.io/o/app:v3", "docker.io/library/node"]
every = "6h"
platforms = ["linux/arm64", "linux/arm/v7"]
[[warm]]
images = ["docker.io/library/node"]
at = "02:00"
platforms = ["all"]
pin = "30d"
[[warm]]
images = ["docker.io/library/node"]
at = "23:59"
"#;

fn parse(directory: &TempDir, text: &str) -> Config {
    fs::write(directory.path().join("file"), "content").unwrap();
    let overrides = Overrides { cache_dir: None, ..Overrides::default() };
    let text = format!("{text}\n");
    Config::parse(&text, &directory.path().join("forebay.toml"), overrides).unwrap()
}

#[test]
fn what_is_shown_leads_to_the_same_configuration() {
    let directory = tempfile::tempdir().unwrap();
    for text in [EVERYTHING, "[cache]\ndirectory = \"/cache\"\n"] {
        let config = parse(&directory, text);
        let shown = to_toml(&settings(&config), None);
        assert_eq!(parse(&directory, &shown), config, "{shown}");
        // Each key of a section stands once, also to the eye of a person.
        shown.parse::<toml::Table>().unwrap_or_else(|error| panic!("{error}\n{shown}"));
    }
}

#[test]
fn each_value_is_spelt_as_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let shown = to_toml(&settings(&parse(&directory, EVERYTHING)), None);
    for line in [
        "drain_delay = \"5s\"",
        "client_rate = \"100 MB/s\"",
        "idle_timeout = \"6s\"",
        "max_rate_in = \"50 MB/s\"",
        "[server.tls]",
        "listen = [\"127.0.0.1:5010\", \"[::1]:5010\"]",
        "max_size = 123456789",
        "manifest_memory = \"1 MiB\"",
        "drain_timeout = \"90s\"",
        "push_users = [\"ci\", \"certificate:*\"]",
        "access_ttl = \"5m\"",
        &format!("password_file = \"{}\"", directory.path().join("file").display()),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("content"), "the content of files is not shown: {shown}");
}

#[test]
fn a_comment_tells_where_a_value_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&parse(&directory, "[cache]\ndirectory = \"/cache\"\n"));
    let place = |key: &Key| match key.as_str() {
        "cache.directory" => Place::Flag("--cache-dir".into()),
        "upstream[1].name" => Place::Variable("FOREBAY_X".into()),
        _ => Place::Default,
    };
    let shown = to_toml(&settings, Some(&place));
    assert!(shown.contains("\nmax_size = \"50 GiB\"  # default\n"), "{shown}");
    assert!(shown.contains("\ndirectory = \"/cache\"  # --cache-dir\n"), "{shown}");
    assert!(shown.contains("\nname = \"ghcr.io\"  # FOREBAY_X\n"), "{shown}");
}

#[test]
fn json_is_nested_as_the_file_is() {
    let directory = tempfile::tempdir().unwrap();
    let json = to_json(&settings(&parse(&directory, EVERYTHING)));
    assert_eq!(json["cache"]["max_size"], 123_456_789);
    assert_eq!(json["server"]["tls"]["key"], directory.path().join("file").to_str().unwrap());
    assert_eq!(json["upstream"][1]["hosts"], serde_json::json!(["harbor.mirror.lan", "*:5010"]));
    assert_eq!(json["upstream"].as_array().map(Vec::len), Some(4));
}
