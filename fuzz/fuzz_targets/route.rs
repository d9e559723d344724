//! The router: no path, query or Host leads to an upstream that is not configured.

#![no_main]

use std::sync::{Arc, LazyLock};

use forebay::{
    route::{Routes, Target},
    upstream::Config,
};
use http::{Method, Uri};
use libfuzzer_sys::fuzz_target;

static ROUTES: LazyLock<Routes<Arc<str>>> = LazyLock::new(|| {
    let upstream = |name: &str, hosts: &[&str]| Config {
        hosts: hosts.iter().map(|host| host.parse().expect("a valid pattern")).collect(),
        default: name == "docker.io",
        library: name == "docker.io",
        ..Config::new(name, vec![format!("https://{name}").parse().expect("a valid URL")])
    };
    let upstreams =
        [upstream("docker.io", &["hub.lan"]), upstream("ghcr.io", &["*:1"]), upstream("h.lan:1", &["[::1]:2"])];
    Routes::new(upstreams.iter().map(|upstream| (upstream, upstream.name.clone())))
});

// The first line is the path and the query, the second the Host, the third the TLS name.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&byte| byte == b'\n');
    let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else { return };
    let mut text = || std::str::from_utf8(lines.next()?).ok();
    let (host, sni) = (text(), text());
    let target = Target { method: &Method::GET, uri: &uri, host, sni, tls: sni.is_some(), local_port: 5000 };
    let Ok(route) = ROUTES.resolve(target) else { return };
    assert!(route.upstream().is_none_or(|upstream| ["docker.io", "ghcr.io", "h.lan:1"].contains(&&***upstream)));
    if let Some(repository) = route.repository() {
        assert!(repository.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
        assert!(!repository.as_str().contains(['%', '\\', '\0']));
    }
});
