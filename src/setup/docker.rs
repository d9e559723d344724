//! Docker: `/etc/docker/daemon.json`, and pulls by name.

use super::{
    Login, Registry, Setup,
    escape::{json, shell},
    step::{Step, command, file, install_ca, note},
};

/// A key of `daemon.json` and the only element of its list.
type Key = (&'static str, String);

/// What to write for the Docker daemon.
#[derive(Clone, Debug)]
pub struct Docker {
    keys: Vec<Key>,
    /// What stands in front of the repository, to pull from a registry that Docker has no mirror for.
    location: Option<String>,
    /// The host to log in at before that.
    login: Option<String>,
}

impl Docker {
    pub fn new(setup: &Setup<'_>) -> Self {
        let Setup { origin, .. } = setup;
        let is_mirror = |registry: &&Registry| registry.is_docker_mirror;
        let mirror = setup.unnamed.filter(is_mirror);
        let is_mirrored = |registry: &Registry| mirror.is_some_and(|mirror| mirror.name == registry.name);
        let by_name = setup.locations().find(|(registry, _)| !setup.is_unnamed(registry));
        let by_name = by_name.or_else(|| setup.locations().find(|(registry, _)| !is_mirrored(registry)));
        let wants_login = by_name.as_ref().is_some_and(|(registry, _)| registry.wants_login);
        let location = match setup.registries.is_empty() {
            true => Some(format!("{}/REGISTRY", origin.host)),
            false => by_name.map(|(_, location)| location),
        };
        let mut keys = Vec::new();
        if mirror.is_some() {
            keys.push(("registry-mirrors", origin.to_string()));
        }
        if origin.is_insecure() && location.is_some() {
            keys.push(("insecure-registries", origin.host.clone()));
        }
        let needs_login = location.is_some() && (setup.login == Login::Needed || wants_login);
        let login = needs_login.then(|| origin.host.clone());
        Self { keys, location, login }
    }

    /// `daemon.json` in one line; `None`: it needs no change.
    pub fn one_line(&self) -> Option<String> {
        let keys: Vec<String> = self.keys.iter().map(|(key, value)| format!("\"{key}\": [{}]", json(value))).collect();
        (!keys.is_empty()).then(|| format!("{{ {} }}", keys.join(", ")))
    }

    fn lines(&self) -> Option<String> {
        let line = |(key, value): &Key| format!("  \"{key}\": [{}]", json(value));
        let lines: Vec<String> = self.keys.iter().map(line).collect();
        (!lines.is_empty()).then(|| format!("{{\n{}\n}}\n", lines.join(",\n")))
    }

    /// The commands that pull from a registry by its name.
    pub fn pull(&self) -> Vec<String> {
        let login = self.login.iter().map(|host| format!("docker login {}", shell(host)));
        let pull = |location: &String| format!("docker pull {}", shell(&format!("{location}/REPOSITORY:TAG")));
        login.chain(self.location.iter().map(pull)).collect()
    }
}

pub(super) fn steps(setup: &Setup<'_>) -> Vec<Step> {
    let docker = Docker::new(setup);
    let mut steps = Vec::new();
    if setup.has_ca {
        steps.extend(install_ca(&format!("/etc/docker/certs.d/{}/ca.crt", setup.origin.host)));
        if docker.keys.iter().any(|(key, _)| *key == "registry-mirrors") {
            steps.push(note("For registry-mirrors, the CA belongs into the store of the system as well."));
            steps.push(command("sudo install -D -m 644 ca.crt /usr/local/share/ca-certificates/mirror-ca.crt"));
            steps.push(command("sudo update-ca-certificates"));
        }
    }
    if let Some(content) = docker.lines() {
        steps.push(note("Write this, or add the keys to the file that is there, and restart the daemon."));
        steps.push(file("/etc/docker/daemon.json", content));
        steps.push(command("sudo systemctl restart docker"));
    }
    if docker.location.is_some() {
        steps.push(note("Docker mirrors Docker Hub only. For another registry, put the address of forebay in front."));
        steps.extend(docker.pull().into_iter().map(command));
    }
    steps
}
