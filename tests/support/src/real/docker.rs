//! dockerd, in namespaces of its own, and its command line client.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::until::until;

use super::{
    daemon::Daemon,
    image::Image,
    jail::{self, Jailed},
    program::{self, Finished},
};

/// Names that must lead nowhere: an engine falls back from a mirror to the registry itself.
const OUTER_WORLD: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "auth.docker.io"];

/// A Docker daemon with images of its own.
pub struct Docker {
    // Before the folder: the daemon must be gone when its files are removed.
    jail: Jailed,
    folder: TempDir,
}

impl Docker {
    /// Starts with this daemon.json, these lines in /etc/hosts, and `/etc/docker/certs.d/<name>/ca.crt` for each
    /// certificate.
    pub async fn start(mut config: Value, hosts: &[&str], certificates: &[(&str, &str)]) -> Docker {
        // vfs works on every file system, and the images are small.
        config["storage-driver"] = json!("vfs");
        // A pull that must fail fails at once instead of after half a minute.
        config["max-download-attempts"] = json!(1);
        let folder = TempDir::with_prefix("forebay-docker-").expect("a folder can be made");
        let place = |name: &str| folder.path().join(name);
        let etc = place("etc");
        fs::create_dir(&etc).expect("a folder can be made");
        fs::write(etc.join("daemon.json"), config.to_string()).expect("the configuration can be written");
        for (name, pem) in certificates {
            let certs = etc.join("certs.d").join(name);
            fs::create_dir_all(&certs).expect("a folder can be made");
            fs::write(certs.join("ca.crt"), pem).expect("a certificate can be written");
        }
        let mut table = "127.0.0.1 localhost\n".to_owned();
        for name in OUTER_WORLD {
            table.push_str(&format!("127.0.0.1 {name}\n"));
        }
        for line in hosts {
            table.push_str(&format!("{line}\n"));
        }
        fs::write(place("hosts"), table).expect("the hosts can be written");

        let arguments: Vec<String> = [
            "--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false".to_owned(),
            format!("--data-root={0}/data --exec-root={0}/exec --pidfile={0}/pid", folder.path().display()),
            format!("--host=unix://{} --config-file=/etc/docker/daemon.json", place("socket").display()),
        ]
        .iter()
        .flat_map(|line| line.split(' ').map(str::to_owned))
        .collect();
        let binds = [(place("hosts"), "/etc/hosts"), (etc, "/etc/docker")];
        let command = jail::command(&binds, &program::find("dockerd", "docker.io"), &arguments);
        let daemon = Daemon::spawn("dockerd", command, &place("log"));
        let mut docker = Docker { jail: Jailed(daemon), folder };
        docker.until_ready().await;
        docker
    }

    async fn until_ready(&mut self) {
        until("dockerd answers", async || {
            self.jail.0.assert_alive();
            let ping = self.client(&["version"]);
            program::run(ping).await.status.success().then_some(())
        })
        .await;
    }

    fn client(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program::command("docker", "docker.io");
        let socket = self.folder.path().join("socket");
        command.arg("--host").arg(format!("unix://{}", socket.display())).args(arguments);
        command.env("DOCKER_CONFIG", self.folder.path().join("client")).env("DOCKER_BUILDKIT", "1");
        command
    }

    /// `docker …`, however it ends.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        program::run(self.client(arguments)).await
    }

    /// `docker pull`, however it ends.
    pub async fn try_pull(&self, reference: &str) -> Finished {
        program::run(self.client(&["pull", reference])).await
    }

    /// `docker pull`, and a look at what has arrived; the image is removed again.
    pub async fn pull_and_remove(&self, reference: &str, image: &Image) {
        self.try_pull(reference).await.ok();
        let inspect = self.client(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", reference]);
        let layers: Vec<String> = serde_json::from_slice(&program::run(inspect).await.ok()).expect("layers are JSON");
        assert_eq!(layers, image.diff_ids, "the layers of {reference}");
        program::run(self.client(&["rmi", "--force", reference])).await.ok();
    }

    /// Whether the daemon holds no image at all.
    pub async fn is_empty(&self) -> bool {
        program::run(self.client(&["images", "--quiet", "--all"])).await.ok().is_empty()
    }
}
