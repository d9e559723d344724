//! The program under test: the binary that Cargo has built, with a configuration and a cache of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::binary;

use crate::until::until;

use super::{
    daemon::Daemon,
    disk::files,
    download::client,
    image::{Blob, digest},
    port::free_port,
    program::{self, Finished},
};

/// forebay, running or between two lives.
pub struct Forebay {
    pub port: u16,
    pub admin: u16,
    // Before the folder: it must be gone when its files are removed.
    daemon: Daemon,
    folder: TempDir,
    /// What a shell mounts before it starts, in its folder and in a mount namespace of its own.
    mounts: Option<String>,
}

impl Forebay {
    /// Starts with a configuration that says this beside the addresses; a `FOLDER` in it becomes the folder that
    /// `files` are written to.
    pub async fn start(config: &str, files: &[(&str, &str)]) -> Forebay {
        Self::start_after(None, free_port(), config, files).await
    }

    /// The same, on this port.
    pub async fn start_at(port: u16, config: &str, files: &[(&str, &str)]) -> Forebay {
        Self::start_after(None, port, config, files).await
    }

    /// The same, after a shell has mounted what `mounts` says, in the folder of forebay's `cache`. That takes root.
    pub async fn start_on(mounts: &str, config: &str) -> Forebay {
        Self::start_after(Some(mounts.to_owned()), free_port(), config, &[]).await
    }

    async fn start_after(mounts: Option<String>, port: u16, config: &str, files: &[(&str, &str)]) -> Forebay {
        let folder = TempDir::with_prefix("forebay-").expect("a folder can be made");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("a file can be written");
        }
        let admin = free_port();
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:{port}\"]\nallowed_hosts = [\"forebay.test\"]\n\
                 [admin]\nlisten = \"127.0.0.1:{admin}\"\nsocket = \"control.sock\"\n{config}\n"
        );
        fs::write(folder.path().join("forebay.toml"), text).expect("the configuration can be written");
        let daemon = spawn(folder.path(), mounts.as_deref());
        let mut forebay = Forebay { port, admin, daemon, folder, mounts };
        forebay.until_ready().await;
        forebay
    }

    async fn until_ready(&mut self) {
        self.daemon.until_listening(local(self.port)).await;
        self.daemon.until_listening(local(self.admin)).await;
        let url = self.admin_url("/readyz");
        until("forebay is ready", async || {
            self.daemon.assert_alive();
            client().get(&url).send().await.ok().filter(|answer| answer.status() == 200)
        })
        .await;
    }

    /// A URL of the registry listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn blob_url(&self, repository: &str, blob: &Blob) -> String {
        self.url(&format!("/v2/{repository}/blobs/{}", blob.digest))
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin)
    }

    /// The path of its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// `forebay …` by an operator of this one, however it ends.
    pub async fn operate(&self, arguments: &[&str]) -> Finished {
        let mut command = command();
        command.current_dir(self.folder.path()).args(arguments).args(["--control", "control.sock"]);
        program::run(command).await
    }

    /// The document that a command of an operator prints with `--json`; panics unless it succeeds.
    pub async fn told(&self, arguments: &[&str]) -> Value {
        let printed = self.operate(&[arguments, &["--json"]].concat()).await.ok();
        serde_json::from_slice(&printed).expect("a command prints JSON")
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The most memory it had at a time in this life, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.daemon.id());
        let status = fs::read_to_string(path).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// SIGTERM, and its exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.daemon.terminate().await
    }

    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// SIGSTOP: no instruction of it runs until [`thaw`](Self::thaw); the kernel accepts connections and bytes for it.
    pub fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// A new life with the same configuration and cache.
    pub async fn revive(&mut self) {
        self.daemon = spawn(self.folder.path(), self.mounts.as_deref());
        self.until_ready().await;
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// What is visible in the cache, each a path and the digest its name claims.
    pub fn stored_blobs(&self) -> Vec<(PathBuf, String)> {
        ["blobs", "clients/blobs"]
            .into_iter()
            .flat_map(|folder| files(&self.cache().join(folder)))
            .map(|path| {
                let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
                (path, format!("sha256:{name}"))
            })
            .collect()
    }

    /// Panics when a file in `blobs/` is not what its name says.
    pub fn assert_stored_blobs_are_right(&self) {
        for (path, name) in self.stored_blobs() {
            let bytes = fs::read(&path).expect("a blob can be read");
            assert_eq!(digest(&bytes), name, "{} is not what its name says", path.display());
        }
    }

    /// The sum of a metric's samples whose labels contain all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let answer = client().get(self.admin_url("/metrics")).send().await.expect("the admin listener answers");
        let text = answer.text().await.expect("metrics are text");
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

/// The binary, without a word of configuration.
pub fn command() -> Command {
    let mut command = program::clean(&binary());
    command.env_remove("FOREBAY_LOG").env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
    // Not the file that this machine may have in /etc.
    command.env("CONFIGURATION_DIRECTORY", "/nonexistent");
    command
}

fn spawn(folder: &Path, mounts: Option<&str>) -> Daemon {
    let mut command = command();
    if let Some(mounts) = mounts {
        command = program::command("unshare", "util-linux");
        command.args(["--mount", "sh", "-c", &format!("{{ {mounts}; }} || exit 9; exec \"$0\" \"$@\"")]);
        command.arg(binary()).current_dir(folder);
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
    }
    command.arg("serve").arg("--config").arg(folder.join("forebay.toml"));
    command.arg("--cache-dir").arg(folder.join("cache"));
    command.env("HOME", folder).env("STATE_DIRECTORY", folder.join("state")).env("FOREBAY_LOG", "forebay=debug,info");
    Daemon::spawn("forebay", command, &folder.join("log"))
}

pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
