//! Namespaces of their own for container engines, so that the machine keeps no trace of them.
//!
//! Engines mount, fork shims and read fixed places under /etc. In a mount namespace those places can be the test's
//! own, and with the pid namespace everything an engine has started dies with it, its mounts included.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::{daemon::Daemon, program};

/// Bind mounts first, then the program, as process 1 of its namespace.
const SCRIPT: &str = r#"
set -e
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$2"; fi
    mount --bind "$1" "$2"
    shift 2
done
shift
exec "$@"
"#;

/// A command that runs `program` with its arguments in new namespaces, with each `(own, fixed)` place bound.
pub fn command(binds: &[(PathBuf, &str)], program: &Path, arguments: &[String]) -> Command {
    let mut command = program::command("unshare", "util-linux");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"]);
    for (own, fixed) in binds {
        command.arg(own).arg(fixed);
    }
    command.arg("--").arg(program).args(arguments);
    command
}

/// An engine in its jail.
pub struct Jailed(pub Daemon);

impl Drop for Jailed {
    fn drop(&mut self) {
        // Killing process 1 of the namespace, and not `unshare`, makes `unshare` end only after all of them are gone:
        // then the folders they wrote to can be removed.
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let first = children.split_whitespace().next().and_then(|child| child.parse().ok());
        if let Some(pid) = first.and_then(Pid::from_raw)
            && kill_process(pid, Signal::KILL).is_ok()
        {
            self.0.reap();
        }
    }
}
