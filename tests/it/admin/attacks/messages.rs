//! Requests as no client writes them: other methods, several at once, and lines within lines.

use super::{BEARER, TOKEN, World, assert_refused, content, endpoints::ALL};
use forebay_test_support::{until::bounded, wire};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_refused_and_do_nothing() {
    let world = World::with_token().await;
    for endpoint in ALL {
        let resource = endpoint.line().split_once(' ').unwrap().1.to_owned();
        for method in ["PUT", "PATCH", "TRACE", "PROPFIND", "FOREBAY", "delete", "post"] {
            let headers = [BEARER, ("x-http-method-override", endpoint.method), ("host", "localhost")];
            let answer = world.send(&format!("{method} {resource}"), &headers, b"").await;
            assert_refused(&format!("{method} {resource}"), &answer, &[405]);
            assert!(answer.header("allow").is_some(), "{answer:?}");
        }
    }
    // A way through this listener to elsewhere.
    let connect = "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = wire::send(world.address(), connect).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    world.assert_untouched().await;
}

/// What comes back of these bytes until the listener closes the connection.
async fn answers(world: &World, bytes: &str) -> String {
    bounded(async {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers).await;
        String::from_utf8(answers).unwrap()
    })
    .await
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_several_requests_needs_the_token_itself() {
    let world = World::with_token().await;
    let with = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let without = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let last = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let pause = "POST /api/v1/upstreams/fake.example/pause";
    let pipelined = [
        with("GET /api/v1/pins"),
        without("GET /api/v1/pins"),
        without(pause),
        with("GET /api/v1/pins"),
        without("GET /api/v1/config"),
        last("GET /healthz"),
    ];
    let got = answers(&world, &pipelined.concat()).await;
    assert_eq!(statuses(&got), ["200", "401", "401", "200", "401", "200"], "{got}");
    // A thousand of them are answered one after the other.
    let many = without("GET /api/v1/pins").repeat(999) + &last("GET /api/v1/pins");
    assert_eq!(statuses(&answers(&world, &many).await), vec!["401"; 1000]);
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_hidden_in_another() {
    let world = World::with_token().await;
    let hidden = "POST /api/v1/upstreams/fake.example/pause HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let token = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    for (what, bytes) in [
        (
            "two lengths",
            format!("GET /api/v1/pins HTTP/1.1\r\n{token}Content-Length: 0\r\nContent-Length: 90\r\n\r\n{hidden}"),
        ),
        ("a list of lengths", format!("GET /api/v1/pins HTTP/1.1\r\n{token}Content-Length: 0, 90\r\n\r\n{hidden}")),
        ("a length with a sign", format!("GET /api/v1/pins HTTP/1.1\r\n{token}Content-Length: +90\r\n\r\n{hidden}")),
        (
            "an unknown coding",
            format!("POST /api/v1/explain HTTP/1.1\r\n{token}Transfer-Encoding: x\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("a header without a name", format!("GET /api/v1/pins HTTP/1.1\r\n: x\r\n{token}\r\n{hidden}")),
        ("a space before the colon", format!("GET /api/v1/pins HTTP/1.1\r\nA : x\r\n{token}\r\n{hidden}")),
        ("a space in the target", format!("GET /api/v1/pins a HTTP/1.1\r\n{token}\r\n{hidden}")),
        ("a zero byte", format!("GET /api/v1/pins\0 HTTP/1.1\r\n{token}\r\n{hidden}")),
        ("another version", format!("GET /api/v1/pins HTTP/9.9\r\n{token}\r\n{hidden}")),
    ] {
        let got = answers(&world, &bytes).await;
        assert!(statuses(&got).iter().all(|status| matches!(*status, "400" | "401" | "415" | "505")), "{what}: {got}");
        assert!(!got.contains("paused"), "{what}: {got}");
    }
    // The body of a request is no request, whatever stands in it.
    let length = hidden.len();
    let body = format!(
        "POST /api/v1/explain HTTP/1.1\r\n{token}Connection: close\r\nContent-Length: {length}\r\n\r\n{hidden}"
    );
    assert_eq!(statuses(&answers(&world, &body).await), ["415"]);
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_a_request_becomes_a_header() {
    let world = World::with_token().await;
    for text in ["a%0d%0aX-Injected:%201", "a%0aX-Injected:%201", "%00", "%e2%80%a8x", "%1b[2J", "<script>", "\"'"] {
        for line in [
            format!("GET images/{text}"),
            format!("GET images?match={text}"),
            format!("GET images?{text}=1"),
            format!("GET export?name={text}"),
            format!("GET {text}"),
            format!("POST upstreams/{text}/test"),
            format!("POST import?as={text}"),
            format!("DELETE images?match={text}"),
        ] {
            let answer = world.send(&line, &[BEARER], b"").await;
            assert_refused(&line, &answer, &[400, 404]);
            let text = content(&answer);
            assert!(!text.chars().any(char::is_control), "{line}: {text:?}");
        }
    }
    let host = world.send("GET pins", &[("host", "evil.example/<script>")], b"").await;
    assert_refused("host", &host, &[400, 421]);
    world.assert_untouched().await;
}
