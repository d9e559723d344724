//! Bodies, queries and heads that are too long, too deep, or of another kind.

use super::{
    BEARER, World, assert_refused,
    endpoints::{ALL, Body, Endpoint},
};

const JSON: (&str, &str) = ("content-type", "application/json");

/// The endpoints that take a document, each with the longest that it takes, in bytes.
fn with_documents() -> impl Iterator<Item = (&'static Endpoint, usize)> {
    let most = |endpoint: &Endpoint| match endpoint.path {
        "warm" => 2 << 20,
        "export" => 512 << 10,
        _ => 64 << 10,
    };
    ALL.iter().filter(|endpoint| matches!(endpoint.body, Body::Json(_))).map(move |endpoint| (endpoint, most(endpoint)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_not_read() {
    let world = World::with_token().await;
    for (endpoint, most) in with_documents() {
        let line = endpoint.line();
        let answer = world.send(&line, &[BEARER, JSON], &vec![b' '; most + 1]).await;
        assert_refused(&line, &answer, &[413]);
        // One that says so is not begun.
        let answer = world.send(&line, &[BEARER, JSON, ("content-length", "1000000000000")], b"").await;
        assert_refused(&line, &answer, &[413]);
    }
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_another_form_is_refused() {
    let world = World::with_token().await;
    for (endpoint, _) in with_documents() {
        let line = endpoint.line();
        for body in [
            &b""[..],
            b"null",
            b"[]",
            b"7",
            b"\"*\"",
            b"{",
            b"{}{}",
            b"{\"x\":1}",
            b"{\"match\":{\"match\":\"*\"},\"image\":{},\"images\":{}}",
            b"{\"match\":\"a\",\"match\":\"*\",\"image\":\"a\",\"image\":\"b\",\"images\":[],\"images\":[\"a\"]}",
            b"{\"match\":\"\xff\",\"image\":\"\xff\",\"images\":[\"\xff\"]}",
            b"{\"match\":1e999,\"image\":-0,\"images\":1e999}",
            b"\xef\xbb\xbf{}",
            "[".repeat(60_000).as_bytes(),
            "{\"match\":".repeat(6_000).as_bytes(),
            format!("{{\"images\":{}", "[".repeat(60_000)).as_bytes(),
        ] {
            let answer = world.send(&line, &[BEARER, JSON], body).await;
            assert_refused(
                &format!("{line} {:?}", String::from_utf8_lossy(&body[..body.len().min(50)])),
                &answer,
                &[400],
            );
        }
        // What a form of a page can send.
        let Body::Json(good) = endpoint.body else { continue };
        for kind in [
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=a"),
            Some("text/plain; a=application/json"),
            None,
        ] {
            let headers: Vec<_> = [BEARER].into_iter().chain(kind.map(|kind| ("content-type", kind))).collect();
            assert_refused(&line, &world.send(&line, &headers, good.as_bytes()).await, &[415]);
        }
    }
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_a_short_list_of_known_parameters() {
    let world = World::with_token().await;
    for endpoint in ALL {
        let (method, rest) = endpoint.line().split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let path = rest.split('?').next().unwrap().to_owned();
        let (body, kind) = endpoint.body();
        let headers: Vec<_> = [BEARER].into_iter().chain(kind).collect();
        for query in ["x=1", "match=a&x=1", "=", "&&=&", "match%00=a", "Match=a", &"a=1&".repeat(2000)] {
            let line = format!("{method} {path}?{query}");
            assert_refused(&line, &world.send(&line, &headers, body).await, &[400]);
        }
        for parameter in ["match", "name", "id", "as", "image"] {
            let line = format!("{method} {path}?{parameter}={}", "a".repeat(9000));
            assert_refused(&line, &world.send(&line, &headers, body).await, &[400]);
        }
    }
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_bounded() {
    let world = World::with_token().await;
    let long = "x".repeat(200_000);
    let many: Vec<(String, &str)> = (0..500).map(|number| (format!("x-{number}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for (line, headers) in [
        (format!("GET pins?{long}"), &[][..]),
        ("GET pins".to_owned(), &[("x-long", &*long)]),
        ("GET pins".to_owned(), &many[..]),
    ] {
        let answer = world.send(&line, headers, b"").await;
        assert!(matches!(answer.status, 400 | 414 | 431), "{}: {}", &line[..8], answer.status);
    }
    world.assert_untouched().await;
}
