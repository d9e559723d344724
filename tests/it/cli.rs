//! The process as an operator meets it: exit codes, what is printed, signals, the service manager.

pub mod descriptors;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
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
use rustix::process::{Pid, Signal, kill_process};
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
        .env("CACHE_DIRECTORY", directory.path().join("cache"))
        .env("STATE_DIRECTORY", directory.path().join("state"));
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

/// `openssl req -x509 -newkey rsa:1024 -subj /CN=registry.lan -addext subjectAltName=DNS:registry.lan -days 36500`.
const SHORT_KEY: &str = "\
-----BEGIN CERTIFICATE-----
MIICJTCCAY6gAwIBAgIUbTNhGluAVwTTX98JtIyQqPgcTscwDQYJKoZIhvcNAQEL
BQAwFzEVMBMGA1UEAwwMcmVnaXN0cnkubGFuMCAXDTI2MTEyOTE0NTQwM1oYDzIx
MjYxMTA1MTQ1NDAzWjAXMRUwEwYDVQQDDAxyZWdpc3RyeS5sYW4wgZ8wDQYJKoZI
hvcNAQEBBQADgY0AMIGJAoGBAOqxizIs8VU8K0C5efJbGL7L5PUBlFHQR4bHWpyF
k/q3Q+Jtqr4erEb+lm88Rvnzcz0flD1bZSIWiUcSpX+iiwGdM4KlY5dvUsFTZECL
mh9GTr2I29BojRzYUMLb5rYOK9OGxsGMgkJcQsbc/R7uKqpWlQ+CgPjx1UJWZFU7
KaaVAgMBAAGjbDBqMB0GA1UdDgQWBBSVkWlkh2bm9zoQlZfzSe2iAMiiGDAfBgNV
HSMEGDAWgBSVkWlkh2bm9zoQlZfzSe2iAMiiGDAPBgNVHRMBAf8EBTADAQH/MBcG
A1UdEQQQMA6CDHJlZ2lzdHJ5LmxhbjANBgkqhkiG9w0BAQsFAAOBgQDQEfKxEwl+
7AxOJcIQHAouoPBEaTp7gy1zNaO5ANGfBvwxWcy2bZ4C/v20MXONFAbSsgW8QmUH
IIDNNhxBYIVBC1jg2KNx2qJfxdLQa6g60qSv4nDRxKcJhd3Q/f1jT4M8tfoEkrjf
nr3hyFB7rR977kuLkRHQTuStTx8fm3Cd6w==
-----END CERTIFICATE-----
";

/// The error of a handshake would not say what to do.
#[test]
fn a_certificate_that_cannot_be_used_is_explained_by_check() {
    let named = |names: Vec<String>| {
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "registry.lan");
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let (nameless, good) = (named(vec![]), named(vec!["registry.lan".to_owned()]));
    for (content, code, said) in [
        (SHORT_KEY.to_owned(), Some(2), Some("own.crt cannot be used: its RSA key has 1024 bits")),
        (nameless.clone(), Some(2), Some("own.crt cannot be used: it names registry.lan as its common name")),
        (format!("{good}{nameless}"), Some(0), Some("registry.lan: certificate 2 of ")),
        (good, Some(0), None),
    ] {
        let directory = directory("[[upstream]]\nname = \"registry.lan\"\nca = \"own.crt\"\n");
        fs::write(directory.path().join("own.crt"), &content).unwrap();
        let (found, stdout, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
        assert_eq!(found, code, "{stdout}{stderr}");
        match said {
            Some(said) => {
                assert!(stdout.starts_with("registry.lan: certificate ") && stdout.contains(said), "{stdout}")
            }
            None => assert_eq!(stdout, "forebay.toml: ok, 1 upstream\n"),
        }
    }
}

/// A user who was removed may not push; that is no reason to keep others from pulling.
#[test]
fn check_reports_a_push_user_without_a_password() {
    let directory = directory("[access]\nhtpasswd = \"users\"\npush_users = [\"ann\", \"gone\"]\n");
    fs::write(directory.path().join("users"), format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let (code, _, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
    let said = stderr.lines().last().unwrap_or_default();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        said.starts_with("forebay: access: push_users: \"gone\" is no user of ") && said.contains("users"),
        "{said}"
    );
}

#[test]
fn an_invalid_password_file_exits_2_with_the_reason() {
    let upstream = |key: &str| format!("[[upstream]]\nname = \"a.example\"\n{key} = \"bad\"\n");
    for (configuration, content, why) in [
        (upstream("username = \"me\"\npassword_file"), vec![], "it is empty"),
        (upstream("username = \"me\"\npassword_file"), b"\xef\xbb\xbfpw".to_vec(), "byte order mark"),
        (upstream("username = \"me\"\npassword_file"), vec![b'p'; 65_537], "longer than 65536 bytes"),
        (upstream("docker_config"), b"{".to_vec(), "EOF"),
        (upstream("ca"), vec![b'x'; 5 << 20], "longer than"),
        ("[access]\nhtpasswd = \"bad\"\n".to_owned(), vec![b'#'; 5 << 20], "longer than"),
        ("[access]\nhtpasswd = \"bad\"\n".to_owned(), b"\xef\xbb\xbf# staff".to_vec(), "byte order mark"),
        ("[push]\nkey_file = \"bad\"\n".to_owned(), vec![b'x'; 65_537], "longer than"),
    ] {
        let directory = directory(&configuration);
        fs::write(directory.path().join("bad"), content).unwrap();
        for command in [&["check"][..], &ON_ANY_PORT] {
            let (code, _, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
            let said = stderr.lines().last().unwrap();
            assert_eq!(code, Some(2), "{configuration}: {stderr}");
            assert!(said.contains("bad") && said.contains(why), "{configuration}: {said}");
        }
    }
}

/// It would be left out, and everything asked directly.
#[test]
fn a_proxy_that_is_none_is_exit_code_2_with_its_variable() {
    let directory = directory("[[upstream]]\nname = \"a.example\"\n");
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        for command in [&["check"][..], &ON_ANY_PORT] {
            let arguments = [command, &["--config", "forebay.toml"]].concat();
            let output = forebay(&directory).env(variable, "http://me:hunter2@:port").args(arguments).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{variable}: {stderr}");
            assert!(stderr.contains(variable) && !stderr.contains("hunter2"), "{stderr}");
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
    // Half of few descriptors are for connections, three for each.
    let directory = directory("[server]\nmax_connections = 80\n");
    for (limits, warned) in [("ulimit -Sn 100 && ulimit -Hn 500", false), ("ulimit -n 470", true)] {
        let serving = serving_with(limits, &directory);
        let (soft, hard) = open_files(&serving);
        assert_eq!(soft, hard, "{limits}");
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        let told = ["LimitNOFILE=", "\"limit\":470", "\"max_connections\":78"];
        let warning = told.iter().all(|told| log.contains(told));
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

#[test]
fn an_earlier_key_is_moved_out_of_the_cache_with_pushes_on() {
    let upstream = "[[upstream]]\nname = \"a.example\"\nurls = [\"http://127.0.0.1:9\"]\n";
    let directory = directory(upstream);
    let (cache, state) = (directory.path().join("cache"), directory.path().join("state"));
    fs::create_dir_all(cache.join("tmp")).unwrap();
    let key = format!("{}\n", "ab".repeat(32));
    fs::write(cache.join("lock"), "").unwrap();
    fs::write(cache.join("push.key"), &key).unwrap();
    let serve = || {
        let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).args(["--config", "forebay.toml"]));
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        log
    };
    serve();
    assert!(!state.exists() && cache.join("push.key").exists(), "no key is needed without pushes");
    fs::write(directory.path().join("forebay.toml"), format!("{upstream}push = true\n")).unwrap();
    assert!(serve().contains("moved out of the cache"));
    assert!(!serve().contains("moved out of the cache"));
    assert!(!cache.join("push.key").exists());
    assert_eq!(fs::read_to_string(state.join("push.key")).unwrap(), key);
    for (path, mode) in [(state.clone(), 0o700), (state.join("push.key"), 0o600)] {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_is_exit_code_2() {
    let directory = directory(
        "state_directory = \"forebay.toml\"\n[[upstream]]\nname = \"a.example\"\nurls = [\"http://127.0.0.1:9\"]\npush = true\n",
    );
    for command in [&["check"][..], &ON_ANY_PORT] {
        let (code, stdout, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
        assert_eq!((code, &*stdout), (Some(2), ""), "{command:?}: {stderr}");
        assert!(stderr.lines().last().unwrap().starts_with("forebay: state_directory: "), "{stderr}");
    }
}

/// Every name below a directory, with its mode and, of a file, its content.
fn everything(directory: &Path) -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        let content = metadata.is_file().then(|| fs::read(entry.path()).unwrap());
        found.push((entry.path(), metadata.mode(), content));
        if metadata.is_dir() {
            found.extend(everything(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_of_other_files_is_refused_and_left_as_it_is() {
    let hex = "00".repeat(32);
    let cases: &[(&[&str], &[&str])] = &[
        // Like /var, with a `lock` that is a link.
        (&["tmp/session", "lib/db", "tags/x"], &["lib"]),
        (&["tmp/only"], &["tmp"]),
        (&["lock", "tmp/a", "notes.txt"], &["notes.txt"]),
        (&["lock/inside"], &["lock"]),
        (&[".profile"], &[".profile"]),
        (&["manifests/sha256/00/other", "blobs/sha256/00/other"], &["blobs", "manifests"]),
        (&["lost+found/inode", "photo.jpg"], &["photo.jpg"]),
    ];
    for (files, told) in cases {
        let directory = directory("");
        let cache = directory.path().join("cache");
        for file in files.iter().map(|file| cache.join(file)) {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, &hex).unwrap();
        }
        let before = everything(&cache);
        for command in [&["check"][..], &ON_ANY_PORT] {
            let (code, stdout, stderr) = run(&directory, &[command, &["--cache-dir", "cache"]].concat());
            assert_eq!((code, &*stdout), (Some(2), ""), "{files:?}: {stderr}");
            assert!(told.iter().all(|name| stderr.contains(name)) && stderr.contains("--cache-dir"), "{stderr}");
            assert_eq!(everything(&cache), before, "{files:?}");
        }
    }
}

/// `serve` ends with 2 and tells this, and what is there stays as it is.
fn is_refused(directory: &TempDir, what: &str, told: &str) {
    let before = everything(directory.path());
    let (code, _, stderr) = run(directory, &[&ON_ANY_PORT[..], &["--cache-dir", "cache"]].concat());
    assert_eq!(code, Some(2), "{what}: {stderr}");
    assert!(stderr.contains(told), "{what}: {stderr}");
    assert_eq!(everything(directory.path()), before, "{what}");
}

/// A directory of forebay's own before it wrote markers, or with this one.
fn cache_of_forebay(directory: &TempDir, marker: Option<&[u8]>) -> PathBuf {
    let cache = directory.path().join("cache");
    for name in ["blobs/sha256/00", "manifests", "tags/docker.io", "tmp"] {
        fs::create_dir_all(cache.join(name)).unwrap();
    }
    fs::write(cache.join("lock"), "").unwrap();
    if let Some(marker) = marker {
        fs::write(cache.join("forebay-layout"), marker).unwrap();
    }
    cache
}

const MARKER: &str = "forebay cache directory, layout 1\n";

#[test]
fn a_file_and_layouts_that_are_not_known_are_refused() {
    let start = "forebay cache directory, layout ";
    for (marker, told) in [
        (format!("{start}2\n").into_bytes(), "newer"),
        (format!("{start}18446744073709551615\n").into_bytes(), "newer"),
        (format!("{start}18446744073709551616\n").into_bytes(), "no layout"),
        (format!("{start}0\n").into_bytes(), "no layout"),
        (format!("{start}-1\n").into_bytes(), "no layout"),
        (format!("{start}+1\n").into_bytes(), "no layout"),
        (vec![], "no layout"),
        (vec![0xff; 10], "no layout"),
        ([start.as_bytes(), b"1\xff\n"].concat(), "no layout"),
        (format!("{MARKER}{}", " ".repeat(5000)).into_bytes(), "no layout"),
        (vec![b'1'; 1 << 20], "no layout"),
    ] {
        let directory = directory("");
        cache_of_forebay(&directory, Some(&marker));
        is_refused(&directory, &format!("{:?}", &marker[..marker.len().min(60)]), told);
    }
    let directory = directory("");
    fs::write(directory.path().join("cache"), MARKER).unwrap();
    is_refused(&directory, "a file", "not a directory");
}

#[test]
fn a_foreign_file_with_a_name_of_the_layout_is_refused() {
    let directory_there = |path: &Path| fs::create_dir(path).unwrap();
    let link = |path: &Path| std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
    let link_of_directory = |path: &Path| {
        let other = path.ancestors().find(|above| above.ends_with("cache")).unwrap().with_file_name("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("object-1.new"), "theirs").unwrap();
        std::os::unix::fs::symlink(&other, path).unwrap();
    };
    let file = |path: &Path| fs::write(path, "theirs").unwrap();
    let empty = |path: &Path| fs::write(path, "").unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: &[(&str, Make<'_>, bool)] = &[
        ("tmp", &file, true),
        ("tmp", &link_of_directory, true),
        ("blobs", &link_of_directory, true),
        ("tags", &link_of_directory, true),
        ("clients", &file, true),
        ("clients", &link_of_directory, true),
        ("lock", &link, true),
        ("lock", &directory_there, true),
        ("lock", &file, false),
        ("CACHEDIR.TAG", &file, false),
        ("CACHEDIR.TAG", &empty, false),
        ("CACHEDIR.TAG", &link, false),
        ("CACHEDIR.TAG", &directory_there, false),
        ("forebay-layout", &link, false),
        ("forebay-layout", &directory_there, false),
        ("forebay-layout.new", &file, false),
    ];
    for (name, make, also_marked) in cases {
        for marker in [None, Some(MARKER.as_bytes())].into_iter().take(if *also_marked { 2 } else { 1 }) {
            let directory = directory("");
            let cache = cache_of_forebay(&directory, marker);
            let path = cache.join(name);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                let _ = fs::remove_file(&path);
            }
            make(&path);
            is_refused(&directory, &format!("{name}, marked: {}", marker.is_some()), name);
        }
    }
}

/// Their `lock` and `tmp`, as those of dpkg, apt and others, are not forebay's.
#[test]
fn a_directory_of_another_program_is_refused() {
    for (files, told) in [
        (&["lock", "tmp/session"][..], "tmp"),
        (&["lock", "tmp/object-1.new.bak"], "tmp"),
        (&["lock", "blobs/uploads/1"], "blobs"),
        (&["lock", "CACHEDIR.TAG", "tmp/wheel"], "tmp"),
        (&["lock", "partial/x", "archive.deb"], "partial"),
        (&["lock", "lock-frontend", "status", "tmp.ci/control"], "lock-frontend"),
    ] {
        let directory = directory("");
        for file in files.iter().map(|file| directory.path().join("cache").join(file)) {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# of another program\n";
            fs::write(&file, if file.ends_with("CACHEDIR.TAG") { tag } else { "" }).unwrap();
        }
        is_refused(&directory, &format!("{files:?}"), told);
    }
}

#[test]
fn a_tag_of_others_beside_a_cache_stays_as_it_is() {
    let directory = directory("");
    let cache = cache_of_forebay(&directory, None);
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# for my backups\n";
    fs::write(cache.join("CACHEDIR.TAG"), tag).unwrap();
    // What a kill left, by another name too.
    fs::write(cache.join("forebay-layout.new"), &MARKER[..7]).unwrap();
    fs::hard_link(cache.join("forebay-layout.new"), directory.path().join("linked")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(ON_ANY_PORT).args(["--cache-dir", "cache"]).current_dir(&directory);
    let serving = Serving::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("was adopted"), "{log}");
    assert_eq!(fs::read_to_string(cache.join("CACHEDIR.TAG")).unwrap(), tag);
    assert_eq!(fs::read_to_string(cache.join("forebay-layout")).unwrap(), MARKER);
    assert_eq!(fs::read_to_string(directory.path().join("linked")).unwrap(), &MARKER[..7]);
}

#[test]
fn a_new_directory_is_marked_and_for_its_user_alone() {
    let directory = directory("");
    let cache = directory.path().join("cache");
    fs::create_dir_all(cache.join("lost+found")).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    for warned in [true, false] {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0 && exec \"$0\" \"$@\""]).arg(env!("CARGO_BIN_EXE_forebay")).args(ON_ANY_PORT);
        command.args(["--cache-dir", "cache"]).current_dir(&directory);
        let serving = Serving::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.contains("other users may write"), warned, "{log}");
        assert!(!log.contains("not forebay's"), "{log}");
    }
    assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
    assert!(
        fs::read_to_string(cache.join("CACHEDIR.TAG"))
            .unwrap()
            .starts_with("Signature: 8a477f597d28d172789f06886806bc55\n")
    );
    assert_eq!(fs::read_to_string(cache.join("forebay-layout")).unwrap(), "forebay cache directory, layout 1\n");
    for (path, mode, _) in everything(&cache) {
        assert!(mode & 0o077 == 0 || path.ends_with("lost+found"), "{} {mode:o}", path.display());
    }
}
