//! The page of the registry's port, and the snippets as plain text.

use std::{fs, time::Duration};

use forebay::{config::Config, transport::TlsConfig, upstream::Access};
use http::Method;

use forebay_test_support::{
    fake_registry::FakeRegistry,
    mirror::{Answer, Mirror},
    test_ca::TestCa,
    until::until,
    users::{basic, configuration, with_users},
    wire::{exchange, send},
};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const GUIDES: [&str; 5] = ["/setup/docker", "/setup/containerd", "/setup/k3s", "/setup/podman", "/setup/buildkit"];
const ASSETS: [&str; 3] = ["/page/style.css", "/page/live.js", "/page/script.js"];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Docker Hub and two more, all of them this registry.
async fn mirror(registry: &FakeRegistry) -> Mirror {
    let url = registry.url();
    let upstream = |name: &str, more: &str| format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{url}\"]\n{more}");
    let hub = upstream("docker.io", "default = true\naliases = [\"index.docker.io\"]\n");
    let team = upstream("team.lan", "access = \"client\"\n");
    Mirror::parse(&[hub, upstream("quay.io", ""), team].concat()).start().await
}

/// The content of the file in the page, as a browser shows it.
fn file(page: &str, path: &str) -> String {
    let (_, rest) = page.split_once(&format!("<figcaption>{path}</figcaption>")).expect(path);
    let (_, rest) = rest.split_once("<code>").unwrap();
    let (content, _) = rest.split_once("</code>").unwrap();
    content
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

/// The file in a guide for Docker.
fn json(guide: &str) -> serde_json::Value {
    let lines: Vec<_> = guide.lines().filter(|line| !line.starts_with('#')).collect();
    serde_json::from_str(&lines.join("\n")).unwrap()
}

fn is_of_page(answer: &Answer) {
    assert_eq!(answer.header("content-security-policy"), Some(POLICY));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
}

#[tokio::test]
async fn a_browser_gets_a_page_and_a_program_does_not() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror(&registry).await;
    let page = mirror.get_with("/", &[BROWSER]).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    is_of_page(&page);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let text = page.text();
    for expected in ["docker.io", "index.docker.io", "quay.io", "team.lan", "an account of the registry"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(text.matches("<script").count(), 2, "no script of its own");
    assert!(!text.contains("style=") && !text.contains("<style") && !text.contains(" onclick"));
    assert!(!text.contains("/setup/ca.crt"), "there is no TLS");
    for accept in [None, Some(("accept", "*/*")), Some(("accept", "application/json"))] {
        let answer = mirror.get_with("/", accept.as_slice()).await;
        assert_eq!((answer.status, &*answer.error_code()), (404, "NAME_UNKNOWN"), "{accept:?}");
        assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    }
    assert_eq!(mirror.request(Method::POST, "/", &[BROWSER]).await.status, 404);
    assert!(registry.requests().is_empty());
    mirror.until_metric("forebay_requests_total", &[("operation", "page"), ("status", "200")], 1.0).await;
}

#[tokio::test]
async fn a_head_has_the_headers_of_the_page() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror(&registry).await;
    for path in ["/", GUIDES[0], ASSETS[0]] {
        let get = mirror.get_with(path, &[BROWSER]).await;
        let head = mirror.request(Method::HEAD, path, &[BROWSER]).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        is_of_page(&head);
        for name in ["content-length", "content-type", "cache-control", "etag"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
        assert_eq!(get.header("content-length"), Some(&*get.body.len().to_string()));
    }
}

#[tokio::test]
async fn the_snippets_have_the_host_of_the_request() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror(&registry).await;
    let address = mirror.address();
    for (host, expected, insecure) in [
        ("mirror.lan:5000", "mirror.lan:5000", true),
        ("MIRROR.lan.:5000", "mirror.lan:5000", true),
        ("x", "x:80", true),
        ("localhost:5000", "localhost:5000", false),
        ("127.0.0.1:5000", "127.0.0.1:5000", false),
        ("[::1]:5000", "[::1]:5000", false),
        ("10.0.4.17:5000", "10.0.4.17:5000", true),
    ] {
        let get = async |path: &str| exchange(address, &format!("GET {path}"), &[("host", host), BROWSER]).await;
        let docker = json(get("/setup/docker").await.text());
        assert_eq!(docker["registry-mirrors"][0], format!("http://{expected}"));
        let told = docker.get("insecure-registries").map(|hosts| hosts[0].as_str().unwrap());
        assert_eq!(told, insecure.then_some(expected), "{host}");
        let page = get("/").await;
        let shown: serde_json::Value = serde_json::from_str(&file(page.text(), "/etc/docker/daemon.json")).unwrap();
        assert_eq!(shown, docker);
        let toml = async |path: &str| get(path).await.text().parse::<toml::Table>().unwrap();
        let hosts = toml("/setup/containerd").await;
        assert_eq!(hosts["host"].as_table().unwrap().keys().collect::<Vec<_>>(), [&format!("http://{expected}")]);
        let podman = toml("/setup/podman").await;
        let location = podman["registry"][1]["mirror"][0]["location"].as_str();
        assert_eq!(location, Some(&*format!("{expected}/quay.io")));
        let buildkit = toml("/setup/buildkit").await;
        assert_eq!(buildkit["registry"]["quay.io"]["mirrors"][0].as_str(), Some(expected));
        assert!(get("/setup/k3s").await.text().contains(&format!("      - \"http://{expected}\"\n")));
    }
    // HTTP/1.0 names no host.
    let old = send(address, "GET /setup/docker HTTP/1.0\r\n\r\n").await;
    assert_eq!(json(old.text())["registry-mirrors"][0], format!("http://{address}"));
}

#[tokio::test]
async fn a_hostile_host_is_in_no_page() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror(&registry).await;
    for host in [
        "\"><script>alert(1)</script>",
        "a\", \"insecure-registries\": [\"b",
        "a\"]#",
        "a'b",
        "a b",
        "a/b",
        "user@a",
        "a:5000:6",
        "a\\u0022",
        "&lt;",
        "evil.example",
    ] {
        for path in ["/", "/setup/docker", "/setup/k3s", "/page/style.css"] {
            let answer = exchange(mirror.address(), &format!("GET {path}"), &[("host", host), BROWSER]).await;
            let expected = if host == "evil.example" { 421 } else { 400 };
            assert_eq!(answer.status, expected, "{host} {path}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(!answer.text().contains("<script"), "{}", answer.text());
        }
    }
    let forwarded = [("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example"), BROWSER];
    let page = mirror.get_with("/?a=<script>evil.example", &forwarded).await;
    assert!(page.status == 200 && !page.text().contains("evil.example"));
}

#[tokio::test]
async fn the_files_of_the_page_are_small_and_are_kept_by_browsers() {
    let registry = FakeRegistry::start().await;
    // The built-in registries.
    let mirror = Mirror::parse("").start().await;
    drop(registry);
    let mut size = mirror.get_with("/", &[BROWSER]).await.body.len();
    for (path, kind) in ASSETS.into_iter().zip(["text/css; charset=utf-8", SCRIPT, SCRIPT]) {
        let asset = mirror.get(path).await;
        assert_eq!((asset.status, asset.header("content-type")), (200, Some(kind)));
        is_of_page(&asset);
        let etag = asset.header("etag").unwrap();
        let again = mirror.get_with(path, &[("if-none-match", etag)]).await;
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag)));
        is_of_page(&again);
        assert_eq!(mirror.get_with(path, &[("if-none-match", "\"other\"")]).await.status, 200);
        size += asset.body.len();
    }
    assert!(size < 60_000, "{size} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_can_be_switched_off_and_on() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror(&registry).await;
    let status = async |path: &str| mirror.get_with(path, &[BROWSER]).await.status;
    let paths = [&["/", "/setup/ca.crt"][..], &GUIDES, &ASSETS].concat();
    for page in [true, false, true] {
        let config = mirror.config().clone();
        let server = forebay::transport::Config { page, ..config.server };
        mirror.app().reload(Config { server, ..config }).unwrap();
        for path in &paths {
            let expected = if page && *path != "/setup/ca.crt" { 200 } else { 404 };
            assert_eq!(status(path).await, expected, "{path} {page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_learns_of_no_registry() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let mirror = Mirror::parse(&configuration(&registry, &users, "none")).start().await;
    for path in [&["/"][..], &GUIDES].concat() {
        let stranger = mirror.get_with(path, &[BROWSER]).await;
        assert_eq!(stranger.status, 200, "{path}");
        assert!(!stranger.text().contains("fake.example"), "{path}: {}", stranger.text());
        assert!(stranger.text().contains(&mirror.address().to_string()), "{path}: {}", stranger.text());
        let wrong = mirror.get_with(path, &[BROWSER, ("authorization", &basic("ann", "wrong"))]).await;
        assert_eq!(wrong.status, 401, "{path}");
    }
    let user = mirror.get_with("/", &[BROWSER, ("authorization", &basic("ann", "secret"))]).await;
    assert!(user.text().contains("fake.example") && user.text().contains("docker login "), "{}", user.text());
}

#[tokio::test]
async fn a_host_of_one_registry_gets_its_snippets() {
    let registry = FakeRegistry::start().await;
    let url = registry.url();
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"docker.io\"\nurls = [\"{url}\"]\n\
         [[upstream]]\nname = \"quay.io\"\nurls = [\"{url}\"]\nhosts = [\"quay.lan\"]\n"
    ));
    let mirror = mirror.start().await;
    let host = ("host", "quay.lan:5000");
    let docker = exchange(mirror.address(), "GET /setup/docker", &[host]).await;
    assert!(docker.text().contains("# $ docker pull quay.lan:5000/REPOSITORY:TAG\n"), "{}", docker.text());
    assert_eq!(json(docker.text()), serde_json::json!({ "insecure-registries": ["quay.lan:5000"] }));
    let podman = exchange(mirror.address(), "GET /setup/podman", &[host]).await.text().to_owned();
    assert!(podman.contains("location = \"quay.lan:5000\"\n") && !podman.contains("docker.io"), "{podman}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ca_of_the_chain_is_handed_out() {
    let (registry, ca, directory) = (FakeRegistry::start().await, TestCa::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = ca.issue(&["127.0.0.1"]);
    let authority = fs::read_to_string(ca.path()).unwrap();
    let tls = TlsConfig {
        certificate: directory.path().join("tls.crt"),
        key: directory.path().join("tls.key"),
        client_ca: None,
    };
    fs::write(&tls.key, key.serialize_pem()).unwrap();
    let root = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    for (chain, has_ca) in [(certificate.pem() + &authority, true), (certificate.pem(), false)] {
        fs::write(&tls.certificate, chain).unwrap();
        let mirror = Mirror::build(&registry).config(|config| config.server.tls = Some(tls.clone())).start().await;
        let get = async |path: &str| {
            let url = format!("https://{}{path}", mirror.address());
            client.get(url).header(BROWSER.0, BROWSER.1).send().await.unwrap()
        };
        let page = get("/").await.text().await.unwrap();
        assert!(page.contains(&format!("https://{}", mirror.address())), "{page}");
        assert!(!page.contains("insecure") && !page.contains("http = true"), "{page}");
        assert_eq!(page.contains("/setup/ca.crt"), has_ca);
        assert_eq!(page.contains("/etc/docker/certs.d/"), has_ca);
        let handed_out = get("/setup/ca.crt").await;
        assert_eq!(handed_out.status() == 200, has_ca);
        if has_ca {
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(lines(&handed_out.text().await.unwrap()), lines(&authority));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_sees_its_own_pulls_as_they_come() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = mirror(&registry).await;
    let pulls = async |headers: &[(&str, &str)]| mirror.get_with("/page/pulls", headers).await;
    let none = pulls(&[]).await;
    assert_eq!((none.status, none.header("content-type")), (200, Some("text/html; charset=utf-8")));
    is_of_page(&none);
    assert!(none.text().contains("There are none yet."), "{}", none.text());
    let page = mirror.get_with("/", &[BROWSER]).await;
    assert!(page.text().contains("from your address, 127.0.0.1.") && page.text().contains("data-live=\"/page/pulls\""));

    assert_eq!(mirror.get("/v2/quay.io/team/app/manifests/1").await.status, 200);
    let row = |result: &str| format!("<th scope=\"row\">quay.io/team/app:1</th><td>{result}</td>");
    until("the pull is told", async || pulls(&[]).await.text().contains(&row("from the registry"))).await;
    // The page itself is no request that operators look for.
    let requests = format!("http://{}/api/v1/requests", mirror.app().admin_addr());
    let requests = reqwest::Client::builder().no_proxy().build().unwrap().get(requests).send().await.unwrap();
    assert!(!requests.text().await.unwrap().contains("/page/pulls"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_with_one_address_do_not_see_each_others_pulls() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let mirror = mirror(&registry).await;
    let pulls = async |headers: &[(&str, &str)]| mirror.get_with("/page/pulls", headers).await.text().to_owned();
    assert_eq!(mirror.get("/v2/quay.io/team/app/manifests/1").await.status, 200);
    until("the pull is told", async || pulls(&[]).await.contains("quay.io/team/app:1")).await;
    let is_hidden = |text: &str| !text.contains("team/app") && text.contains("cannot tell your pulls from theirs");
    // Whatever address a proxy or a visitor names: the connection is a proxy's.
    for header in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-for", "10.9.9.9"),
        ("forwarded", "for=10.9.9.9"),
        ("via", "1.1 squid"),
        ("x-forwarded-proto", "https"),
    ] {
        let told = pulls(&[header]).await;
        assert!(is_hidden(&told) && !told.contains("10.9.9.9"), "{header:?}: {told}");
        let page = mirror.get_with("/", &[BROWSER, header]).await;
        assert!(is_hidden(page.text()) && !page.text().contains("data-live"), "{header:?}");
    }
    // A network with many clients behind one address.
    let mut config = mirror.config().clone();
    config.server.trusted_networks = vec!["127.0.0.0/8".parse().unwrap()];
    mirror.app().reload(config).unwrap();
    assert!(is_hidden(&pulls(&[]).await));
    mirror.app().reload(mirror.config().clone()).unwrap();
    assert!(pulls(&[]).await.contains("quay.io/team/app:1"));
    // The upstream authorizes each client from now on.
    let mut config = mirror.config().clone();
    config.upstreams[1].access = Access::Client { ttl: Duration::from_secs(60), grace: Duration::ZERO };
    mirror.app().reload(config).unwrap();
    assert!(pulls(&[]).await.contains("There are none yet."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_need_credentials_are_on_no_page() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let of_client = mirror(&registry).await;
    assert_eq!(of_client.get("/v2/quay.io/team/app/manifests/1").await.status, 200);
    of_client.get("/v2/team.lan/team/app/manifests/1").await;
    let told = until("the pull is told", async || {
        let pulls = of_client.get("/page/pulls").await.text().to_owned();
        pulls.contains("quay.io/team/app:1").then_some(pulls)
    });
    assert!(!told.await.contains("team.lan"));

    let users = with_users();
    let closed = Mirror::parse(&configuration(&registry, &users, "none")).start().await;
    let ann = [BROWSER, ("authorization", &*basic("ann", "secret"))];
    assert_eq!(closed.get_with("/v2/team/app/manifests/1", &ann).await.status, 200);
    assert_eq!(closed.get_with("/page/pulls", &ann).await.status, 404);
    assert!(!closed.get_with("/", &ann).await.text().contains("id=\"pulls\""));
}
