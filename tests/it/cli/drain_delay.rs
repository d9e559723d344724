//! The end of the process with `server.drain_delay`: probes see it, clients do not.

use rustix::process::Signal;

use super::directory;
use forebay_test_support::{program::Program, until::until};

async fn readiness(program: &Program) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("http://{}/readyz", program.admin)).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn clients_are_served_until_the_drain_delay_is_over() {
    let program = Program::serve(directory("[server]\ndrain_delay = \"1h\"\n"), "info").await;
    assert_eq!(readiness(&program).await.0, 200);
    program.signal(Signal::TERM);
    until("probes are told", async || readiness(&program).await == (503, "draining\n".to_owned())).await;
    for _ in 0..3 {
        assert_eq!(program.get("/v2/").await.0, 200, "on a connection of its own");
    }
    assert!(!program.log().contains("\"draining\""), "{}", program.log());
    // A second signal: `end` waits for the end of the process.
    let log = program.end().await;
    for part in ["second signal to stop: the delay ends", "\"message\":\"draining\"", "\"message\":\"stopped\""] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[tokio::test]
async fn the_drain_begins_when_its_delay_is_over() {
    let program = Program::serve(directory("[server]\ndrain_delay = \"50ms\"\n"), "info").await;
    let log = program.end().await;
    for part in ["\"delay_seconds\":0.05", "\"message\":\"stopped\""] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("second signal"), "{log}");
}
