//! containerd, in namespaces of its own, and `ctr`.

use std::fs;

use tempfile::TempDir;

use crate::until::until;

use super::{
    daemon::Daemon,
    image::Blob,
    jail::{self, Jailed},
    program::{self, Finished},
};

/// A containerd with content of its own.
pub struct Containerd {
    // Before the folder: the daemon must be gone when its files are removed.
    jail: Jailed,
    folder: TempDir,
}

impl Containerd {
    pub async fn start() -> Containerd {
        let folder = TempDir::with_prefix("forebay-containerd-").expect("a folder can be made");
        let place = |name: &str| folder.path().join(name);
        // The plugin for Kubernetes wants a network of its own, which nothing here needs.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n",
            place("root"),
            place("state"),
            place("socket")
        );
        fs::write(place("config.toml"), config).expect("the configuration can be written");
        let arguments = ["--config".to_owned(), place("config.toml").display().to_string()];
        let command = jail::command(&[], &program::find("containerd", "containerd"), &arguments);
        let daemon = Daemon::spawn("containerd", command, &place("log"));
        let mut containerd = Containerd { jail: Jailed(daemon), folder };
        until("containerd answers", async || {
            containerd.jail.0.assert_alive();
            program::run(containerd.ctr(&["version"])).await.status.success().then_some(())
        })
        .await;
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program::command("ctr", "containerd");
        command.arg("--address").arg(self.folder.path().join("socket")).args(arguments);
        command
    }

    /// Writes `hosts.toml` for a registry's name, or for `_default`.
    pub fn configure(&self, registry: &str, hosts_toml: &str) {
        let folder = self.folder.path().join("hosts").join(registry);
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join("hosts.toml"), hosts_toml).expect("hosts.toml can be written");
    }

    /// `ctr …`, however it ends.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        program::run(self.ctr(arguments)).await
    }

    /// `ctr images pull --hosts-dir`, however it ends.
    pub async fn try_pull(&self, reference: &str) -> Finished {
        self.try_pull_as(None, reference).await
    }

    /// The same with these credentials, `USER:PASSWORD`.
    pub async fn try_pull_as(&self, user: Option<&str>, reference: &str) -> Finished {
        let hosts = self.folder.path().join("hosts").display().to_string();
        let mut pull = vec!["images", "pull", "--hosts-dir", &hosts, "--snapshotter", "native"];
        pull.extend(user.into_iter().flat_map(|user| ["--user", user]));
        pull.push(reference);
        program::run(self.ctr(&pull)).await
    }

    /// The exact bytes that it holds under a digest.
    pub async fn content(&self, blob: &Blob) -> Vec<u8> {
        program::run(self.ctr(&["content", "get", &blob.digest])).await.ok()
    }
}
