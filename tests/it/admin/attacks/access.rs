//! Requests of those who may not: pages of other sites, names that lead here, and clients without the token.

use super::{
    BEARER, World, assert_refused,
    endpoints::{ALL, Endpoint, Need},
};
use forebay_test_support::wire;

async fn refused(world: &World, endpoint: &Endpoint, headers: &[(&str, &str)], statuses: &[u16]) {
    let (body, kind) = endpoint.body();
    let all: Vec<_> = headers.iter().copied().chain(kind).collect();
    let answer = world.send(&endpoint.line(), &all, body).await;
    assert_refused(&format!("{} {headers:?}", endpoint.line()), &answer, statuses);
    assert_eq!(answer.header("www-authenticate").is_some(), answer.status == 401);
}

/// What a browser sends for a page of another site.
const OF_OTHER_SITES: &[&[(&str, &str)]] = &[
    &[("host", "localhost"), ("origin", "http://evil.example")],
    &[("host", "localhost"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
    &[("host", "localhost"), ("origin", "null")],
    &[("host", "localhost"), ("origin", "http://localhost.evil.example")],
    &[("host", "localhost:5001"), ("origin", "http://localhost:5000")],
    &[("host", "localhost"), ("origin", "http://localhost@evil.example")],
    &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
    &[("host", "localhost"), ("sec-fetch-site", "same-site")],
    // A link, and an image of a page: no document of this API is for either.
    &[("host", "localhost"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
    &[
        ("host", "localhost"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-dest", "image"),
        ("sec-fetch-mode", "no-cors"),
    ],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_gets_nothing_also_with_the_token() {
    for (world, token) in [(World::open().await, None), (World::with_token().await, Some(BEARER))] {
        for endpoint in ALL {
            for headers in OF_OTHER_SITES {
                let headers: Vec<_> = headers.iter().copied().chain(token).collect();
                refused(&world, endpoint, &headers, &[403]).await;
            }
        }
        world.assert_untouched().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_allows_nothing() {
    let world = World::with_token().await;
    for endpoint in ALL {
        for (host, origin, statuses) in
            [("localhost", "http://evil.example", [403]), ("localhost", "http://localhost", [405])]
        {
            let resource = endpoint.line().split_once(' ').unwrap().1.to_owned();
            let headers = [
                ("host", host),
                ("origin", origin),
                ("access-control-request-method", endpoint.method),
                ("access-control-request-headers", "authorization"),
            ];
            let answer = world.send(&format!("OPTIONS {resource}"), &headers, b"").await;
            assert_refused(&resource, &answer, &statuses);
        }
    }
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_here_is_no_name_of_this_listener() {
    for world in [World::open().await, World::with_token().await] {
        for endpoint in ALL {
            for host in
                ["evil.example", "evil.example:5001", "localhost.evil.example", "127.0.0.1.evil.example", "evil"]
            {
                refused(&world, endpoint, &[("host", host)], &[421]).await;
                let origin = format!("http://{host}");
                refused(&world, endpoint, &[("host", host), ("origin", &origin)], &[421]).await;
            }
            refused(&world, endpoint, &[("host", "localhost"), ("host", "evil.example")], &[400]).await;
        }
        // The host of a whole URI counts more than the header.
        let absolute = "GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_refused("absolute", &wire::send(world.address(), absolute).await, &[421]);
        let none = "GET /api/v1/status HTTP/1.1\r\nConnection: close\r\n\r\n";
        assert_refused("no host", &wire::send(world.address(), none).await, &[400]);
        world.assert_untouched().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_no_endpoint_answers() {
    let world = World::with_token().await;
    for endpoint in ALL {
        for shown in [
            &[][..],
            &[("authorization", "Bearer 0123456789abcdef0123456789abcdeg")],
            &[("authorization", "Bearer 0123456789ABCDEF0123456789ABCDEF")],
            &[("authorization", "Bearer 0123456789abcdef0123456789abcdef0")],
            &[("authorization", "Bearer 0123456789abcdef0123456789abcdef, Bearer x")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY6")],
            &[("authorization", "0123456789abcdef0123456789abcdef")],
            &[("proxy-authorization", BEARER.1)],
            &[("cookie", "token=0123456789abcdef0123456789abcdef")],
            &[("x-forwarded-for", "127.0.0.1")],
            &[("x-forwarded-user", "admin")],
            // The first one counts.
            &[("authorization", "Bearer wrong"), BEARER],
        ] {
            refused(&world, endpoint, shown, &[401]).await;
        }
        let mark = if endpoint.query.is_empty() { '?' } else { '&' };
        let (body, kind) = endpoint.body();
        let headers: Vec<_> = kind.into_iter().collect();
        for parameter in ["token", "access_token"] {
            let line = format!("{}{mark}{parameter}={}", endpoint.line(), super::TOKEN);
            assert_refused(&line, &world.send(&line, &headers, body).await, &[401]);
        }
    }
    world.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_file_this_machine_changes_nothing() {
    let world = World::open().await;
    for endpoint in ALL {
        // A proxy of this machine has clients elsewhere.
        for (name, value) in
            [("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1"), ("via", "1.1 a"), ("x-real-ip", "::1")]
        {
            refused(&world, endpoint, &[(name, value)], &[403]).await;
        }
        if endpoint.need == Need::Change {
            for headers in [&[][..], &[BEARER], &[("origin", "http://localhost"), ("host", "localhost")]] {
                refused(&world, endpoint, headers, &[403]).await;
            }
        }
    }
    world.assert_untouched().await;
}
