//! A running program: its log, its signals, and its certain end.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::until::until;

/// A child process that is killed and reaped when this is dropped.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the command; what it prints is appended to `log`, so a second life's log follows the first's.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Daemon {
        let file = File::options().create(true).append(true).open(log).expect("the log can be opened");
        let twin = file.try_clone().expect("the log can be shared");
        let child = command
            .stdout(file)
            .stderr(twin)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Daemon { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Everything it has printed so far, earlier lives included.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it accepts connections; panics with its log when it ends instead.
    pub async fn until_listening(&mut self, address: SocketAddr) {
        let what = format!("{} accepts at {address}", self.name);
        until(&what, async || {
            self.assert_alive();
            TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// Waits until it has printed a line with `needle`, and gives the line.
    pub async fn until_log(&mut self, needle: &str) -> String {
        let what = format!("{} prints {needle:?}", self.name);
        until(&what, async || {
            let line = self.log().lines().find(|line| line.contains(needle)).map(str::to_owned);
            if line.is_none() {
                self.assert_alive();
            }
            line
        })
        .await
    }

    /// Panics with its log when it has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("{} has ended ({status}); its log:\n{}", self.name, self.log());
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} cannot be signalled: {error}", self.name));
    }

    /// SIGTERM, and its exit status once it has ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let what = format!("{} ends after SIGTERM", self.name);
        until(&what, async || self.child.try_wait().expect("a child can be waited for")).await
    }

    /// Waits for an end that is certain to come.
    pub fn reap(&mut self) {
        self.child.wait().expect("a child can be waited for");
    }

    /// SIGKILL: no instruction of it runs after this.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        self.child.kill().ok();
        self.reap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log();
            let begin = log.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
            eprintln!("--- the end of the log of {}\n{}", self.name, &log[begin..]);
        }
    }
}
