//! The text that `serve` prints: where clients connect, where the cache is, and lines to paste.
//!
//! What must hold: what looks like something to paste works as it stands. So no address is a wildcard, `https` stands only
//! before a host that the certificate names, Docker is told of clear HTTP where it asks for that, and a client that could not
//! log in is offered nothing that needs a login.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use bytesize::ByteSize;
use forebay::{
    config::Config,
    machine::Machine,
    setup::{Docker, Login, Offer, Origin, Setup},
    transport::CertificateFacts,
};

/// What is known once forebay listens.
pub(super) struct Bound<'a> {
    /// The addresses that forebay has bound.
    pub listening: &'a [SocketAddr],
    pub admin: SocketAddr,
    pub machine: Machine,
    /// Present if TLS is served.
    pub certificate: Option<&'a CertificateFacts>,
}

/// The few lines that a new user needs.
pub(super) fn text(config: &Config, bound: &Bound<'_>) -> String {
    let mut text = format!("forebay {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    let mut origins: Vec<Origin> = Vec::new();
    for address in bound.listening {
        let origin = origin(config.server.clear_http, *address, bound);
        if !origins.contains(&origin) {
            line("registry", &origin.to_string());
            origins.push(origin);
        }
    }
    if let Some(origin) = origins.first().filter(|_| config.server.page) {
        line("page", &format!("{origin}/ tells how to set up clients"));
    }
    line("admin", &format!("http://{}/ is for operators, and so is forebay status", bound.machine.reach(bound.admin)));
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    line("upstreams", &names.join(", "));
    let size = ByteSize(config.cache.max_size);
    line("cache", &format!("{}, at most {size}", config.cache.directory.display()));
    origins.retain(|origin| !origin.host.contains('*'));
    // Other machines can use it, and this one, too.
    let Some(origin) = origins.iter().find(|origin| !origin.is_loopback).or(origins.first()) else { return text };
    paste(&mut text, config, origin);
    text
}

/// Appends what to write for Docker.
fn paste(text: &mut String, config: &Config, origin: &Origin) {
    let offer = Offer::new(&config.upstreams, &config.access);
    let takes_passwords = origin.scheme == "https" || origin.is_loopback || config.access.allow_clear_login;
    let login = Login::of(&config.access, takes_passwords);
    if !login.is_possible() {
        return;
    }
    let docker = Docker::new(&Setup {
        origin: origin.clone(),
        registries: offer.registries.iter().collect(),
        unnamed: offer.default(),
        is_dedicated: false,
        login,
        takes_passwords,
        has_ca: false,
    });
    if let Some(line) = docker.one_line() {
        *text += "\nFor Docker, put this in /etc/docker/daemon.json and restart the daemon:\n";
        *text += &format!("  {line}\n");
    }
    let pull = docker.pull();
    if !pull.is_empty() {
        *text += "\nFor another registry, put its name in front:\n";
        pull.iter().for_each(|command| *text += &format!("  {command}\n"));
    }
}

/// Where clients reach a listener.
fn origin(clear_http: bool, listener: SocketAddr, bound: &Bound<'_>) -> Origin {
    let reached = bound.machine.reach(listener);
    let is_loopback = reached.ip().is_loopback();
    let at = |scheme, host: String| Origin { scheme, host, is_loopback };
    let Some(certificate) = bound.certificate else { return at("http", reached.to_string()) };
    let named = |name: &str| format!("{name}:{}", reached.port());
    if certificate.covers(&reached.ip().to_string()) {
        return at("https", reached.to_string());
    }
    let is_here =
        |name: &&String| !name.contains('*') && name.parse::<IpAddr>().is_err() && is_loopback == is_local(name);
    match certificate.names.iter().find(is_here) {
        Some(name) => at("https", named(name)),
        None if clear_http => at("http", reached.to_string()),
        None => at("https", certificate.names.first().map_or_else(|| reached.to_string(), |name| named(name))),
    }
}

/// Source: RFC 6761 section 6.3.
fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
