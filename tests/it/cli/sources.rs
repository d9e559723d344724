//! Which file `forebay` reads, and the environment of the process.

use super::*;

const ANY_PORT: [(&str, &str); 2] =
    [("FOREBAY_SERVER__LISTEN", "127.0.0.1:0"), ("FOREBAY_ADMIN__LISTEN", "localhost:0")];

/// Puts a file where forebay finds it by itself.
fn install(directory: &TempDir, configuration: &str) -> PathBuf {
    let etc = directory.path().join("etc");
    fs::create_dir_all(&etc).unwrap();
    let file = etc.join("forebay.toml");
    fs::write(&file, configuration).unwrap();
    file
}

#[test]
fn the_installed_file_is_found_by_itself() {
    let directory = directory("");
    let file = install(&directory, "[[upstream]]\nname = \"ghcr.io\"\n");
    let (code, stdout, stderr) = run(&directory, &["check"]);
    assert_eq!((code, stdout), (Some(0), format!("{}: ok, 1 upstream\n", file.display())), "{stderr}");

    let serving = Serving::start(forebay(&directory).arg("serve").envs(ANY_PORT));
    TcpStream::connect(serving.registry).unwrap();
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("the configuration was read") && log.contains(&file.display().to_string()), "{log}");

    // A file that is named goes before it; an empty one is no configuration.
    let (code, stdout, stderr) = run(&directory, &["check", "--config", "/dev/null"]);
    assert_eq!((code, &*stdout), (Some(0), "/dev/null: ok, 10 upstreams\n"), "{stderr}");
}

#[test]
fn an_installed_file_that_cannot_be_read_is_exit_code_2() {
    let directory = directory("");
    let file = install(&directory, "");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("gone", &file).unwrap();
    for command in [&["check"][..], &ON_ANY_PORT] {
        let (code, stdout, stderr) = run(&directory, command);
        assert_eq!((code, &*stdout), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(&format!("{}: cannot read the configuration file", file.display())), "{stderr}");
    }
}

#[test]
fn without_a_file_the_log_says_where_one_was_looked_for() {
    let directory = directory("");
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT));
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    let file = directory.path().join("etc/forebay.toml");
    assert!(log.contains("there is no configuration file") && log.contains(&file.display().to_string()), "{log}");
}

/// Without it, forebay would go on with the built-in upstreams, and without its users.
#[test]
fn a_reload_without_the_file_of_the_start_changes_nothing() {
    let directory = directory("");
    let file = install(&directory, "[[upstream]]\nname = \"ghcr.io\"\n");
    let manager = systemd::Manager::listen(&directory);
    let mut command = forebay(&directory);
    command.arg("serve").envs(ANY_PORT).env("NOTIFY_SOCKET", directory.path().join("notify"));
    let serving = Serving::start(&mut command);
    manager.wait_for("READY=1");
    fs::remove_file(&file).unwrap();
    serving.signal(Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    let said = format!("{}: cannot read the configuration file", file.display());
    assert!(log.contains("reload failed") && log.contains(&said), "{log}");
}

#[test]
fn flags_win_over_the_environment_of_the_process() {
    let directory = directory("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = forebay(&directory);
    command.args(["serve", "--listen", "localhost:0"]).envs(ANY_PORT).env("FOREBAY_SERVER__LISTEN", &address);
    let serving = Serving::start(&mut command);
    assert!(serving.registry.ip().is_loopback() && serving.registry.to_string() != address);

    let other = self::directory("");
    let (code, _, stderr) = {
        let output = forebay(&other).arg("serve").envs(ANY_PORT).env("FOREBAY_SERVER__LISTEN", &address).output();
        let Output { status, stdout, stderr } = output.unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
}

#[test]
fn a_mistake_in_a_variable_is_exit_code_2_with_its_name() {
    let directory = directory("");
    for command in [&["check"][..], &ON_ANY_PORT] {
        let output = forebay(&directory).args(command).env("FOREBAY_CACHE__TAG_TTL", "60").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("forebay: FOREBAY_CACHE__TAG_TTL: 60 of what?"), "{stderr}");
    }
}

#[test]
fn an_unknown_variable_is_warned_of_and_not_refused() {
    let directory = directory("");
    let unknown = ("FOREBAY_SERVER_LISTEN", ":5000");
    let kubernetes = ("FOREBAY_PORT", "tcp://10.96.0.7:5000");
    let output = forebay(&directory).arg("check").envs([unknown, kubernetes]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("FOREBAY_SERVER_LISTEN: unknown variable"), "{stderr}");
    assert!(stderr.contains("did you mean FOREBAY_SERVER__LISTEN?") && !stderr.contains("FOREBAY_PORT"), "{stderr}");

    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).envs([unknown, kubernetes]));
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("FOREBAY_SERVER_LISTEN") && !log.contains("FOREBAY_PORT"), "{log}");
}

/// Each mistake has a line of its own.
#[test]
fn all_mistakes_are_told_at_once() {
    let directory = directory("[server]\nlisen = 1\n[cache]\ntag_ttl = 60\n");
    let (code, stdout, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
    assert_eq!((code, &*stdout), (Some(2), ""), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    let starts = ["forebay: forebay.toml:2:1: server.lisen: ", "forebay: forebay.toml:4:1: cache.tag_ttl: "];
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{stderr}");
}
