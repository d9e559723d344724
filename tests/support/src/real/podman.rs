//! podman and skopeo, which share their libraries and need no daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use super::{
    network::Network,
    program::{self, Finished},
};

/// Storage and configuration of a user of podman and skopeo.
pub struct Podman {
    folder: TempDir,
}

impl Podman {
    /// With this registries.conf.
    pub fn new(registries: &str) -> Podman {
        Podman::with(registries, "vfs", "")
    }

    /// One that pulls of a layer, where that is zstd:chunked, only the files that it has in no other one.
    pub fn of_parts(registries: &str) -> Podman {
        Podman::with(registries, "overlay", "[storage.options]\npull_options = { enable_partial_images = \"true\" }\n")
    }

    fn with(registries: &str, driver: &str, options: &str) -> Podman {
        let folder = TempDir::with_prefix("forebay-podman-").expect("a folder can be made");
        let policy = json!({ "default": [{ "type": "insecureAcceptAnything" }] }).to_string();
        fs::write(folder.path().join("policy.json"), policy).expect("the policy can be written");
        fs::write(folder.path().join("registries.conf"), registries).expect("registries.conf can be written");
        // Named, so that the machine's own configuration plays no part.
        let (root, run) = (folder.path().join("root"), folder.path().join("run"));
        let storage = format!("[storage]\ndriver = {driver:?}\ngraphroot = {root:?}\nrunroot = {run:?}\n{options}");
        fs::write(folder.path().join("storage.conf"), storage).expect("storage.conf can be written");
        fs::write(folder.path().join("containers.conf"), "").expect("containers.conf can be written");
        Podman { folder }
    }

    /// A place for the results of a copy.
    pub fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn environment(&self, command: &mut Command) {
        command.env("CONTAINERS_REGISTRIES_CONF", self.place("registries.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.place("storage.conf"));
        command.env("CONTAINERS_CONF", self.place("containers.conf"));
        command.env("HOME", self.folder.path()).env("XDG_RUNTIME_DIR", self.folder.path());
        command.env("TMPDIR", self.folder.path());
    }

    /// `podman …`, however it ends.
    pub async fn podman(&self, arguments: &[&str]) -> Finished {
        let mut command = program::command("podman", "podman");
        command.arg("--tmpdir").arg(self.place("tmp")).args(arguments);
        self.environment(&mut command);
        program::run(command).await
    }

    /// What stands under a name in its layers, where the driver is overlay.
    pub fn files(&self, name: &str) -> Vec<Vec<u8>> {
        let layers = fs::read_dir(self.place("root").join("overlay")).expect("it has layers");
        layers.filter_map(|layer| fs::read(layer.ok()?.path().join("diff").join(name)).ok()).collect()
    }

    /// `podman pull`, however it ends.
    pub async fn pull(&self, reference: &str) -> Finished {
        let policy = self.place("policy.json").display().to_string();
        self.podman(&["pull", "--signature-policy", &policy, reference]).await
    }

    /// `skopeo …`, however it ends.
    pub async fn skopeo(&self, arguments: &[&str]) -> Finished {
        self.run_skopeo(program::command("skopeo", "skopeo"), arguments).await
    }

    /// The same in another network.
    pub async fn skopeo_in(&self, network: &Network, arguments: &[&str]) -> Finished {
        self.run_skopeo(network.command(&program::find("skopeo", "skopeo")), arguments).await
    }

    async fn run_skopeo(&self, mut command: Command, arguments: &[&str]) -> Finished {
        command.arg("--policy").arg(self.place("policy.json")).arg("--tmpdir").arg(self.folder.path());
        command.args(arguments);
        self.environment(&mut command);
        program::run(command).await
    }
}
