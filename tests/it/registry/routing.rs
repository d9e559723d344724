//! Which upstream serves a request, for each way to name one; an invalid request reaches none.

pub mod loops;
pub mod rebinding;
pub mod refused;
pub mod rings;

use std::time::Duration;

use http::Method;

use forebay_test_support::{
    fake_registry::{FakeRegistry, Record},
    mirror::{Answer, Mirror},
    wire::exchange,
};

/// A mirror of two registries: one like Docker Hub, the default, and one that is not.
pub struct Two {
    pub hub: FakeRegistry,
    pub team: FakeRegistry,
    pub mirror: Mirror,
}

impl Two {
    pub async fn start() -> Self {
        let (hub, team) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let text = format!(
            r#"
            [[upstream]]
            name = "hub.example"
            urls = ["{}"]
            aliases = ["index.hub.example"]
            default = true
            library = true
            [[upstream]]
            name = "team.example:5443"
            aliases = ["team"]
            urls = ["{}"]
            hosts = ["team.lan", "both.lan:5002", "*:5003"]
            "#,
            hub.url(),
            team.url()
        );
        // A tag is asked about each time, so that it shows who is asked.
        let mirror = Mirror::parse(&text).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
        Self { hub, team, mirror }
    }

    /// Asks for `target` exactly as it is written.
    pub async fn ask(&self, target: &str, host: &str) -> Answer {
        exchange(self.mirror.address(), &format!("GET {target}"), &[("host", host)]).await
    }

    /// What either registry was asked, as `hub` or `team` and the path.
    pub fn seen(&self) -> Vec<String> {
        let named = |name: &'static str, records: Vec<Record>| {
            records.into_iter().map(move |record| format!("{name} {}", record.path))
        };
        named("hub", self.hub.requests()).chain(named("team", self.team.requests())).collect()
    }

    pub fn forget(&self) {
        self.hub.forget_requests();
        self.team.forget_requests();
    }
}

#[tokio::test]
async fn four_ways_to_name_an_upstream_on_one_port() {
    let two = Two::start().await;
    for (target, host, seen) in [
        // What the request says of itself.
        ("/v2/a/b/manifests/1?ns=team.example:5443", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1?ns=Team.Example%3A5443", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1?ns=team", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1?ns=index.hub.example", "team.lan", "hub /v2/a/b/manifests/1"),
        // The host that was asked: by name, by name and port, by port alone.
        ("/v2/a/b/manifests/1", "team.lan", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1", "TEAM.lan:8080", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1", "both.lan:5002", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1", "both.lan:5001", "hub /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1", "whatever.lan:5003", "team /v2/a/b/manifests/1"),
        ("/v2/a/b/manifests/1", "10.1.2.3:5003", "team /v2/a/b/manifests/1"),
        // The path.
        ("/v2/team.example:5443/a/b/manifests/1", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/v2/team/a/b/manifests/1", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/v2/hub.example/a/b/manifests/1", "mirror.lan", "hub /v2/a/b/manifests/1"),
        ("/team.example:5443/v2/a/b/manifests/1", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/prefix/v2/a/b/manifests/1", "mirror.lan", "hub /v2/a/b/manifests/1"),
        ("/a/longer/prefix/v2/team/a/b/manifests/1", "mirror.lan", "team /v2/a/b/manifests/1"),
        ("/v2/a%2Fb/manifests/1", "mirror.lan", "hub /v2/a/b/manifests/1"),
        // None of them.
        ("/v2/a/b/manifests/1", "mirror.lan", "hub /v2/a/b/manifests/1"),
        ("/v2/a/b/c/d/e/f/manifests/1", "mirror.lan", "hub /v2/a/b/c/d/e/f/manifests/1"),
        // One component: a library only where there is one.
        ("/v2/alpine/manifests/1", "mirror.lan", "hub /v2/library/alpine/manifests/1"),
        ("/v2/hub.example/alpine/manifests/1", "mirror.lan", "hub /v2/library/alpine/manifests/1"),
        ("/v2/alpine/manifests/1?ns=hub.example", "mirror.lan", "hub /v2/library/alpine/manifests/1"),
        ("/v2/alpine/manifests/1?ns=team", "mirror.lan", "team /v2/alpine/manifests/1"),
        ("/v2/team/alpine/manifests/1", "mirror.lan", "team /v2/alpine/manifests/1"),
    ] {
        let repository = seen.split("/v2/").nth(1).unwrap().split("/manifests/").next().unwrap();
        two.hub.add_image(repository, "1", &[b"of the hub"]);
        two.team.add_image(repository, "1", &[b"of the team"]);
        two.forget();
        let answer = two.ask(target, host).await;
        assert_eq!(answer.status, 200, "{target} of {host}: {}", answer.text());
        assert_eq!(two.seen(), [seen], "{target} of {host}");
    }
}

#[tokio::test]
async fn the_same_name_at_two_registries_is_two_things() {
    let two = Two::start().await;
    let hub = two.hub.add_image("a/b", "1", &[b"of the hub"]);
    let team = two.team.add_image("a/b", "1", &[b"of the team"]);
    assert_ne!(hub.manifest, team.manifest);
    for _ in 0..2 {
        assert_eq!(two.mirror.get("/v2/a/b/manifests/1").await.body, hub.manifest_bytes);
        assert_eq!(two.mirror.get("/v2/a/b/manifests/1?ns=team").await.body, team.manifest_bytes);
    }
    for (upstream, count) in [("hub.example", 2.0), ("team.example:5443", 2.0)] {
        two.mirror.until_metric("forebay_requests_total", &[("upstream", upstream)], count).await;
    }
}

#[tokio::test]
async fn every_port_may_belong_to_an_upstream() {
    let team = FakeRegistry::start().await;
    let hub = FakeRegistry::start().await;
    let image = team.add_image("a/b", "1", &[b"layer"]);
    // The port is known once it is taken; the mirror gets it as from a service manager.
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap().port());
    let text = format!(
        "[[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\ndefault = true\n\
         [[upstream]]\nname = \"team.example\"\nurls = [\"{}\"]\nhosts = [\"*:{}\"]\n",
        hub.url(),
        team.url(),
        ports[1]
    );
    let app = loops::App::start(&text, listeners.into()).await;
    for host in ["mirror.lan", &format!("mirror.lan:{}", ports[1])] {
        let address = ([127, 0, 0, 1], ports[1]).into();
        let answer = exchange(address, "GET /v2/a/b/manifests/1", &[("host", host)]).await;
        assert_eq!((answer.status, answer.body), (200, image.manifest_bytes.clone()), "{host}");
    }
    let address = ([127, 0, 0, 1], ports[0]).into();
    assert_eq!(exchange(address, "GET /v2/a/b/manifests/1", &[("host", "mirror.lan")]).await.status, 404);
    assert_eq!((hub.requests().is_empty(), team.requests().len()), (false, 1));
    app.drain().await;
}

#[tokio::test]
async fn the_host_of_http2_counts_as_well() {
    let two = Two::start().await;
    let image = two.team.add_image("a/b", "1", &[b"layer"]);
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
    let client = client.resolve("team.lan", two.mirror.address()).build().unwrap();
    let url = format!("http://team.lan:{}/v2/a/b/manifests/1", two.mirror.address().port());
    let answer = client.request(Method::GET, url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    assert_eq!(answer.bytes().await.unwrap(), image.manifest_bytes);
    assert!(two.hub.requests().is_empty());
}

#[tokio::test]
async fn mirrors_and_upstreams_may_have_ipv6_addresses() {
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        // A machine without IPv6.
        return;
    };
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("a/b", "1", &[b"layer"]);
    let other = FakeRegistry::start().await;
    let near = listener.local_addr().unwrap();
    let near_registry = loops::App::start(&mirror_of(&[(registry.url().as_ref(), "", true)]), vec![listener]).await;
    // Another one asks it, by its address and port, and belongs to it by its own.
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hosts = format!("hosts = [\"[0:0::1]:{}\"]", address.port());
    let text = mirror_of(&[(&format!("http://{near}"), &hosts, false), (other.url().as_ref(), "", true)]);
    let app = loops::App::start(&text, vec![listener]).await;
    for host in [address.to_string(), format!("[0:0:0:0:0:0:0:1]:{}", address.port())] {
        for path in ["manifests/1".to_owned(), format!("blobs/{}", image.layers[0])] {
            let answer = exchange(address, &format!("GET /v2/a/b/{path}"), &[("host", &host)]).await;
            let content = if path == "manifests/1" { &image.manifest_bytes[..] } else { b"layer" };
            assert_eq!((answer.status, &answer.body[..]), (200, content), "{host} {path}");
        }
    }
    // By another port it is the other one's.
    let answer = exchange(address, "GET /v2/a/b/manifests/1", &[("host", "[::1]:1")]).await;
    assert_eq!((answer.status, other.requests().is_empty()), (404, false));
    app.drain().await;
    near_registry.drain().await;
}

/// A configuration of these upstreams: URL, further keys, and whether it is the default.
fn mirror_of(upstreams: &[(&str, &str, bool)]) -> String {
    let write = |(number, (url, keys, default)): (usize, &(&str, &str, bool))| {
        format!("[[upstream]]\nname = \"u{number}.example\"\nurls = [{url:?}]\ndefault = {default}\n{keys}\n")
    };
    upstreams.iter().enumerate().map(write).collect()
}
