//! The units: systemd finds nothing wrong with them, and socket activation loses no connection.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use forebay_test_support::{
    real::{
        daemon::Daemon,
        forebay::{self, local},
        port::free_port,
        program,
    },
    until::PATIENCE,
};

const UNITS: [&str; 2] = ["forebay.service", "forebay.socket"];

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

#[tokio::test]
async fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = TempDir::with_prefix("forebay-units-").expect("a folder can be made");
    let mut command = program::command("systemd-analyze", "systemd");
    command.args(["verify", "--man=no"]);
    for name in UNITS {
        // The program is not installed here, and verify wants to see it.
        let text = fs::read_to_string(unit(name)).expect("the unit is there");
        let text = text.replace("/usr/bin/forebay", env!("CARGO_BIN_EXE_forebay"));
        let copy = folder.path().join(name);
        fs::write(&copy, text).expect("the unit can be copied");
        command.arg(copy);
    }

    let verified = program::run(command).await;

    // An unknown key is only a warning to systemd, and it may also speak of the machine's other units.
    let complaints: Vec<&str> = verified.stderr.lines().filter(|line| line.contains("forebay")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    verified.ok();
}

#[tokio::test]
async fn the_services_exposure_is_two_or_less() {
    let mut command = program::command("systemd-analyze", "systemd");
    // The threshold is in tenths.
    command.args(["security", "--offline=yes", "--threshold=20", "--no-pager"]).arg(unit("forebay.service"));
    program::run(command).await.ok();
}

/// forebay's arguments for a home without a configuration and an admin port of its own.
fn arguments(home: &Path, admin: u16) -> Vec<String> {
    let config = home.join("forebay.toml");
    fs::write(&config, "state_directory = \"state\"\n").expect("the configuration can be written");
    ["serve", "--config", &config.display().to_string(), "--admin", &format!("127.0.0.1:{admin}"), "--cache-dir"]
        .into_iter()
        .map(str::to_owned)
        .chain([home.join("cache").display().to_string()])
        .collect()
}

async fn ping(stream: &mut TcpStream) -> String {
    let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("the request can be written");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").expect("an answer");
    answer
}

#[tokio::test]
async fn systemd_socket_activate_hands_over_its_socket() {
    let home = TempDir::with_prefix("forebay-activated-").expect("a folder can be made");
    let port = free_port();
    let binary = env!("CARGO_BIN_EXE_forebay");
    let mut command = program::command("systemd-socket-activate", "systemd");
    // It gives the program an environment of its own, except for what is named.
    command.args(["--setenv=HOME", "--listen"]).arg(format!("127.0.0.1:{port}")).arg(binary);
    command.args(arguments(home.path(), free_port())).env("HOME", home.path());
    let mut daemon = Daemon::spawn("systemd-socket-activate", command, &home.path().join("log"));
    daemon.until_listening(local(port)).await;

    let mut stream = TcpStream::connect(local(port)).await.expect("the socket accepts");
    let answer = ping(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// forebay as process 1 starts it: the listening socket is descriptor 3, and belongs to the parent (sd_listen_fds(3)).
fn activate(home: &Path, listener: &TcpListener, admin: u16) -> Daemon {
    // LISTEN_PID must be the program's own, which only a process that becomes the program can know.
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let mut command = program::command("bash", "bash");
    command.args(["-c", script, "bash"]).arg(forebay::command().get_program()).args(arguments(home, admin));
    command.env("HOME", home).env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().expect("a socket can be shared"))));
    Daemon::spawn("forebay", command, &home.join("log"))
}

#[tokio::test]
async fn a_connection_during_a_restart_is_answered_after_it() {
    let home = TempDir::with_prefix("forebay-activated-").expect("a folder can be made");
    let (listener, admin) = (TcpListener::bind(local(0)).expect("a port is free"), free_port());
    let address = listener.local_addr().expect("it is bound");

    let mut first = activate(home.path(), &listener, admin);
    let mut stream = TcpStream::connect(address).await.expect("the socket accepts");
    assert!(ping(&mut stream).await.starts_with("HTTP/1.1 200"), "{}", first.log());
    assert!(first.terminate().await.success(), "{}", first.log());

    let mut waiting = TcpStream::connect(address).await.expect("the socket accepts before the service runs");
    let _second = activate(home.path(), &listener, admin);
    let answer = ping(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// One request on a new connection, as a client makes it that does not try again.
async fn pull(address: std::net::SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|error| format!("write: {error}"))?;
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    match read.map_err(|late| late.to_string())? {
        Ok(_) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        other => Err(format!("{other:?}: {answer:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_attempt_is_lost_over_many_restarts() {
    let home = TempDir::with_prefix("forebay-activated-").expect("a folder can be made");
    let (listener, admin) = (TcpListener::bind(local(0)).expect("a port is free"), free_port());
    let address = listener.local_addr().expect("it is bound");
    let mut forebay = activate(home.path(), &listener, admin);
    pull(address).await.expect("it serves");

    let stop = tokio_util::sync::CancellationToken::new();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut pulls = 0;
                while !stop.is_cancelled() {
                    pull(address).await?;
                    pulls += 1;
                }
                Ok::<_, String>(pulls)
            })
        })
        .collect();
    for _ in 0..5 {
        assert!(forebay.terminate().await.success(), "{}", forebay.log());
        forebay = activate(home.path(), &listener, admin);
        pull(address).await.expect("the next one serves");
    }
    stop.cancel();
    for client in clients {
        let pulls: u32 = client.await.expect("no panic").expect("every pull was answered");
        assert!(pulls > 0);
    }
}
