//! `forebay top` of the real program.

use std::io::Write as _;

use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    until::{PATIENCE, until},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{running::ask, *};

const MIB: usize = 1024 * 1024;

/// Runs `work` while a client downloads a blob that stops in the middle.
async fn during<T>(work: impl AsyncFnOnce(&Mirror) -> T) -> T {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", vec![7; 2 * MIB]);
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let path = format!("/v2/team/app/blobs/{digest}");
    let working = async {
        gate.reached().await;
        let result = work(&mirror).await;
        gate.open();
        result
    };
    let (result, answer) = tokio::join!(working, mirror.get_with(&path, &[("user-agent", "docker/29.1 go")]));
    assert_eq!(answer.status, 200);
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_a_table_or_documents_are_printed() {
    during(async |mirror| {
        let text = until("the client's row", async || {
            let (code, text, error) = ask(mirror, &["top"]).await;
            assert_eq!((code, &*error), (Some(0), ""));
            text.contains(" downloaded, miss ").then_some(text)
        })
        .await;
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("requests 1   downloads 1   out ") && lines.len() == 3, "{text}");
        let head: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(head, ["OUT", "IN", "IMAGE", "CLIENTS", "STATE", "AGE", "LEFT"]);
        assert!(lines[2].contains("fake.example/team/app@sha256:") && lines[2].contains("  127.0.0.1 docker/29.1  "));
        assert!(lines[2].contains(" of 2.0 MiB downloaded, miss "), "{text}");
        for (by, expected) in [("client", "127.0.0.1 docker/29.1"), ("upstream", "fake.example ")] {
            let (_, text, _) = ask(mirror, &["top", "--once", "--by", by]).await;
            assert!(text.lines().nth(2).unwrap().contains(expected), "{text}");
        }
        let (code, text, _) = ask(mirror, &["top", "--once", "--json"]).await;
        assert_eq!((code, text.lines().count()), (Some(0), 1));
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["downloads"][0]["clients"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_a_while_are_summed() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    registry.add_image("team/other", "1", &[]);
    let mirror = Mirror::of(&registry).await;
    for (name, status) in [("app", 200), ("other", 200), ("none", 404)] {
        assert_eq!(mirror.get(&format!("/v2/team/{name}/manifests/1")).await.status, status);
    }
    let text = until("all pulls", async || {
        let (code, text, error) = ask(&mirror, &["top", "--since", "1h"]).await;
        assert_eq!((code, &*error), (Some(0), ""));
        text.contains("pulls 3 ").then_some(text)
    })
    .await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("since ") && lines[0].contains("   pulls 3   errors 1   sent "), "{text}");
    let words = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    assert!(lines.iter().any(|line| words(line) == "fake.example/team/app:1 1 0"), "{text}");
    assert!(lines.iter().any(|line| words(line) == "fake.example/team/none:1 1 1"), "{text}");
    let (code, text, _) = ask(&mirror, &["top", "--since", "1h", "--by", "upstream", "--json"]).await;
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &document["rows"][0]["name"], &document["rows"][0]["pulls"]),
        (Some(0), &"fake.example".into(), &3.into())
    );
}

/// A program that a failed test ends.
struct EndOnDrop(std::process::Child);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_choose_what_is_shown_and_end_it() {
    during(async |mirror| {
        let socket = mirror.config().admin.socket.clone().unwrap();
        spawn_blocking(move || {
            let (mut person, program) = terminal();
            let before = tcgetattr(&program).unwrap().local_modes;
            let directory = tempfile::tempdir().unwrap();
            let mut command = forebay(&directory);
            command.args(["top", "--control"]).arg(socket);
            let ends = [program.try_clone().unwrap(), program.try_clone().unwrap()];
            let [input, output] = ends.map(Stdio::from);
            let mut process = EndOnDrop(command.stdin(input).stdout(output).spawn().unwrap());
            drop(command);
            let mut shown = String::new();
            let mut read_until = |person: &mut fs::File, wanted: &str| {
                let mut bytes = [0; 4096];
                let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
                while !shown.contains(wanted) {
                    // The test holds the terminal, so that the end of the program does not end the reading.
                    let count_of_ready = poll(&mut [PollFd::new(&*person, PollFlags::IN)], Some(&patience)).unwrap();
                    assert!(count_of_ready > 0, "no {wanted:?}: {shown:?}");
                    let count = person.read(&mut bytes).unwrap();
                    shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            };
            read_until(&mut person, "q quit");
            for (key, head) in [("c", "  CLIENT "), ("xu", "  UPSTREAM "), ("s", "  USER ")] {
                person.write_all(key.as_bytes()).unwrap();
                read_until(&mut person, head);
            }
            person.write_all(b"q").unwrap();
            read_until(&mut person, "\x1b[?25h\x1b[?1049l");
            assert_eq!(process.0.wait().unwrap().code(), Some(0));
            assert_eq!(tcgetattr(&program).unwrap().local_modes, before);
        })
        .await
        .unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_streamed_until_the_reader_leaves() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let socket = mirror.config().admin.socket.clone().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut process = forebay(&directory).args(["top", "--json", "--control"]).arg(socket).spawn().unwrap();
    let mut printed = BufReader::new(process.stdout.take().unwrap());
    let code = spawn_blocking(move || {
        for _ in 0..2 {
            let mut line = String::new();
            printed.read_line(&mut line).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["requests"], serde_json::json!([]));
        }
        drop(printed);
        process.wait().unwrap().code()
    });
    assert_eq!(code.await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_drawn_anew_and_restored_at_ctrl_c() {
    let text = during(async |mirror| {
        let socket = mirror.config().admin.socket.clone().unwrap();
        spawn_blocking(move || {
            let (mut person, program) = terminal();
            let size = |ws_col| Winsize { ws_row: 24, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&person, size(60)).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let mut command = forebay(&directory);
            let mut process =
                command.args(["top", "--control"]).arg(socket).stdout(Stdio::from(program)).spawn().unwrap();
            drop(command);
            let mut shown = String::new();
            let mut read_until = |person: &mut fs::File, wanted: &dyn Fn(&str) -> bool| {
                let mut bytes = [0; 4096];
                while !wanted(&shown) {
                    let count = person.read(&mut bytes).unwrap();
                    shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
                shown.clone()
            };
            read_until(&mut person, &|shown| shown.contains('…'));
            let narrow = read_until(&mut person, &|_| true);
            tcsetwinsize(&person, size(200)).unwrap();
            read_until(&mut person, &|shown| {
                shown.contains("fake.example/team/app@sha256:") && shown.contains("downloaded")
            });
            kill_process(Pid::from_child(&process), Signal::INT).unwrap();
            let all = read_until(&mut person, &|shown| shown.ends_with("\x1b[?25h\x1b[?1049l"));
            assert_eq!(process.wait().unwrap().code(), Some(0));
            (narrow, all)
        })
        .await
        .unwrap()
    })
    .await;
    let (narrow, all) = text;
    assert!(all.starts_with("\x1b[?1049h\x1b[?25l\x1b[H"), "{all:?}");
    // Each line fits the terminal, which was narrow at first.
    for line in narrow.split("\x1b[H").skip(1).flat_map(|frame| frame.split('\n')) {
        let shown = line.replace("\x1b[K", "").replace("\x1b[J", "").replace('\r', "");
        assert!(shown.chars().count() <= 60, "{shown:?}");
    }
}
