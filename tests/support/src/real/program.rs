//! Finding a program and running it to its end.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

/// Bounds every client command; reached only when something is broken.
const LIMIT: Duration = Duration::from_secs(180);

/// What a client of this machine's user must not hand down: a proxy or a login of the outer world.
const FOREIGN: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "DOCKER_HOST",
    "REGISTRY_AUTH_FILE",
];

/// The path of a program; panics naming the Debian package when it is missing.
///
/// Debian's own folders come first: a newer build in /usr/local is not what the tests are about.
pub fn find(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("the program `{name}` is missing: apt-get install {package}"))
}

/// A command of the program, free of the outer world's proxies and logins.
pub fn command(name: &str, package: &str) -> std::process::Command {
    clean(&find(name, package))
}

/// A command without the outer world's proxies and logins, and with nothing to read.
pub fn clean(program: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.stdin(Stdio::null());
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// What a command left behind.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    line: String,
}

impl Finished {
    /// The standard output of a command that succeeded; panics with everything it said when it did not.
    pub fn ok(self) -> Vec<u8> {
        assert!(self.status.success(), "{}", self.report("failed"));
        self.stdout
    }

    /// What a command that failed said; panics when it succeeded.
    pub fn failed(self) -> String {
        assert!(!self.status.success(), "{}", self.report("succeeded, and must not"));
        format!("{}{}", String::from_utf8_lossy(&self.stdout), self.stderr)
    }

    fn report(&self, what: &str) -> String {
        let (line, status, stderr) = (&self.line, self.status, &self.stderr);
        let stdout = String::from_utf8_lossy(&self.stdout);
        format!("`{line}` {what} ({status})\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Runs the command to its end, killing it after [`LIMIT`].
pub async fn run(mut command: std::process::Command) -> Finished {
    let line = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("`{line}` cannot be started: {error}"));
    let Output { status, stdout, stderr } = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("`{line}` did not end within {LIMIT:?}"))
        .unwrap_or_else(|error| panic!("`{line}` cannot be waited for: {error}"));
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Finished { status, stdout, stderr, line }
}
