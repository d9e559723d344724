//! The text that `serve` prints: where it listens, where the cache is, and the lines to paste.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytesize::ByteSize;
use forebay::config::Config;

/// The few lines that a new user needs; `listening` and `admin` are the addresses that forebay has bound.
pub(super) fn text(config: &Config, listening: &[SocketAddr], admin: SocketAddr) -> String {
    let mut text = format!("forebay {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    let scheme = if config.server.clear_http { "http" } else { "https" };
    for address in listening {
        line("registry", &format!("{scheme}://{address}"));
    }
    line("admin", &format!("http://{admin}/metrics"));
    let size = ByteSize(config.cache.max_size);
    line("cache", &format!("{}, at most {size}", config.cache.directory.display()));
    let Some(&first) = listening.first() else { return text };
    let host = reachable(first);
    if config.upstreams.iter().any(|upstream| upstream.default && &*upstream.name == "docker.io") {
        text += "\nFor Docker Hub, put this in /etc/docker/daemon.json and restart the daemon:\n";
        text += &format!("  {{ \"registry-mirrors\": [\"{scheme}://{host}\"] }}\n");
    }
    if let Some(other) = config.upstreams.iter().find(|upstream| !upstream.default) {
        text += "\nFor another registry, put its name in front:\n";
        text += &format!("  docker pull {host}/{}/REPOSITORY:TAG\n", other.name);
    }
    text
}

/// An address that a client on this machine can connect to: a wildcard is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use forebay::config::Overrides;

    use super::*;

    fn banner(configuration: &str, listening: &str) -> String {
        let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
        let config = Config::parse(configuration, "/forebay.toml".as_ref(), overrides).unwrap();
        text(&config, &[listening.parse().unwrap()], "127.0.0.1:5001".parse().unwrap())
    }

    #[test]
    fn a_newcomer_is_told_what_to_paste() {
        let text = banner("", "127.0.0.1:5000");
        assert!(text.contains("registry  http://127.0.0.1:5000\n"), "{text}");
        assert!(text.contains("admin     http://127.0.0.1:5001/metrics\n"), "{text}");
        assert!(text.contains("cache     /cache, at most 50.0 GiB\n"), "{text}");
        assert!(text.contains("\"registry-mirrors\": [\"http://127.0.0.1:5000\"]"), "{text}");
        assert!(text.contains("docker pull 127.0.0.1:5000/ghcr.io/"), "{text}");
    }

    #[test]
    fn a_wildcard_is_not_pasted() {
        let text = banner("", "[::]:5000");
        assert!(text.contains("registry  http://[::]:5000\n"), "{text}");
        assert!(text.contains("[\"http://[::1]:5000\"]"), "{text}");
    }

    #[test]
    fn a_mirror_without_docker_hub_is_not_offered_as_its_mirror() {
        let text = banner("[[upstream]]\nname = \"ghcr.io\"\ndefault = true\n", "127.0.0.1:5000");
        assert!(!text.contains("registry-mirrors"), "{text}");
        assert!(!text.contains("docker pull"), "{text}");
    }
}
