//! k3s: `registries.yaml`, of which k3s makes what containerd reads.

use super::{
    Login, Setup,
    escape::json,
    step::{Step, command, file, install_ca, note},
};

/// Where a client keeps the CA.
const CA: &str = "/etc/rancher/k3s/mirror-ca.crt";

pub(super) fn steps(setup: &Setup<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if setup.has_ca {
        steps.extend(install_ca(CA));
    }
    steps.extend([
        note("Write this on each node, and restart k3s; on an agent, k3s-agent."),
        file("/etc/rancher/k3s/registries.yaml", registries(setup)),
        command("sudo systemctl restart k3s"),
    ]);
    steps
}

fn registries(setup: &Setup<'_>) -> String {
    let Setup { origin, login, has_ca, .. } = setup;
    let mut text = format!("mirrors:\n  \"*\":\n    endpoint:\n      - {}\n", json(&origin.to_string()));
    let needs_login = *login == Login::Needed;
    if needs_login || *has_ca {
        text += &format!("configs:\n  {}:\n", json(&origin.host));
    }
    if needs_login {
        text += "    auth:\n      username: \"USER\"\n      password: \"PASSWORD\"\n";
    }
    if *has_ca {
        text += &format!("    tls:\n      ca_file: {}\n", json(CA));
    }
    text
}
