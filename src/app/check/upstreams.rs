//! Warnings about the names, URLs and helpers of upstreams (pure).

use url::{Host, Url};

use super::{Facts, Warning, of_upstream};
use crate::{config::Config, oci::HostPattern, upstream::Config as Upstream};

/// What Docker Hub is called, and is not named in images.
const NAMES_OF_HUB: [&str; 4] =
    ["registry-1.docker.io", "index.docker.io", "hub.docker.com", "registry.hub.docker.com"];

pub(super) fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    let mut found = Vec::new();
    for (index, upstream) in config.upstreams.iter().enumerate() {
        if NAMES_OF_HUB.contains(&&*upstream.name) {
            let problem = "images and clients name this registry docker.io: write name = \"docker.io\"";
            found.push(Warning::new(of_upstream(index, "name"), problem));
        }
        let urls = of_upstream(index, "urls");
        found.extend(upstream.urls.iter().enumerate().filter(|(_, url)| is_own(url, config, facts)).map(
            |(item, url)| {
                let problem = format!("{} is this forebay itself: write the registry's URL", origin(url));
                Warning::new(urls.item(item), problem)
            },
        ));
    }
    found.extend(facts.missing_helpers.iter().map(|(index, helper)| {
        let field = match config.upstreams.get(*index) {
            Some(Upstream { credential: crate::upstream::CredentialSource::DockerConfig(_), .. }) => "docker_config",
            _ => "credential_helper",
        };
        let problem =
            format!("docker-credential-{helper} is not in PATH, so forebay will have no credentials: install it");
        Warning::new(of_upstream(*index, field), problem)
    }));
    found
}

/// Scheme, host and port: a path may have a secret in it.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Whether a URL leads to a listener of this forebay, as far as that can be told without a name server.
fn is_own(url: &Url, config: &Config, facts: &Facts) -> bool {
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else { return false };
    let heard = facts.listening.iter().filter(|address| address.port() == port);
    let ip = match host {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(std::net::IpAddr::from(ip).to_canonical()),
        Host::Domain("localhost") => Some(std::net::Ipv4Addr::LOCALHOST.into()),
        Host::Domain(name) => {
            let is_named = name == facts.host_name || is_host_of_upstream(name, port, config);
            return is_named && heard.count() > 0;
        }
    };
    heard
        .map(|address| address.ip().to_canonical())
        .any(|listener| ip.is_some_and(|ip| listener == ip || listener.is_unspecified() && facts.machine.has(ip)))
}

/// Whether clients come to forebay by this host.
fn is_host_of_upstream(name: &str, port: u16, config: &Config) -> bool {
    config.upstreams.iter().flat_map(|upstream| &upstream.hosts).any(|pattern| match pattern {
        HostPattern::Name(host) => host == name,
        HostPattern::NamePort(host, of_port) => host == name && *of_port == port,
        HostPattern::AnyPort(_) => false,
    })
}
