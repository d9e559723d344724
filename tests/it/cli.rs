//! The process as an operator meets it: exit codes, what is printed, signals, the service manager.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use forebay::{
    app::{App, Inherited},
    config::{Config, Overrides},
    server::TlsConfig,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::server_support::Certificates;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn forebay(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.current_dir(directory).env_clear().env("HOME", directory.path()).env("CACHE_DIRECTORY", directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
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
fn a_bad_configuration_is_exit_code_2_with_file_line_and_key() {
    let directory = directory("[cache]\n\nmax_size = \"much\"\n");
    for command in ["check", "serve"] {
        let (code, stdout, stderr) = run(&directory, &[command, "--config", "forebay.toml"]);
        assert_eq!((code, &*stdout), (Some(2), ""), "{command}: {stderr}");
        assert!(
            stderr.starts_with("forebay: forebay.toml:3:12: cache.max_size: must be a size"),
            "{command}: {stderr}"
        );
    }
    let (code, _, stderr) = run(&directory, &["check", "--config", "other.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("other.toml: cannot read"), "{stderr}");
}

#[test]
fn a_good_configuration_is_exit_code_0() {
    let directory = directory("[[upstream]]\nname = \"ghcr.io\"\n");
    let (code, stdout, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
    assert_eq!((code, &*stdout), (Some(0), "forebay.toml: ok, 1 upstream\n"), "{stderr}");
    let (code, stdout, stderr) = run(&directory, &["check"]);
    assert_eq!((code, &*stdout), (Some(0), "the built-in configuration: ok, 10 upstreams\n"), "{stderr}");
}

/// A restart cannot mend a file: the unit does not try again after exit code 2.
#[test]
fn a_named_file_with_bad_contents_is_exit_code_2_with_its_key() {
    for (key, configuration) in [
        ("server.tls", "[server.tls]\ncertificate = \"bad\"\nkey = \"bad\"\n"),
        ("access", "[access]\nhtpasswd = \"bad\"\n"),
        // It could be guessed.
        ("push.key_file", "[push]\nkey_file = \"bad\"\n"),
        (
            "upstream[1] (b.example)",
            "[[upstream]]\nname = \"a.example\"\n[[upstream]]\nname = \"b.example\"\nca = \"bad\"\n",
        ),
    ] {
        let directory = directory(configuration);
        fs::write(directory.path().join("bad"), "nothing\n").unwrap();
        for command in [&["check"][..], &ON_ANY_PORT] {
            let (code, stdout, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
            assert_eq!((code, &*stdout), (Some(2), ""), "{command:?}: {stderr}");
            let said = stderr.lines().last().unwrap();
            assert!(said.starts_with(&format!("forebay: {key}: ")) && said.contains("bad"), "{command:?}: {stderr}");
        }
    }
}

/// A port that nobody listens on answers at once, so no network is needed.
#[test]
fn check_online_fails_when_an_upstream_does_not_answer() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = directory(&format!("[[upstream]]\nname = \"down.example\"\nurls = [\"http://{nobody}\"]\n"));
    let (code, stdout, stderr) = run(&directory, &["check", "--online", "--config", "forebay.toml"]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("down.example: failed: "), "{stdout}");
    assert!(stderr.contains("1 of 1 upstreams failed"), "{stderr}");
}

#[test]
fn serve_needs_no_configuration_and_says_what_to_paste() {
    let directory = directory("");
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT));
    let registry = serving.registry;
    assert!(serving.banner.contains(&format!("\"registry-mirrors\": [\"http://{registry}\"]")), "{}", serving.banner);
    assert!(serving.banner.contains(&format!("cache     {}", directory.path().display())), "{}", serving.banner);
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
    command.env("CACHE_DIRECTORY", directory.path());
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
    // 80 connections need 496.
    let directory = directory("[server]\nmax_connections = 80\n");
    for (limits, warned) in [("ulimit -Sn 100 && ulimit -Hn 500", false), ("ulimit -n 495", true)] {
        let serving = serving_with(limits, &directory);
        let (soft, hard) = open_files(&serving);
        assert_eq!(soft, hard, "{limits}");
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        let warning = log.contains("LimitNOFILE=") && log.contains("\"limit\":495") && log.contains("\"needed\":496");
        assert_eq!(warning, warned, "{limits}: {log}");
    }
}

/// A service manager that only listens.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(directory: &TempDir) -> Self {
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Waits for the first message that has `line` in it; gives all its lines.
    fn wait_for(&self, line: &str) -> Vec<String> {
        let mut buffer = [0; 4096];
        loop {
            let len = match self.socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("no {line}: {error}"),
            };
            let message: Vec<_> = String::from_utf8_lossy(&buffer[..len]).lines().map(str::to_owned).collect();
            if message.iter().any(|known| known == line) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_stop() {
    let directory =
        directory("[server]\nlisten = [\"127.0.0.1:0\"]\ndrain_timeout = \"7s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let manager = Manager::listen(&directory);
    let mut command = forebay(&directory);
    command.args(["serve", "--config", "forebay.toml"]).env("NOTIFY_SOCKET", directory.path().join("notify"));
    let serving = Serving::start(&mut command);
    manager.wait_for("READY=1");

    serving.signal(Signal::HUP);
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
    manager.wait_for("READY=1");

    fs::write(directory.path().join("forebay.toml"), "[server]\nnonsense = 1\n").unwrap();
    serving.signal(Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    TcpStream::connect(serving.registry).expect("a bad file changes nothing");

    serving.signal(Signal::TERM);
    let stopping = manager.wait_for("STOPPING=1");
    assert!(stopping.iter().any(|line| line == "EXTEND_TIMEOUT_USEC=22000000"), "{stopping:?}");
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("configuration reloaded"), "{log}");
    assert!(log.contains("reload failed") && log.contains("server.nonsense"), "{log}");
}

#[tokio::test]
async fn a_reload_takes_moved_tls_files_over_or_nothing() {
    let certificates = Certificates::new();
    let directory = directory("");
    let path = |name: &str| directory.path().join(name);
    let overrides = Overrides {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        admin: Some("127.0.0.1:0".parse().unwrap()),
        cache_dir: Some(path("cache")),
        max_size: None,
    };
    let base = Config::parse("", &path("forebay.toml"), overrides).unwrap();
    let with = |certificate: &str| {
        let mut config = base.clone();
        let key = certificates.config.key.clone();
        config.server.tls = Some(TlsConfig { certificate: path(certificate), key, client_ca: None });
        config
    };
    fs::copy(&certificates.config.certificate, path("old.crt")).unwrap();
    let app = App::start(with("old.crt"), Inherited::default()).await.unwrap();
    // The start's file is gone: only the new one can be what is read.
    fs::rename(path("old.crt"), path("new.crt")).unwrap();
    app.reload(with("old.crt")).unwrap_err();
    let mut bad = with("new.crt");
    bad.access.htpasswd = Some(path("missing"));
    app.reload(bad).unwrap_err();
    app.reload(with("new.crt")).unwrap();
    app.drain().await;
}

#[test]
fn the_watchdog_is_kept_quiet() {
    let directory = directory("");
    let manager = Manager::listen(&directory);
    let mut command = forebay(&directory);
    command.args(ON_ANY_PORT).env("NOTIFY_SOCKET", directory.path().join("notify")).env("WATCHDOG_USEC", "40000");
    let _serving = Serving::start(&mut command);
    manager.wait_for("READY=1");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
}
