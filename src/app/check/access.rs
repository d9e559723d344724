//! Warnings about who may pull and push (pure).

use super::{Facts, Warning, of_upstream};
use crate::{
    config::{Config, Key},
    upstream::{Access, Config as Upstream, CredentialSource},
};

const NO_LOGIN: &str = "no client of another machine can log in: passwords over clear HTTP are refused, and there is no \
                        [server.tls]; add it, or write access.allow_clear_login = true";

pub(super) fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    let mut found = Vec::new();
    let htpasswd = || Key::new("access").field("htpasswd");
    if let (Some(path), Some(0)) = (&config.access.htpasswd, facts.users) {
        let path = path.display();
        found.push(Warning::new(
            htpasswd(),
            format!("{path} has no user, so no client can log in: forebay user add NAME --htpasswd {path}"),
        ));
    }
    if takes_no_password(config, facts) && config.access.htpasswd.is_some() {
        found.push(Warning::new(htpasswd(), NO_LOGIN));
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        found.extend(push_problem(config, facts, upstream).map(|why| Warning::new(of_upstream(index, "push"), why)));
        found
            .extend(client_problem(config, facts, upstream).map(|why| Warning::new(of_upstream(index, "access"), why)));
    }
    found
}

/// Whether forebay refuses the passwords of all clients that can connect: no TLS, and no listener for this machine alone, to
/// which a proxy that serves TLS could connect.
fn takes_no_password(config: &Config, facts: &Facts) -> bool {
    let is_local = |address: &std::net::SocketAddr| address.ip().to_canonical().is_loopback();
    config.server.tls.is_none()
        && !config.access.allow_clear_login
        && !facts.listening.is_empty()
        && !facts.listening.iter().any(is_local)
}

/// Why no client may push to an upstream that takes pushes. The same rules as those of `push::Policy`.
fn push_problem(config: &Config, facts: &Facts, upstream: &Upstream) -> Option<String> {
    let has_credentials = upstream.credential != CredentialSource::Anonymous;
    // The upstream decides by the credentials of each client.
    if !upstream.push || upstream.access != Access::Shared || !(has_credentials || config.access.push_users.is_some()) {
        return None;
    }
    let has_users = facts.users.is_some_and(|users| users > 0);
    let why = match &config.access.push_users {
        Some(named) if named.certificates => return None,
        Some(named) if named.users.is_empty() => "access.push_users is empty",
        Some(_) | None if has_users => return None,
        Some(_) | None => "with forebay's own credentials only users of access.htpasswd may, and there is none",
    };
    Some(format!("no client may push to {}: {why}", upstream.name))
}

/// Why no client can log in to an upstream that decides by its clients' credentials.
fn client_problem(config: &Config, facts: &Facts, upstream: &Upstream) -> Option<String> {
    if upstream.access == Access::Shared {
        return None;
    }
    if takes_no_password(config, facts) {
        return Some(NO_LOGIN.to_owned());
    }
    // A client logs in at a host, and the path of a request tells nothing about the host's login.
    let is_elsewhere = |other: &Upstream| other.default && other.access != Access::Shared;
    let login_is_taken = config.access.htpasswd.is_some() || config.upstreams.iter().any(is_elsewhere);
    (upstream.hosts.is_empty() && !upstream.default && login_is_taken).then(|| {
        let whose = if config.access.htpasswd.is_some() { "forebay's own users" } else { "the default upstream" };
        format!(
            "clients cannot log in to {}: a login at this forebay is one of {whose}; give it a host of its own, hosts = \
             [\"NAME\"]",
            upstream.name
        )
    })
}
