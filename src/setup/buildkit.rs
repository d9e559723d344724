//! BuildKit: `buildkitd.toml`. BuildKit names the registry in `ns=`, as containerd does.

use super::{
    Setup,
    escape::{shell, toml},
    step::{Step, command, file, install_ca, note},
};

/// Where a client keeps the CA.
const CA: &str = "/etc/buildkit/mirror-ca.crt";
/// The example of a stranger's guide, which names no configured registry.
const EXAMPLE: &str = "docker.io";

pub(super) fn steps(setup: &Setup<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if setup.has_ca {
        steps.extend(install_ca(CA));
    }
    steps.push(note("Each registry has a section. A builder in a container reaches forebay by no loopback address."));
    steps.push(file("/etc/buildkit/buildkitd.toml", configuration(setup)));
    if setup.needs_login() {
        steps.push(command(format!("docker login {}", shell(&setup.origin.host))));
    }
    steps.push(note("With docker buildx, make a builder of it."));
    steps.push(command("docker buildx create --use --config /etc/buildkit/buildkitd.toml"));
    steps
}

fn configuration(setup: &Setup<'_>) -> String {
    let host = toml(&setup.origin.host);
    let usable = setup.registries.iter().filter(|registry| setup.is_usable(registry));
    let names: Vec<&str> = match setup.registries.is_empty() {
        true => vec![EXAMPLE],
        false => usable.map(|registry| &*registry.name).collect(),
    };
    let section = |name: &&str| format!("[registry.{}]\n  mirrors = [{host}]\n", toml(name));
    let mut sections: Vec<String> = names.iter().map(section).collect();
    if setup.origin.is_clear() {
        sections.push(format!("[registry.{host}]\n  http = true\n"));
    } else if setup.has_ca {
        sections.push(format!("[registry.{host}]\n  ca = [{}]\n", toml(CA)));
    }
    sections.join("\n")
}
