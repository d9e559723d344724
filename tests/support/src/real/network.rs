//! A network of a test's own: loopback, and an address that is not loopback and has no owner (RFC 5737). The machine's
//! own network, and other tests' ports, are not to be seen from there.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::until::until;

use super::{
    daemon::Daemon,
    program::{self, Finished},
};

/// The address.
pub const ELSEWHERE: &str = "192.0.2.1";

/// A network namespace; it is gone when the last of its processes is.
pub struct Network {
    keeper: Daemon,
    _folder: TempDir,
}

impl Network {
    pub async fn new() -> Network {
        let folder = TempDir::with_prefix("forebay-network-").expect("a folder can be made");
        let ip = program::find("ip", "iproute2");
        let script = format!(
            "set -e; {0:?} link set lo up; {0:?} addr add {ELSEWHERE}/32 dev lo; echo up; exec sleep infinity",
            ip
        );
        let mut command = program::command("unshare", "util-linux");
        command.args(["--net", "sh", "-c", &script]);
        let mut keeper = Daemon::spawn("a network's keeper", command, &folder.path().join("log"));
        keeper.until_log("up").await;
        Network { keeper, _folder: folder }
    }

    /// A command of the program in this network.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = program::command("nsenter", "util-linux");
        command.arg(format!("--net=/proc/{}/ns/net", self.keeper.id())).arg("--").arg(program);
        command
    }

    /// `curl …` in it, however it ends: head and body of the answer are its output.
    pub async fn curl(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command(&program::find("curl", "curl"));
        command.args(["--silent", "--show-error", "--include", "--max-time", "60"]).args(arguments);
        program::run(command).await
    }

    /// Waits until something answers there.
    pub async fn until_answering(&self, daemon: &mut Daemon, url: &str) {
        until(&format!("{url} is answered"), async || {
            daemon.assert_alive();
            self.curl(&[url]).await.status.success().then_some(())
        })
        .await;
    }
}
