//! Tables for every way to name an upstream, and for everything that names none.

mod operations;

use proptest::prelude::*;

use super::*;
use crate::{
    cache::List,
    oci::{self, Digest, Reference},
    upstream::Config,
};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn upstream(name: &str, url: &str, aliases: &[&str], hosts: &[&str]) -> Config {
    Config {
        aliases: aliases.iter().map(|&alias| alias.into()).collect(),
        hosts: hosts.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        default: name == "docker.io",
        library: name == "docker.io",
        ..Config::at(name, &[url])
    }
}

fn upstreams() -> Vec<Config> {
    vec![
        upstream(
            "docker.io",
            "https://registry-1.docker.io",
            &["index.docker.io", "registry-1.docker.io"],
            &["hub.mirror.lan", "[::1]:5002"],
        ),
        upstream("ghcr.io", "https://ghcr.io", &["gh"], &["mirror.lan:5001", "*:5001", "sni.lan"]),
        upstream("Quay.io", "https://quay.io", &[], &["mirror.lan", "port.lan:443", "clear.lan:80"]),
        upstream("harbor.lan:8443", "https://harbor.lan:8443", &["team"], &["*:5003"]),
        upstream("tls.lan:443", "https://tls.lan", &[], &[]),
        upstream("plain.lan:5000", "http://plain.lan:5000", &["plain.lan"], &[]),
    ]
}

type Name = std::sync::Arc<str>;

fn routes_of(upstreams: &[Config]) -> Routes<Name> {
    Routes::new(upstreams.iter().map(|upstream| (upstream, upstream.name.clone())))
}

fn routes() -> Routes<Name> {
    routes_of(&upstreams())
}

/// A request to a listener on port 5000 that no upstream lists.
fn request<'a>(method: &'a Method, uri: &'a Uri) -> Target<'a> {
    Target { method, uri, host: Some("127.0.0.1:5000"), sni: None, tls: false, local_port: 5000 }
}

fn get_from(routes: &Routes<Name>, uri: &str) -> Result<Route<Name>, RouteError> {
    routes.resolve(request(&Method::GET, &uri.parse().unwrap())).map(|route| route.map(Clone::clone))
}

fn resolve(target: Target<'_>) -> Result<Route<Name>, RouteError> {
    routes().resolve(target).map(|route| route.map(Clone::clone))
}

fn get(uri: &str) -> Result<Route<Name>, RouteError> {
    get_from(&routes(), uri)
}

/// The upstream and the repository of a request.
fn place(route: &Route<Name>) -> (&str, &str) {
    (route.upstream().map_or("none", |name| name), route.repository().map_or("", Repository::as_str))
}

#[test]
fn by_ns_by_path_and_by_default() {
    for (uri, upstream, repository) in [
        // ns=
        ("/v2/owner/image/manifests/1?ns=ghcr.io", "ghcr.io", "owner/image"),
        ("/v2/owner/image/manifests/1?x=y&ns=GHCR.io&ns=quay.io", "ghcr.io", "owner/image"),
        ("/v2/owner/image/manifests/1?ns=gh", "ghcr.io", "owner/image"),
        ("/v2/coreos/etcd/manifests/1?ns=quay.io", "Quay.io", "coreos/etcd"),
        ("/v2/library/nginx/manifests/1?ns=registry-1.docker.io", "docker.io", "library/nginx"),
        ("/v2/nginx/manifests/1?ns=docker.io:443", "docker.io", "library/nginx"),
        ("/v2/a/b/manifests/1?ns=harbor.lan:8443", "harbor.lan:8443", "a/b"),
        ("/v2/a/b/manifests/1?ns=harbor.lan%3A8443", "harbor.lan:8443", "a/b"),
        ("/v2/a/b/manifests/1?ns=tls.lan", "tls.lan:443", "a/b"),
        ("/v2/a/b/manifests/1?ns=plain.lan", "plain.lan:5000", "a/b"),
        // An empty ns= names nothing.
        ("/v2/owner/image/manifests/1?ns=", "docker.io", "owner/image"),
        ("/v2/owner/image/manifests/1?ns", "docker.io", "owner/image"),
        // ns= before the path; the path is then the repository, unless it says the same once more.
        ("/v2/ghcr.io/a/manifests/1?ns=docker.io", "docker.io", "ghcr.io/a"),
        ("/v2/ghcr.io/a/b/manifests/1?ns=ghcr.io", "ghcr.io", "a/b"),
        ("/v2/index.docker.io/nginx/manifests/1?ns=docker.io", "docker.io", "library/nginx"),
        ("/v2/team/app/manifests/1?ns=harbor.lan:8443", "harbor.lan:8443", "team/app"),
        ("/v2/ghcr.io/manifests/1?ns=ghcr.io", "ghcr.io", "ghcr.io"),
        ("/quay.io/v2/a/b/manifests/1?ns=ghcr.io", "ghcr.io", "a/b"),
        // The first component of the path.
        ("/v2/ghcr.io/owner/image/manifests/1", "ghcr.io", "owner/image"),
        ("/v2/GHCR.IO/owner/image/manifests/1", "ghcr.io", "owner/image"),
        ("/v2/ghcr.io:443/owner/image/manifests/1", "ghcr.io", "owner/image"),
        ("/v2/harbor.lan:8443/team/app/manifests/1", "harbor.lan:8443", "team/app"),
        ("/v2/harbor.lan%3A8443/team/app/manifests/1", "harbor.lan:8443", "team/app"),
        ("/v2/team/app/manifests/1", "harbor.lan:8443", "app"),
        ("/v2/docker.io/nginx/manifests/1", "docker.io", "library/nginx"),
        ("/v2/docker.io/library/nginx/manifests/1", "docker.io", "library/nginx"),
        ("/v2/ghcr.io/pause/manifests/1", "ghcr.io", "pause"),
        ("/v2/ghcr.io/quay.io/x/manifests/1", "ghcr.io", "quay.io/x"),
        ("/v2/ghcr.io/x/tags/list", "ghcr.io", "x"),
        ("/v2/ghcr.io/blobs/manifests/1", "ghcr.io", "blobs"),
        // The component in front of /v2/.
        ("/ghcr.io/v2/owner/image/manifests/1", "ghcr.io", "owner/image"),
        ("/mirrors/ghcr.io/v2/owner/image/manifests/1", "ghcr.io", "owner/image"),
        ("/harbor.lan%3A8443/v2/a/manifests/1", "harbor.lan:8443", "a"),
        ("/ghcr.io/v2/quay.io/x/manifests/1", "ghcr.io", "quay.io/x"),
        ("/prefix/v2/nginx/manifests/1", "docker.io", "library/nginx"),
        ("/a/b/c/v2/owner/image/manifests/1", "docker.io", "owner/image"),
        ("/ghcr.io/other/v2/owner/image/manifests/1", "docker.io", "owner/image"),
        ("/prefix/v2/ghcr.io/owner/image/manifests/1", "ghcr.io", "owner/image"),
        ("/v2/v2/image/manifests/1", "docker.io", "v2/image"),
        // The default.
        ("/v2/nginx/manifests/1", "docker.io", "library/nginx"),
        ("/v2/library/nginx/manifests/1", "docker.io", "library/nginx"),
        ("/v2/a/b/c/d/e/f/manifests/1", "docker.io", "a/b/c/d/e/f"),
        ("/v2/a%2Fb/manifests/1", "docker.io", "a/b"),
    ] {
        let route = get(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(place(&route), (upstream, repository), "{uri}");
    }
}

#[test]
fn a_name_with_a_port_stands_without_it_where_that_is_free() {
    let mut upstreams = upstreams();
    upstreams.extend([
        upstream("two.lan:5001", "https://two.lan:5001", &["other.lan:1"], &[]),
        upstream("two.lan:5002", "https://two.lan:5002", &["two.lan:5002"], &[]),
        upstream("taken.lan:5001", "https://taken.lan:5001", &[], &[]),
        upstream("x.lan", "https://x.lan", &["taken.lan"], &[]),
        upstream("registry:5000", "http://registry:5000", &[], &[]),
        upstream("[fd00::1]:5000", "http://[fd00::1]:5000", &[], &[]),
        upstream("localhost:5005", "http://localhost:5005", &[], &[]),
    ]);
    let routes = routes_of(&upstreams);
    for (uri, expected) in [
        ("/v2/harbor.lan/a/b/manifests/1", Some(("harbor.lan:8443", "a/b"))),
        ("/v2/HARBOR.lan/a/b/manifests/1", Some(("harbor.lan:8443", "a/b"))),
        ("/harbor.lan/v2/a/b/manifests/1", Some(("harbor.lan:8443", "a/b"))),
        ("/v2/harbor.lan/a/b/manifests/1?ns=harbor.lan:8443", Some(("harbor.lan:8443", "a/b"))),
        ("/v2/localhost/a/manifests/1", Some(("localhost:5005", "a"))),
        ("/v2/other.lan/a/manifests/1", Some(("two.lan:5001", "a"))),
        ("/v2/[fd00::1]/a/manifests/1", Some(("[fd00::1]:5000", "a"))),
        // An alias goes before what is implied.
        ("/v2/plain.lan/a/manifests/1", Some(("plain.lan:5000", "a"))),
        ("/v2/taken.lan/a/manifests/1", Some(("x.lan", "a"))),
        // Two registries on one host, and a name that may be a namespace of Docker Hub.
        ("/v2/two.lan/a/manifests/1", None),
        ("/v2/registry/a/manifests/1", Some(("docker.io", "registry/a"))),
        // ns= is the whole name of a registry, whose port is that of https.
        ("/v2/a/b/manifests/1?ns=harbor.lan", None),
    ] {
        let route = get_from(&routes, uri);
        assert_eq!(route.as_ref().ok().map(place), expected, "{uri}");
    }
    assert_eq!(get_from(&routes, "/v2/harbor.lan/tags/list"), Err(RouteError::NotFound));
}

#[test]
fn by_host() {
    let uri = "/v2/owner/image/manifests/1".parse().unwrap();
    for (host, sni, tls, local_port, upstream) in [
        (Some("hub.mirror.lan"), None, false, 5000, "docker.io"),
        (Some("HUB.mirror.LAN.:5000"), None, false, 5000, "docker.io"),
        // name:port before name before *:port
        (Some("mirror.lan:5001"), None, false, 5001, "ghcr.io"),
        (Some("mirror.lan:5002"), None, false, 5002, "Quay.io"),
        (Some("mirror.lan:5003"), None, false, 5003, "Quay.io"),
        (Some("other.lan:5003"), None, false, 5003, "harbor.lan:8443"),
        (Some("127.0.0.1:5001"), None, false, 5001, "ghcr.io"),
        // Without a port in Host: that of the scheme, or else that of the listener.
        (Some("port.lan"), None, true, 443, "Quay.io"),
        (Some("port.lan"), None, true, 8443, "Quay.io"),
        (Some("port.lan"), None, false, 5000, "docker.io"),
        (Some("clear.lan"), None, false, 80, "Quay.io"),
        (Some("other.lan"), None, false, 5001, "ghcr.io"),
        // The port the client named before the one it arrived at.
        (Some("127.0.0.1:5001"), None, false, 5003, "ghcr.io"),
        (Some("127.0.0.1:5000"), None, false, 5003, "harbor.lan:8443"),
        // IPv6 in any spelling.
        (Some("[::1]:5002"), None, false, 5002, "docker.io"),
        (Some("[0:0:0:0:0:0:0:1]:5001"), None, false, 5001, "ghcr.io"),
        // The TLS name, when Host names nothing.
        (Some("127.0.0.1"), Some("sni.lan"), true, 443, "ghcr.io"),
        (None, Some("SNI.lan"), true, 443, "ghcr.io"),
        (None, Some("port.lan"), true, 443, "Quay.io"),
        (Some("hub.mirror.lan"), Some("sni.lan"), true, 443, "docker.io"),
        (Some("other.lan:5003"), Some("sni.lan"), true, 5003, "ghcr.io"),
        // Nothing but the listener's port, and nothing at all.
        (None, None, false, 5003, "harbor.lan:8443"),
        (Some(""), None, false, 5003, "harbor.lan:8443"),
        (Some("no host:xyz"), None, false, 5003, "harbor.lan:8443"),
        (Some("hub.mirror.lan:99999"), None, false, 5000, "docker.io"),
        (Some("evil.example"), Some("evil.example"), true, 5000, "docker.io"),
        (None, None, false, 5000, "docker.io"),
    ] {
        let target = Target { method: &Method::GET, uri: &uri, host, sni, tls, local_port };
        let route = resolve(target).unwrap();
        assert_eq!(place(&route), (upstream, "owner/image"), "{host:?} {sni:?} {tls} {local_port}");
    }
}

#[test]
fn a_host_goes_before_the_path_and_after_ns() {
    for (uri, place_expected) in [
        ("/v2/ghcr.io/a/b/manifests/1", ("Quay.io", "ghcr.io/a/b")),
        ("/ghcr.io/v2/a/b/manifests/1", ("Quay.io", "a/b")),
        ("/v2/a/b/manifests/1?ns=ghcr.io", ("ghcr.io", "a/b")),
        ("/v2/quay.io/a/b/manifests/1", ("Quay.io", "a/b")),
        ("/v2/single/manifests/1", ("Quay.io", "single")),
        ("/v2/", ("Quay.io", "")),
        ("/v2/_catalog", ("Quay.io", "")),
    ] {
        let uri: Uri = uri.parse().unwrap();
        let target = Target { host: Some("mirror.lan:5000"), ..request(&Method::GET, &uri) };
        assert_eq!(place(&resolve(target).unwrap()), place_expected, "{uri}");
    }
}

#[test]
fn library_only_where_it_is_configured_and_whichever_way() {
    let uri = |uri: &str| uri.parse::<Uri>().unwrap();
    for (path, repository) in [
        ("/v2/nginx/manifests/1?ns=docker.io", "library/nginx"),
        ("/v2/docker.io/nginx/manifests/1", "library/nginx"),
        ("/docker.io/v2/nginx/manifests/1", "library/nginx"),
        ("/v2/nginx/manifests/1", "library/nginx"),
        ("/v2/library/nginx/manifests/1", "library/nginx"),
        ("/v2/library/manifests/1", "library/library"),
        ("/v2/pause/manifests/1?ns=ghcr.io", "pause"),
        ("/v2/ghcr.io/pause/manifests/1", "pause"),
    ] {
        assert_eq!(get(path).unwrap().repository().unwrap().as_str(), repository, "{path}");
    }
    let (hub, put) = (uri("/v2/nginx/manifests/1"), Method::PUT);
    let by_host = resolve(Target { host: Some("hub.mirror.lan"), ..request(&Method::GET, &hub) }).unwrap();
    assert_eq!(place(&by_host), ("docker.io", "library/nginx"));
    assert_eq!(place(&resolve(request(&put, &hub)).unwrap()), ("docker.io", "library/nginx"));
    let long = format!("/v2/{}/manifests/1", "a".repeat(255));
    assert!(matches!(get(&long), Err(RouteError::Name(_))));
}

#[test]
fn unknown_upstreams_are_refused() {
    for (uri, name) in [
        ("/v2/a/b/manifests/1?ns=evil.example", "evil.example"),
        ("/v2/a/b/manifests/1?ns=http://ghcr.io", "http://ghcr.io"),
        ("/v2/a/b/manifests/1?ns=ghcr.io/", "ghcr.io/"),
        ("/v2/a/b/manifests/1?ns=ghcr.io:444", "ghcr.io:444"),
        ("/v2/a/b/manifests/1?ns=plain.lan:443", "plain.lan:443"),
        ("/v2/a/b/manifests/1?ns=169.254.169.254", "169.254.169.254"),
        ("/v2/a/b/manifests/1?ns=ghcr.io%00", "ghcr.io\0"),
        ("/v2/?ns=evil.example", "evil.example"),
        // Docker Hub is the default here: it has no namespace that looks like a host.
        ("/v2/evil.example/a/b/manifests/1", "evil.example"),
        ("/v2/evil.example:5000/a/manifests/1", "evil.example:5000"),
        ("/v2/localhost/a/manifests/1", "localhost"),
        ("/v2/evil.example/_catalog", "evil.example"),
        ("/v2/evil.example/manifests/1", "evil.example"),
        ("/v2/evil%2Eexample/tags/list", "evil.example"),
        ("/v2/localhost/manifests/1", "localhost"),
        ("/v2/localhost/_catalog", "localhost"),
        ("/v2/10.0.0.1/manifests/1", "10.0.0.1"),
        ("/v2/[::1]:5000/a/manifests/1", "[::1]:5000"),
        // In front of /v2/, where an upstream may be named as well.
        ("/evil.example/v2/a/manifests/1", "evil.example"),
        ("/evil.example/v2/", "evil.example"),
        ("/mirrors/localhost/v2/_catalog", "localhost"),
        ("/LOCALHOST/v2/library/nginx/manifests/1", "LOCALHOST"),
        ("/mirrors/Localhost/v2/", "Localhost"),
        ("/evil.example:5000/v2/library/nginx/manifests/1", "evil.example:5000"),
    ] {
        assert_eq!(get(uri), Err(RouteError::UnknownUpstream(name.to_owned())), "{uri}");
    }
}

#[test]
fn an_upstreams_name_without_a_repository_is_no_path() {
    for uri in ["/v2/ghcr.io/tags/list", "/v2/GHCR.io/manifests/1", "/v2/docker.io/manifests/1"] {
        assert_eq!(get(uri), Err(RouteError::NotFound), "{uri}");
    }
    // An alias without a dot may be a repository.
    assert_eq!(place(&get("/v2/team/manifests/1").unwrap()), ("docker.io", "library/team"));
}

#[test]
fn docker_hub_is_known_by_each_of_its_names_and_urls() {
    let aliased = upstream("hub", "https://cache.lan", &["index.docker.io"], &[]);
    for mut hub in [
        upstream("docker.io", "https://cache.lan", &[], &[]),
        upstream("Docker.IO:443", "https://cache.lan", &[], &[]),
        upstream("hub", "https://registry-1.docker.io", &[], &[]),
        aliased,
    ] {
        (hub.default, hub.library) = (true, false);
        let routes = routes_of(std::slice::from_ref(&hub));
        for path in ["/v2/b.test/app/manifests/1", "/v2/b.test/manifests/1", "/b.test/v2/app/manifests/1"] {
            let refused = get_from(&routes, path);
            assert_eq!(refused, Err(RouteError::UnknownUpstream("b.test".into())), "{} {path}", hub.name);
        }
        assert_eq!(place(&get_from(&routes, "/v2/app/manifests/1").unwrap()), (&*hub.name, "app"));
    }
}

#[test]
fn without_a_default() {
    let mut upstreams = upstreams();
    upstreams[0].default = false;
    let routes = routes_of(&upstreams);
    let base = get_from(&routes, "/v2/").unwrap();
    assert_eq!(base.destination, Destination::Base(None));
    assert_eq!(get_from(&routes, "/v2/a/b/manifests/1"), Err(RouteError::UnknownUpstream("a".into())));
    assert!(matches!(get_from(&routes, "/v2/_catalog"), Err(RouteError::UnknownUpstream(_))));
    assert_eq!(place(&get_from(&routes, "/v2/ghcr.io/a/manifests/1").unwrap()), ("ghcr.io", "a"));
    assert_eq!(place(&get_from(&routes, "/v2/?ns=ghcr.io").unwrap()), ("ghcr.io", ""));
    assert_eq!(get_from(&routes_of(&[]), "/v2/").unwrap().destination, Destination::Base(None));
}

#[test]
fn another_default_may_have_repositories_named_like_hosts() {
    let mut upstreams = upstreams();
    upstreams[0].default = false;
    upstreams[3].default = true;
    let routes = routes_of(&upstreams);
    let route = get_from(&routes, "/v2/registry.example/app/manifests/1").unwrap();
    assert_eq!(place(&route), ("harbor.lan:8443", "registry.example/app"));
    assert!(matches!(get_from(&routes, "/v2/b.test:5000/manifests/1"), Err(RouteError::UnknownUpstream(_))));
}

#[test]
fn catalogs() {
    for (uri, upstream) in [
        ("/v2/_catalog", "docker.io"),
        ("/v2/ghcr.io/_catalog?n=5", "ghcr.io"),
        ("/v2/_catalog?ns=ghcr.io", "ghcr.io"),
        ("/v2/ghcr.io/_catalog?ns=ghcr.io", "ghcr.io"),
        ("/ghcr.io/v2/_catalog", "ghcr.io"),
    ] {
        let route = get(uri).unwrap();
        let expected = Destination::Upstream(upstream.into(), Operation::List(List::Catalog));
        assert_eq!(route.destination, expected, "{uri}");
    }
}

/// What clients really ask for: the Host they send, and the method and the path.
#[test]
fn real_clients() {
    const IMAGE: (&str, &str) = ("ghcr.io", "owner/image");
    const ALPINE: (&str, &str) = ("docker.io", "library/alpine");
    const TEAM: (&str, &str) = ("harbor.lan:8443", "team/app");
    const FALLBACK: &str = "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let fallback = format!("GET /v2/ghcr.io/owner/image/manifests/{FALLBACK}");
    let nested = ("docker.io", "rancher/mirrored-pause");
    for (client, host, line, expected, namespace) in [
        ("containerd", "m:5000", "HEAD /v2/library/alpine/manifests/3?ns=docker.io", ALPINE, "docker.io"),
        ("containerd, override_path", "m:5000", "GET /v2/ghcr.io/owner/image/manifests/1?ns=ghcr.io", IMAGE, "ghcr.io"),
        ("containerd, a port", "m", "GET /v2/team/app/manifests/1?ns=harbor.lan%3A8443", TEAM, "harbor.lan:8443"),
        ("k3s, _default", "m:5000", "HEAD /v2/owner/image/manifests/1?ns=ghcr.io", IMAGE, "ghcr.io"),
        (
            "k3s, the wild spelling",
            "m:5000",
            "GET /v2/rancher/mirrored-pause/manifests/3.6?ns=registry-1.docker.io",
            nested,
            "registry-1.docker.io",
        ),
        ("dockerd, ping", "127.0.0.1:5000", "GET /v2/", ("docker.io", ""), ""),
        ("dockerd, registry-mirrors", "127.0.0.1:5000", "HEAD /v2/library/alpine/manifests/3.20", ALPINE, ""),
        ("dockerd, ping below a path", "127.0.0.1:5000", "GET /hub/v2/", ("docker.io", ""), ""),
        ("dockerd, mirror with a path", "127.0.0.1:5000", "GET /hub/v2/library/alpine/manifests/3", ALPINE, ""),
        ("docker pull HOST:PORT/…", "127.0.0.1:5000", "GET /v2/harbor.lan:8443/team/app/manifests/1", TEAM, ""),
        ("docker push", "m:5000", "POST /v2/ghcr.io/owner/image/blobs/uploads/", IMAGE, ""),
        (
            "docker push, mount",
            "m:5000",
            "POST /v2/harbor.lan:8443/team/app/blobs/uploads/?from=team%2Fbase&mount=sha256%3Aabc",
            TEAM,
            "",
        ),
        ("podman, mirror by prefix", "m:5000", "GET /v2/ghcr.io/owner/image/manifests/1", IMAGE, ""),
        ("podman, mirror by port", "m:5003", "GET /v2/team/app/manifests/1", TEAM, ""),
        ("podman, mirror by name", "hub.mirror.lan", "GET /v2/library/alpine/manifests/1", ALPINE, ""),
        ("skopeo list-tags", "m:5000", "GET /v2/ghcr.io/owner/image/tags/list", IMAGE, ""),
        ("cosign, fallback tag", "m:5000", &fallback, IMAGE, ""),
    ] {
        let (method, uri) = line.split_once(' ').unwrap();
        let (method, uri): (Method, Uri) = (method.parse().unwrap(), uri.parse().unwrap());
        let target = Target { host: Some(host), ..request(&method, &uri) };
        let route = resolve(target).unwrap_or_else(|error| panic!("{client}: {error}"));
        assert_eq!(place(&route), expected, "{client}");
        assert_eq!(route.namespace.as_deref().unwrap_or(""), namespace, "{client}");
    }
}

proptest! {
    #[test]
    fn any_request_is_harmless(
        path in "(/|v2|%2[ef]|%|\\.|\\.\\.|a|A|_|:|ghcr\\.io|x\\.y|docker\\.io|manifests|blobs|tags|list|_catalog|uploads|[!-~]){0,16}",
        query in prop::option::of("(ns|=|&|ghcr\\.io|x\\.y|%3[Aa]|[!-~]){0,6}"),
        host in prop::option::of(".{0,12}|(mirror|hub\\.mirror|x)\\.lan(:[0-9]{0,6})?"),
        sni in prop::option::of(".{0,12}|sni\\.lan"),
        tls: bool,
        local_port: u16,
        method in prop::sample::select(vec![Method::GET, Method::HEAD, Method::PUT]),
        below: bool,
    ) {
        let path = if below { format!("/v2/{path}/manifests/1") } else { format!("/{path}") };
        let text = query.map_or(path.clone(), |query| format!("{path}?{query}"));
        let Ok(uri) = text.parse::<Uri>() else { return Ok(()) };
        let target = Target { method: &method, uri: &uri, host: host.as_deref(), sni: sni.as_deref(), tls, local_port };
        if let Ok(route) = resolve(target) {
            let upstream = route.upstream().expect("there is a default");
            prop_assert!(upstreams().iter().any(|configured| configured.name == *upstream), "{:?}", route);
            if let Some(repository) = route.repository() {
                prop_assert!(repository.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert!(!repository.as_str().contains(['%', '\\', '\0']));
            }
            let has_none =
                matches!(route.destination, Destination::Base(_) | Destination::Upstream(_, Operation::List(List::Catalog)));
            prop_assert_eq!(route.repository().is_none(), has_none);
        }
    }

    #[test]
    fn any_bytes_in_a_path_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
        let path: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        for text in [format!("/{path}"), format!("/v2/{path}/manifests/1"), format!("/v2/a/manifests/{path}")] {
            let uri: Uri = text.parse().unwrap();
            let _ = resolve(request(&Method::GET, &uri));
        }
        if let Ok(uri) = Uri::from_maybe_shared(bytes.clone()) {
            let host = String::from_utf8_lossy(&bytes);
            let _ = resolve(Target { host: Some(&host), ..request(&Method::GET, &uri) });
        }
    }

    #[test]
    fn every_repository_is_reached_by_every_way(name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){1,3}") {
        // `team` is an alias, and a repository of the default upstream may not begin with it.
        prop_assume!(!name.starts_with("team/") && !name.starts_with("gh/"));
        for uri in [
            format!("/v2/{name}/manifests/1?ns=ghcr.io"),
            format!("/v2/ghcr.io/{name}/manifests/1"),
            format!("/ghcr.io/v2/{name}/manifests/1"),
        ] {
            let route = get(&uri).unwrap();
            prop_assert_eq!(place(&route), ("ghcr.io", name.as_str()));
        }
        let route = get(&format!("/v2/{name}/manifests/1")).unwrap();
        prop_assert_eq!(place(&route), ("docker.io", name.as_str()));
    }
}
