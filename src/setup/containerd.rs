//! containerd: `hosts.toml` for all registries, which containerd names in `ns=`.

use super::{
    Login, Setup,
    escape::toml,
    step::{Step, command, file, install_ca, note},
};

/// Where a client keeps the CA.
const CA: &str = "/etc/containerd/certs.d/mirror-ca.crt";

pub(super) fn steps(setup: &Setup<'_>) -> Vec<Step> {
    let section =
        |plugin: &str| format!("[plugins.\"{plugin}\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n");
    let mut steps = Vec::new();
    if setup.has_ca {
        steps.extend(install_ca(CA));
    }
    steps.extend([
        note("In containerd 2, name the directory of hosts, and restart containerd."),
        file("/etc/containerd/config.toml (containerd 2)", section("io.containerd.cri.v1.images")),
        note("In containerd 1, the section has another name."),
        file("/etc/containerd/config.toml (containerd 1)", section("io.containerd.grpc.v1.cri")),
        command("sudo systemctl restart containerd"),
        note("This sends the pulls of all registries through forebay. It needs no restart."),
        file("/etc/containerd/certs.d/_default/hosts.toml", hosts(setup)),
    ]);
    if setup.login == Login::Needed {
        steps.push(note("In place of BASE64, write the output of: printf USER:PASSWORD | base64"));
    }
    steps
}

fn hosts(setup: &Setup<'_>) -> String {
    let origin = toml(&setup.origin.to_string());
    let mut text = format!("[host.{origin}]\n  capabilities = [\"pull\", \"resolve\"]\n");
    if setup.has_ca {
        text += &format!("  ca = {}\n", toml(CA));
    }
    if setup.login == Login::Needed {
        text += &format!("[host.{origin}.header]\n  authorization = \"Basic BASE64\"\n");
    }
    text
}
