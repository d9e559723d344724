//! The real program, `forebay serve`, with a configuration file of its own.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::until::until;

/// A library whose fsync waits for as long as the file `HOLD_SYNC` is there.
const SYNC: &str = r#"
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int file) {
    const char *hold = getenv("HOLD_SYNC");
    while (hold && access(hold, F_OK) == 0) usleep(5000);
    return (int)syscall(SYS_fsync, file);
}
"#;

/// A library whose opendir waits for as long as the file `HOLD_SCAN` is there, if it is about the directories of blobs.
const SCAN: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
DIR *opendir(const char *path) {
    const char *hold = getenv("HOLD_SCAN");
    while (hold && strstr(path, "/blobs/sha256") && access(hold, F_OK) == 0) usleep(5000);
    return ((DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir"))(path);
}
"#;

/// The library that holds fsync, to be preloaded.
pub fn held_sync(directory: &Path) -> PathBuf {
    build(directory, "sync", SYNC)
}

/// The library that holds the start-up scan.
pub fn held_scan(directory: &Path) -> PathBuf {
    build(directory, "scan", SCAN)
}

fn build(directory: &Path, name: &str, text: &str) -> PathBuf {
    let (source, library) = (directory.join(name).with_extension("c"), directory.join(name).with_extension("so"));
    fs::write(&source, text).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(built.success());
    library
}

/// A running `forebay serve`; it is killed with this value.
pub struct Program {
    process: Child,
    directory: TempDir,
    pub registry: SocketAddr,
    pub admin: SocketAddr,
}

impl Program {
    /// Starts it in a directory whose `forebay.toml` says the rest, and waits until it serves. `log` is FOREBAY_LOG.
    pub async fn serve(directory: TempDir, log: &str) -> Self {
        Self::serve_with(directory, log, &[]).await
    }

    /// The same, with more variables in its environment.
    pub async fn serve_with(directory: TempDir, log: &str, environment: &[(&str, &str)]) -> Self {
        Self::run(Command::new(binary()), directory, log, environment).await
    }

    /// The same, where the process may have so many descriptors and no more.
    pub async fn serve_within(directory: TempDir, log: &str, descriptors: usize) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &descriptors.to_string()]);
        shell.arg(binary());
        Self::run(shell, directory, log, &[]).await
    }

    async fn run(mut command: Command, directory: TempDir, log: &str, environment: &[(&str, &str)]) -> Self {
        let file = |name: &str| File::create(directory.path().join(name)).unwrap();
        let process = command
            .args(["serve", "--config", "forebay.toml", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .current_dir(&directory)
            .env_clear()
            .env("HOME", directory.path())
            .env("CACHE_DIRECTORY", directory.path().join("cache"))
            .env("STATE_DIRECTORY", directory.path().join("state"))
            .env("FOREBAY_LOG", log)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("log"))
            .spawn()
            .unwrap();
        let banner = directory.path().join("stdout");
        // The cache stands below both addresses; what follows depends on the upstreams.
        until("the program says where it listens", async || read(&banner).contains("  cache ")).await;
        let banner = read(&banner);
        let address = |what: &str| {
            let line = banner.lines().find(|line| line.trim_start().starts_with(what)).unwrap();
            line.split('/').nth(2).unwrap().trim().parse().unwrap()
        };
        Self { registry: address("registry "), admin: address("admin "), process, directory }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        read(&self.directory.path().join("log"))
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        get(&format!("http://{}/metrics", self.admin)).await.1
    }

    /// GETs a path of the registry: the status and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&format!("http://{}{path}", self.registry)).await
    }

    /// Kills it, and gives its directory.
    pub fn kill(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Asks it to end, and gives its whole log when it has.
    pub async fn end(mut self) -> String {
        self.signal(Signal::TERM);
        until("the program has ended", async || self.process.try_wait().unwrap().is_some()).await;
        self.log()
    }

    /// Sends this signal, and gives the directory and the whole log once it has ended.
    pub async fn ended_by(mut self, signal: Signal) -> (TempDir, String) {
        self.signal(signal);
        until("the program has ended", async || self.process.try_wait().unwrap().is_some()).await;
        let log = self.log();
        (std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap()), log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

async fn get(url: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(url).send().await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8_lossy(&response.bytes().await.unwrap()).into_owned())
}

/// The binary `forebay` that Cargo has built beside the test or bench that calls this.
pub fn binary() -> PathBuf {
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().and_then(Path::parent).unwrap().join("forebay");
    assert!(binary.is_file(), "{} is missing: `cargo build` makes it", binary.display());
    binary
}
