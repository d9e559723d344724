//! docker-registry as a pull-through cache: the mirror that a user of Docker would set up first.

use std::net::SocketAddr;

use serde_json::json;
use tempfile::TempDir;

use super::{folder, local, write};
use forebay_test_support::{
    real::{daemon::Daemon, port::free_port, program},
    until::until,
};

pub struct Mirror {
    pub address: SocketAddr,
    // Before the folder: the process must have ended when its files are removed.
    daemon: Daemon,
    folder: TempDir,
}

impl Mirror {
    /// With an empty cache, in front of the registry at this URL. It logs warnings only, and no requests.
    pub async fn start(upstream: &str) -> Self {
        let (folder, port) = (folder("registry"), free_port());
        let config = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("storage") } },
            "http": { "addr": format!("127.0.0.1:{port}"), "secret": "of this bench" },
            "proxy": { "remoteurl": upstream },
        });
        // JSON is YAML.
        write(&folder.path().join("config.yml"), &config.to_string());
        let mut command = program::command("docker-registry", "docker-registry");
        // distribution 3 would send traces to a collector.
        command.arg("serve").arg(folder.path().join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        let mut daemon = Daemon::spawn("docker-registry", command, &folder.path().join("log"));
        daemon.until_listening(local(port)).await;
        Self { address: local(port), daemon, folder }
    }

    pub fn process(&self) -> u32 {
        self.daemon.id()
    }

    /// Waits until the blob is written to the cache.
    pub async fn until_cached(&self, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.folder.path().join("storage/docker/registry/v2/blobs/sha256");
        let file = blobs.join(&hex[..2]).join(hex).join("data");
        until("the blob is in the registry's cache", async || file.exists().then_some(())).await;
    }
}
