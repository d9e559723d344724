//! A name that only the DNS knows opens no listener on a loopback address.

use std::net::{SocketAddr, TcpListener};

use forebay::{
    app::{App, Inherited},
    config::{Config, Overrides},
};
use http::Version;

use super::Two;
use forebay_test_support::{
    fake_registry::FakeRegistry,
    mirror::Mirror,
    wire::{exchange, send},
};

#[tokio::test]
async fn a_name_that_is_not_its_own_opens_no_loopback_listener() {
    let two = Two::start().await;
    for (host, is_own) in [
        ("localhost", true),
        ("LOCALHOST.:5000", true),
        ("a.localhost", true),
        ("127.0.0.1:1", true),
        ("[::1]", true),
        ("team.lan", true),
        ("TEAM.lan.:1", true),
        ("mirror.lan:5000", true),
        ("evil.example", false),
        ("evil.example:5003", false),
        ("hub.example", false),
        ("localhost.evil.example", false),
    ] {
        for target in ["/v2/", "/v2/a/b/manifests/1", "/v2/_catalog?ns=team", "/", "/metrics", "/v2/A/b/manifests/1"] {
            for method in ["GET", "HEAD", "POST"] {
                let line = format!("{method} {target}");
                let answer = exchange(two.mirror.address(), &line, &[("host", host)]).await;
                assert_eq!(answer.status != 421, is_own, "{line} {host}");
                if !is_own && method != "HEAD" {
                    assert_eq!(answer.error_code(), "UNSUPPORTED");
                    assert!(answer.text().contains("server.allowed_hosts"), "{}", answer.text());
                    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
                }
            }
        }
        assert_eq!(two.seen().is_empty(), !is_own, "{host}");
        two.forget();
    }
}

#[tokio::test]
async fn the_host_that_counts_is_the_one_that_is_judged() {
    let two = Two::start().await;
    for (request, status) in [
        ("GET http://evil.example/v2/ HTTP/1.1\r\nHost: localhost\r\n", 421),
        ("GET http://localhost/v2/ HTTP/1.1\r\nHost: evil.example\r\n", 200),
        ("GET http://evil.example/v2/ HTTP/1.0\r\n", 421),
        ("GET /v2/ HTTP/1.0\r\nHost: evil.example\r\n", 421),
        // No browser sends it.
        ("GET /v2/ HTTP/1.0\r\n", 200),
    ] {
        let answer = send(two.mirror.address(), &format!("{request}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{request}");
    }
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
    let names = ["evil.example", "a.localhost", "mirror.lan"];
    let client = names.iter().fold(client, |client, name| client.resolve(name, two.mirror.address()));
    let client = client.build().unwrap();
    for (name, status) in names.into_iter().zip([421, 200, 200]) {
        let url = format!("http://{name}:{}/v2/", two.mirror.address().port());
        let answer = client.get(url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (status, Version::HTTP_2), "{name}");
    }
}

#[tokio::test]
async fn a_reload_changes_which_names_are_answered_to() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let status = async |address: SocketAddr, target: &str, host: &str| {
        exchange(address, &format!("GET {target}"), &[("host", host)]).await
    };
    for is_allowed in [true, false] {
        let mut config = mirror.config().clone();
        let names = if is_allowed { vec!["Proxy.lan:443".parse().unwrap()] } else { Vec::new() };
        config.server.allowed_hosts.clone_from(&names);
        config.admin.allowed_hosts = names;
        config.upstreams[0].hosts = if is_allowed { vec!["reg.lan".parse().unwrap()] } else { Vec::new() };
        mirror.app().reload(config).unwrap();
        for host in ["proxy.lan", "PROXY.lan:80", "reg.lan"] {
            let admin = status(mirror.app().admin_addr(), "/metrics", host).await;
            let registry = status(mirror.address(), "/v2/", host).await;
            assert_eq!((admin.status, registry.status), if is_allowed { (200, 200) } else { (421, 421) }, "{host}");
            assert!(is_allowed || admin.text().contains("admin.allowed_hosts"), "{}", admin.text());
        }
    }
}

#[tokio::test]
async fn the_admin_listener_is_as_closed_on_a_loopback_address() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for path in ["/metrics", "/healthz", "/readyz", "/"] {
        for (host, is_own) in
            [("localhost:5001", true), ("127.0.0.1", true), ("prometheus.localhost", true), ("mirror.lan", false)]
        {
            let answer = exchange(mirror.app().admin_addr(), &format!("GET {path}"), &[("host", host)]).await;
            assert_eq!(answer.status != 421, is_own, "{path} {host}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
}

/// The address that a connection comes to says nothing: what the listener is bound to does.
#[tokio::test]
async fn other_listeners_answer_to_any_name() {
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let any = [(); 2].map(|()| TcpListener::bind("0.0.0.0:0").unwrap());
    let ports = [0, 1].map(|index: usize| any[index].local_addr().unwrap().port());
    let overrides = Overrides {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        admin: Some("127.0.0.1:0".parse().unwrap()),
        cache_dir: Some(directory.path().join("cache")),
        max_size: None,
    };
    let text = format!("[[upstream]]\nname = \"a.example\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    let mut config = Config::parse(&text, &directory.path().join("forebay.toml"), overrides).unwrap();
    config.cache.min_free = 0;
    config.state_directory = Some(directory.path().join("state"));
    config.admin.socket = Some(directory.path().join("control.sock"));
    let [first, second] = any;
    let app = App::start(config, Inherited { registry: vec![first], admin: Some(second) }).await.unwrap();
    for (port, paths) in ports.into_iter().zip([&["/v2/"][..], &["/metrics", "/healthz", "/readyz"]]) {
        for path in paths {
            let address = ([127, 0, 0, 1], port).into();
            let answer = exchange(address, &format!("GET {path}"), &[("host", "forebay.monitoring.svc")]).await;
            assert_eq!(answer.status, 200, "{path}");
        }
    }
    app.drain().await;
}
