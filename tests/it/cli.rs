//! The process as an operator meets it: exit codes, what is printed, signals, the service manager.

pub mod descriptors;

pub mod cache;
pub mod check;
pub mod config;
pub mod directories;
pub mod drain_delay;
pub mod generated;
pub mod log;
pub mod running;
pub mod sources;
pub mod systemd;
pub mod top;
pub mod user;
pub mod warm;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use forebay::{
    app::{App, Inherited},
    config::{Config, Overrides},
    transport::TlsConfig,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tempfile::TempDir;

use forebay_test_support::test_server::Certificates;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn forebay(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .current_dir(directory)
        .env_clear()
        .env("HOME", directory.path())
        // No file that this machine may have in /etc.
        .env("CONFIGURATION_DIRECTORY", directory.path().join("etc"))
        .env("CACHE_DIRECTORY", directory.path().join("cache"))
        .env("STATE_DIRECTORY", directory.path().join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A terminal: the side of the person, and the one of the program.
fn terminal() -> (fs::File, fs::File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let path = ptsname(&person, Vec::new()).unwrap();
    let program: OwnedFd = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (person.into(), program.into())
}

fn run(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = forebay(directory).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn directory(configuration: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("forebay.toml"), configuration).unwrap();
    directory
}

/// A `serve` that is killed when the test is done with it.
struct Serving {
    process: Child,
    registry: SocketAddr,
    admin: SocketAddr,
    /// Everything it printed until it was ready.
    banner: String,
}

const ON_ANY_PORT: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

impl Serving {
    /// Starts it, and waits until it has said where it listens.
    fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        let (mut registry, mut admin) = (None, None);
        while registry.is_none() || admin.is_none() || !banner.contains("docker pull") {
            let Some(Ok(line)) = lines.next() else { break };
            let address = |line: &str| -> Option<SocketAddr> { line.split('/').nth(2)?.parse().ok() };
            if line.trim_start().starts_with("registry ") {
                registry = address(&line);
            } else if line.trim_start().starts_with("admin ") {
                admin = address(&line);
            }
            banner += &line;
            banner += "\n";
        }
        let (Some(registry), Some(admin)) = (registry, admin) else {
            let mut stderr = String::new();
            process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("it did not say where it listens:\n{banner}\n{stderr}");
        };
        Self { process, registry, admin, banner }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until it has ended; gives the exit code and the log.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap().code(), log)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_cannot_be_understood_is_exit_code_2() {
    let directory = directory("");
    let cases: &[&[&str]] = &[
        &[],
        &["server"],
        &["serve", "--listen", "5000"],
        &["serve", "--max-size", "much"],
        &["check", "--log-format", "xml"],
        &["check", "--online", "now"],
    ];
    for arguments in cases {
        let (code, stdout, stderr) = run(&directory, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert_ne!(stderr, "", "{arguments:?}");
    }
    let bad_filter = forebay(&directory).arg("check").env("FOREBAY_LOG", "forebay=loud").output().unwrap();
    assert_eq!(bad_filter.status.code(), Some(2));
    assert!(String::from_utf8(bad_filter.stderr).unwrap().contains("FOREBAY_LOG=forebay=loud"));
}

#[test]
fn help_and_version_are_answered() {
    let directory = directory("");
    let (code, stdout, _) = run(&directory, &["--version"]);
    assert_eq!((code, &*stdout), (Some(0), concat!("forebay ", env!("CARGO_PKG_VERSION"), "\n")));
    let (code, stdout, _) = run(&directory, &["serve", "--help"]);
    assert_eq!(code, Some(0));
    for flag in ["--config", "--listen", "--admin", "--cache-dir", "--max-size", "--log-format"] {
        assert!(stdout.contains(flag), "{flag}\n{stdout}");
    }
}

#[test]
fn serve_needs_no_configuration_and_says_what_to_paste() {
    let directory = directory("");
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT));
    let registry = serving.registry;
    assert!(serving.banner.contains(&format!("\"registry-mirrors\": [\"http://{registry}\"]")), "{}", serving.banner);
    assert!(
        serving.banner.contains(&format!("cache     {}", directory.path().join("cache").display())),
        "{}",
        serving.banner
    );
    TcpStream::connect(serving.registry).unwrap();
    TcpStream::connect(serving.admin).unwrap();

    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("no JSON: {error}: {line}"));
    }
    assert!(log.contains("\"message\":\"draining\"") && log.contains("\"message\":\"stopped\""), "{log}");
}

#[test]
fn an_interrupt_drains_too() {
    let directory = directory("");
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).args(["--log-format", "text"]));
    serving.signal(Signal::INT);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("INFO") && log.contains("stopped"), "{log}");
}

#[test]
fn an_address_that_is_taken_is_exit_code_1() {
    let directory = directory("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&directory, &["serve", "--listen", &address, "--admin", "127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
}

/// Starts it under limits of open files, as a shell sets them.
fn serving_with(limits: &str, directory: &TempDir) -> Serving {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]).arg(env!("CARGO_BIN_EXE_forebay"));
    command.args(ON_ANY_PORT).args(["--config", "forebay.toml"]).current_dir(directory);
    command.env("CACHE_DIRECTORY", directory.path().join("cache"));
    Serving::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn open_files(serving: &Serving) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", serving.process.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut words = line.split_ascii_whitespace().skip(3).map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    // Half of few descriptors are for connections, three for each, but for those of cached files.
    let directory = directory("[server]\nmax_connections = 80\n");
    for (limits, warned) in [("ulimit -Sn 100 && ulimit -Hn 500", false), ("ulimit -n 470", true)] {
        let serving = serving_with(limits, &directory);
        let (soft, hard) = open_files(&serving);
        assert_eq!(soft, hard, "{limits}");
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        let told = ["LimitNOFILE=", "\"limit\":470", "\"max_connections\":68"];
        let warning = told.iter().all(|told| log.contains(told));
        assert_eq!(warning, warned, "{limits}: {log}");
    }
}
