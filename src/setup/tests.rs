use super::*;
use crate::{auth, upstream};

/// docker.io, ghcr.io, a private registry with a port, and one that has an alias.
fn offer(access: &auth::Config) -> Offer {
    let at = |name: &str, url: &str| upstream::Config::at(name, &[url]);
    let mut hub = at("docker.io", "https://registry-1.docker.io");
    (hub.default, hub.aliases) = (true, vec!["index.docker.io".into()]);
    let mut own = at("harbor.lan:8443", "https://harbor.lan:8443");
    own.aliases = vec!["harbor".into()];
    let mut private = at("team.lan", "https://team.lan");
    private.access = upstream::Access::Client { ttl: Default::default(), grace: Default::default() };
    Offer::new(&[hub, at("ghcr.io", "https://ghcr.io"), own, private], access)
}

fn origin(text: &str) -> Origin {
    let (scheme, host) = text.split_once("://").unwrap();
    let is_loopback = host.starts_with("127.");
    Origin { scheme: if scheme == "https" { "https" } else { "http" }, host: host.to_owned(), is_loopback }
}

fn setup<'a>(offer: &'a Offer, at: &str) -> Setup<'a> {
    let origin = origin(at);
    Setup {
        takes_passwords: !origin.is_insecure(),
        login: Login::of(&offer.access, !origin.is_insecure()),
        has_ca: false,
        is_dedicated: false,
        unnamed: offer.default(),
        registries: offer.registries.iter().collect(),
        origin,
    }
}

fn file_of(client: Client, setup: &Setup<'_>, path: &str) -> Option<String> {
    Guide::new(client, setup).steps.into_iter().find_map(|step| match step {
        Step::File { path: found, content } if found == path => Some(content),
        _ => None,
    })
}

fn commands_of(client: Client, setup: &Setup<'_>) -> Vec<String> {
    let steps = Guide::new(client, setup).steps.into_iter();
    steps.filter_map(|step| if let Step::Command(command) = step { Some(command) } else { None }).collect()
}

const DAEMON: &str = "/etc/docker/daemon.json";
const HOSTS: &str = "/etc/containerd/certs.d/_default/hosts.toml";
const K3S: &str = "/etc/rancher/k3s/registries.yaml";
const PODMAN: &str = "/etc/containers/registries.conf.d/50-forebay.conf";
const BUILDKIT: &str = "/etc/buildkit/buildkitd.toml";

/// The origins of requests, and some that no request can have: what reads the file must find the very host.
const ORIGINS: [&str; 8] = [
    "http://mirror.lan:5000",
    "https://mirror.lan:5000",
    "http://[fd00::1]:5000",
    "http://127.0.0.1:5000",
    "http://a\"], \"x\": [\"b",
    "http://a\"]\nb = \"c\\",
    "https://a'\u{7f}\u{0}{}#: -\t",
    "http://</code><script>alert(1)</script>",
];

#[test]
fn docker_reads_the_very_host() {
    let offer = offer(&auth::Config::default());
    for at in ORIGINS {
        let setup = setup(&offer, at);
        let json: serde_json::Value = serde_json::from_str(&file_of(Client::Docker, &setup, DAEMON).unwrap()).unwrap();
        assert_eq!(json["registry-mirrors"], serde_json::json!([at]));
        let insecure = json.get("insecure-registries").map(|hosts| hosts.as_array().unwrap().clone());
        let expected = setup.origin.is_insecure().then(|| vec![setup.origin.host.clone().into()]);
        assert_eq!(insecure, expected, "{at}");
        assert_eq!(json.as_object().unwrap().len(), 1 + usize::from(setup.origin.is_insecure()));
        let one: serde_json::Value = serde_json::from_str(&Docker::new(&setup).one_line().unwrap()).unwrap();
        assert_eq!(one, json);
    }
}

#[test]
fn toml_files_have_the_very_host() {
    let offer = offer(&auth::Config::default());
    for at in ORIGINS {
        for has_ca in [false, at.starts_with("https")] {
            let setup = Setup { has_ca, ..setup(&offer, at) };
            let read = |client, path| file_of(client, &setup, path).unwrap().parse::<toml::Table>().unwrap();
            let hosts = read(Client::Containerd, HOSTS);
            assert_eq!(hosts["host"].as_table().unwrap().keys().collect::<Vec<_>>(), [at]);
            assert_eq!(hosts["host"][at].get("ca").is_some(), has_ca);
            let podman = read(Client::Podman, PODMAN);
            let blocks = podman["registry"].as_array().unwrap();
            let locations: Vec<_> =
                blocks.iter().map(|block| block["mirror"][0]["location"].as_str().unwrap()).collect();
            let host = &setup.origin.host;
            assert_eq!(locations, ["docker.io", "ghcr.io", "harbor"].map(|name| format!("{host}/{name}")));
            let is_clear = at.starts_with("http:");
            assert!(blocks.iter().all(|block| block["mirror"][0].get("insecure").is_some() == is_clear));
            assert_eq!(blocks[2]["prefix"].as_str(), Some("harbor.lan:8443"));
            let buildkit = read(Client::Buildkit, BUILDKIT);
            let registries = buildkit["registry"].as_table().unwrap();
            assert_eq!(registries["ghcr.io"]["mirrors"][0].as_str(), Some(&**host));
            let http = registries.get(&**host).and_then(|section| section.get("http")?.as_bool());
            assert_eq!(http, is_clear.then_some(true), "{at}");
        }
    }
}

/// The only values of the file are strings, each on a line of its own; YAML reads a string of JSON as JSON does.
#[test]
fn the_yaml_of_k3s_has_the_very_host() {
    let access = auth::Config {
        anonymous: auth::Anonymous::None,
        htpasswd: Some("users".into()),
        allow_clear_login: true,
        ..auth::Config::default()
    };
    let offer = offer(&access);
    for at in ORIGINS {
        let setup = Setup { login: Login::Needed, has_ca: at.starts_with("https"), ..setup(&offer, at) };
        let yaml = file_of(Client::K3s, &setup, K3S).unwrap();
        let line = |start: &str| yaml.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        assert_eq!(serde_json::from_str::<String>(line("      - ")).unwrap(), at);
        let (_, configs) = yaml.split_once("configs:\n").unwrap();
        let key = configs.lines().next().unwrap().trim().strip_suffix(':').unwrap();
        assert_eq!(serde_json::from_str::<String>(key).unwrap(), setup.origin.host);
        assert_eq!(yaml.lines().count(), if setup.has_ca { 11 } else { 9 }, "{yaml}");
    }
}

#[test]
fn docker_pulls_by_name_what_it_has_no_mirror_for() {
    let open = auth::Config::default();
    let closed =
        auth::Config { anonymous: auth::Anonymous::None, htpasswd: Some("users".into()), ..auth::Config::default() };
    let certificates = auth::Config { htpasswd: None, ..closed.clone() };
    let pull = "docker pull m.lan:5000/ghcr.io/REPOSITORY:TAG";
    for (access, at, expected) in [
        (&open, "http://m.lan:5000", &[pull][..]),
        (&open, "https://m.lan:5000", &[pull]),
        (&closed, "https://m.lan:5000", &["docker login m.lan:5000", pull]),
        // Passwords are for TLS.
        (&closed, "http://m.lan:5000", &[]),
        (&certificates, "https://m.lan:5000", &[pull]),
    ] {
        let offer = offer(access);
        let setup = setup(&offer, at);
        let commands = commands_of(Client::Docker, &setup);
        let docker: Vec<_> = commands.iter().filter(|command| command.starts_with("docker ")).collect();
        assert_eq!(docker, expected, "{at} {access:?}");
        let mirror = file_of(Client::Docker, &setup, DAEMON).is_some_and(|json| json.contains("registry-mirrors"));
        assert_eq!(mirror, access.anonymous == auth::Anonymous::Pull, "Docker does not log in at a mirror");
    }
}

#[test]
fn a_host_of_one_registry_is_offered_for_it_alone() {
    let offer = offer(&auth::Config { allow_clear_login: true, ..auth::Config::default() });
    for (name, location) in [("ghcr.io", "m.lan:5000"), ("team.lan", "m.lan:5000")] {
        let registry = offer.registries.iter().find(|registry| *registry.name == *name).unwrap();
        let setup = Setup {
            is_dedicated: true,
            unnamed: Some(registry),
            registries: vec![registry],
            ..setup(&offer, "https://m.lan:5000")
        };
        assert!(file_of(Client::Docker, &setup, DAEMON).is_none(), "it is no mirror of Docker Hub");
        let commands = commands_of(Client::Docker, &setup);
        assert!(commands.contains(&format!("docker pull {location}/REPOSITORY:TAG")), "{commands:?}");
        assert_eq!(commands.contains(&format!("docker login {location}")), registry.wants_login, "{commands:?}");
        let podman = file_of(Client::Podman, &setup, PODMAN).unwrap();
        assert_eq!(podman.matches("prefix = ").count(), 1);
        assert!(podman.contains(&format!("location = \"{location}\"\n")), "{podman}");
    }
}

#[test]
fn a_stranger_is_told_no_registry() {
    let offer = offer(&auth::Config::default());
    let known = setup(&offer, "https://m.lan:5000");
    let stranger = Setup { registries: Vec::new(), unnamed: None, login: Login::Needed, ..known };
    for client in Client::ALL {
        let text = Guide::new(client, &stranger).text();
        for secret in ["ghcr.io", "harbor", "team.lan"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("m.lan:5000"), "{text}");
    }
}

#[test]
fn the_text_of_a_guide_is_a_file_with_comments() {
    let offer = offer(&auth::Config::default());
    let setup = Setup { has_ca: true, ..setup(&offer, "https://m.lan:5000") };
    for client in [Client::Containerd, Client::Podman, Client::Buildkit] {
        let text = Guide::new(client, &setup).text();
        assert!(text.parse::<toml::Table>().is_ok(), "{text}");
        assert!(!text.contains("-k") && text.contains("/mirror-ca.crt") | text.contains("/ca.crt"), "{text}");
    }
}
