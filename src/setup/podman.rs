//! podman, CRI-O and skopeo: a block for each registry in `registries.conf.d`.

use super::{
    Setup,
    escape::{shell, toml},
    step::{Step, command, file, install_ca, note},
};

/// The example of a stranger's guide, which names no configured registry.
const EXAMPLE: &str = "docker.io";

pub(super) fn steps(setup: &Setup<'_>) -> Vec<Step> {
    let host = &setup.origin.host;
    let mut steps = Vec::new();
    if setup.has_ca {
        steps.extend(install_ca(&format!("/etc/containers/certs.d/{host}/ca.crt")));
    }
    let blocks: Vec<String> = match setup.registries.is_empty() {
        true => vec![block(setup, EXAMPLE, &format!("{host}/{EXAMPLE}"))],
        false => setup.locations().map(|(registry, location)| block(setup, &registry.name, &location)).collect(),
    };
    if !blocks.is_empty() {
        steps.push(note("Each registry has a block. If forebay fails, the client pulls from the registry itself."));
        steps.push(file("/etc/containers/registries.conf.d/50-forebay.conf", blocks.join("\n")));
    }
    if setup.needs_login() {
        // podman asks for no leave to use clear HTTP where its configuration allows it.
        steps.push(command(format!("podman login {}", shell(host))));
    }
    steps.push(note("CRI-O reads the file when it starts."));
    steps.push(command("sudo systemctl restart crio"));
    steps
}

fn block(setup: &Setup<'_>, name: &str, location: &str) -> String {
    let (name, location) = (toml(name), toml(location));
    let mut text =
        format!("[[registry]]\nprefix = {name}\nlocation = {name}\n\n[[registry.mirror]]\nlocation = {location}\n");
    if setup.origin.is_clear() {
        text += "insecure = true\n";
    }
    text
}
