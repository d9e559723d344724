//! `forebay user`: what it asks, prints and refuses, and that the running forebay takes the new users by itself.

use std::{io::Write as _, os::fd::AsFd as _};

use forebay_test_support::{program::Program, until::until, users::basic};
use rustix::termios::{LocalModes, tcgetattr};

use super::*;

const CONFIGURATION: &str = "[access]\nanonymous = \"none\"\nhtpasswd = \"htpasswd\"\n";
const FILE: [&str; 2] = ["--config", "forebay.toml"];

/// Runs `forebay user …` with this input.
fn user(directory: &TempDir, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut process = forebay(directory).arg("user").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // A command that refuses its arguments does not read.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = process.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn htpasswd(directory: &TempDir) -> String {
    fs::read_to_string(directory.path().join("htpasswd")).unwrap()
}

async fn status(program: &Program, password: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}/v2/", program.registry));
    request.header("authorization", basic("ann", password)).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_running_forebay_takes_users_by_itself() {
    let directory = directory(CONFIGURATION);
    fs::write(directory.path().join("htpasswd"), "# no user yet\n").unwrap();
    let program = Program::serve(directory, "info").await;
    let path = program.directory().join("htpasswd");
    let run = |arguments: &[&str], input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["user"]).args(arguments).arg("--htpasswd").arg(&path).env_clear();
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(0), "{arguments:?}");
    };
    assert_eq!(status(&program, "secret").await, 401);
    run(&["add", "ann", "--password-stdin"], "secret\n");
    until("ann may log in", async || status(&program, "secret").await == 200).await;
    run(&["rm", "ann", "--yes"], "");
    until("ann may not", async || status(&program, "secret").await == 401).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "# no user yet\n");
    program.end().await;
}

#[test]
fn users_are_added_listed_changed_and_removed() {
    let directory = directory(CONFIGURATION);
    let run = |arguments: &[&str], input: &str| user(&directory, &[arguments, &FILE].concat(), input);

    let (code, stdout, stderr) = run(&["ls"], "");
    assert_eq!((code, &*stdout, &*stderr), (Some(1), "", "forebay: htpasswd does not exist\n"));
    let (code, stdout, stderr) = run(&["add", "ann", "--password-stdin"], "secret\n");
    assert_eq!((code, &*stdout), (Some(0), "ann: added to htpasswd\n"), "{stderr}");
    assert_eq!(stderr, "htpasswd is new, with mode 600: forebay must be able to read it\n");
    let (code, stdout, stderr) = run(&["add", "bob", "--password-stdin", "--json"], "secret");
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout, "{\"change\":\"added\",\"file\":\"htpasswd\",\"user\":\"bob\"}\n");

    let before = htpasswd(&directory);
    let (code, _, stderr) = run(&["add", "ann", "--password-stdin"], "other\n");
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(stderr, "forebay: ann is a user of htpasswd already: --yes changes the password\n");
    assert_eq!(htpasswd(&directory), before);
    let (code, stdout, _) = run(&["add", "ann", "--password-stdin", "--yes"], "other\r\n");
    assert_eq!((code, &*stdout), (Some(0), "ann: password changed in htpasswd\n"));
    let hash = htpasswd(&directory).lines().next().unwrap().strip_prefix("ann:").unwrap().to_owned();
    assert!(bcrypt::verify("other", &hash).unwrap(), "the end of the line is no part of it");

    assert_eq!(run(&["ls"], "").1, "ann\nbob\n");
    let listed: serde_json::Value = serde_json::from_str(&run(&["ls", "--json"], "").1).unwrap();
    assert_eq!(listed["users"][1], serde_json::json!({ "name": "bob", "cost": 10 }));

    let (code, _, stderr) = run(&["rm", "ann"], "y\n");
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(run(&["rm", "ann", "--yes"], "").0, Some(0));
    assert_eq!(run(&["ls"], "").1, "bob\n");
    let (code, _, stderr) = run(&["rm", "ann", "--yes"], "");
    assert_eq!((code, &*stderr), (Some(1), "forebay: \"ann\" is no user of htpasswd\n"));
}

#[test]
fn what_no_user_can_have_is_refused() {
    let directory = directory(CONFIGURATION);
    let long = "p".repeat(73);
    let endless = "p".repeat(1 << 20);
    for (name, input, expected) in [
        ("ann", "", "the password is empty"),
        ("ann", "\n", "the password is empty"),
        ("ann", &*long, "longer than 72 bytes"),
        ("ann", &endless, "longer than 72 bytes"),
        ("ann", "one\ntwo\n", "no second line"),
        ("a:b", "secret", "a name has no colon"),
        ("a\tb", "secret", "no control characters"),
        ("", "secret", "the name is empty"),
    ] {
        let (code, stdout, stderr) = user(&directory, &["add", name, "--password-stdin", FILE[0], FILE[1]], input);
        assert_eq!((code, &*stdout), (Some(2), ""), "{name} {stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("secret"), "{name}: {stderr}");
    }
    let (code, _, stderr) = user(&directory, &["add", "ann", FILE[0], FILE[1]], "secret\n");
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--password-stdin"), "{stderr}");
    assert!(!directory.path().join("htpasswd").exists());
}

#[test]
fn the_key_that_names_the_file_is_told() {
    let directory = directory("");
    let (code, _, stderr) = user(&directory, &["ls", FILE[0], FILE[1]], "");
    assert_eq!(code, Some(2));
    assert!(stderr.contains("set access.htpasswd = \"htpasswd\" in forebay.toml"), "{stderr}");
    // The file of another section may be missing; a key that is misspelt is not overlooked.
    let other = "[access]\nhtpasswd = \"users\"\n[server.tls]\ncertificate = \"none\"\nkey = \"none\"\n";
    for (text, code) in [(other, Some(0)), ("[access]\nhtpaswd = \"users\"\n", Some(2))] {
        fs::write(directory.path().join("forebay.toml"), text).unwrap();
        let (found, _, stderr) = user(&directory, &["add", "ann", "--password-stdin", FILE[0], FILE[1]], "secret");
        assert_eq!(found, code, "{text}{stderr}");
    }
    assert!(directory.path().join("users").exists());
}

#[test]
fn a_file_that_is_not_htpasswd_is_not_touched() {
    let directory = directory(CONFIGURATION);
    let text = "ann:plain\n";
    fs::write(directory.path().join("htpasswd"), text).unwrap();
    for arguments in [&["add", "bob", "--password-stdin"][..], &["rm", "ann", "--yes"], &["ls"]] {
        let (code, _, stderr) = user(&directory, &[arguments, &FILE].concat(), "secret");
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(":1: the hash is not bcrypt") && !stderr.contains("plain"), "{stderr}");
    }
    assert_eq!(htpasswd(&directory), text);
}

#[test]
fn a_removed_user_that_may_push_is_warned_of() {
    let directory = directory(&format!("{CONFIGURATION}push_users = [\"ann\"]\n"));
    assert_eq!(user(&directory, &["add", "ann", "--password-stdin", FILE[0], FILE[1]], "secret").0, Some(0));
    let (code, _, stderr) = user(&directory, &["rm", "ann", "--yes", FILE[0], FILE[1]], "");
    assert_eq!(code, Some(0));
    assert!(stderr.starts_with("warning: access.push_users still names ann"), "{stderr}");
}

/// Types each line once the program has asked for it. The exit code, and what was asked.
fn typed(directory: &TempDir, arguments: &[&str], lines: &[(&str, &str)]) -> (Option<i32>, String) {
    let (mut person, program) = terminal();
    let mut command = forebay(directory);
    let command = command.arg("user").args(arguments).args(FILE).stdin(Stdio::from(program.try_clone().unwrap()));
    let mut process = command.spawn().unwrap();
    let mut stderr = process.stderr.take().unwrap();
    let mut asked = String::new();
    for (prompt, line) in lines {
        let mut byte = [0];
        while !asked.ends_with(prompt) && stderr.read(&mut byte).unwrap() == 1 {
            asked.push(char::from(byte[0]));
        }
        let shows = tcgetattr(program.as_fd()).unwrap().local_modes.contains(LocalModes::ECHO);
        assert_eq!(shows, !prompt.ends_with(": "), "{asked}");
        person.write_all(line.as_bytes()).unwrap();
    }
    stderr.read_to_string(&mut asked).unwrap();
    let code = process.wait().unwrap().code();
    assert!(tcgetattr(program.as_fd()).unwrap().local_modes.contains(LocalModes::ECHO), "{asked}");
    (code, asked)
}

#[test]
fn a_password_is_asked_for_twice_and_not_shown() {
    let directory = directory(CONFIGURATION);
    let (ann, again, change) = ("Password of ann: ", "The same again: ", "[y/N] ");
    let (code, asked) = typed(&directory, &["add", "ann"], &[(ann, "secret\n"), (again, "secret\n")]);
    assert_eq!(code, Some(0), "{asked}");
    assert!(!asked.contains("secret"), "{asked}");
    let before = htpasswd(&directory);
    assert!(bcrypt::verify("secret", before.trim().strip_prefix("ann:").unwrap()).unwrap());

    for (lines, expected) in [
        (&[(change, "\n")][..], "nothing is changed"),
        (&[(change, "y\n"), (ann, "one\n"), (again, "two\n")], "the two passwords differ"),
        (&[(change, "y\n"), (ann, "one\x03")], "interrupted"),
        (&[(change, "y\n"), (ann, "\x04")], "interrupted"),
    ] {
        let (code, asked) = typed(&directory, &["add", "ann"], lines);
        assert_eq!(code, Some(1), "{asked}");
        assert!(asked.contains(expected), "{asked}");
        assert_eq!(htpasswd(&directory), before);
    }
    let (code, asked) = typed(&directory, &["add", "ann"], &[(change, "yes\n"), (ann, "x\n"), (again, "x\n")]);
    assert_eq!(code, Some(0), "{asked}");
    assert_ne!(htpasswd(&directory), before);
    assert_eq!(typed(&directory, &["rm", "ann"], &[(change, "n\n")]).0, Some(1));
    assert_eq!(typed(&directory, &["rm", "ann"], &[(change, "Y\n")]).0, Some(0));
    assert_eq!(htpasswd(&directory), "");
}
