//! `[admin]`: the listener for operators.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    address::covers,
    document::Document,
    error::Key,
    server::{address, allowed_hosts},
};
use crate::{admin::Config, transport};

/// The keys of `[admin]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdminSection {
    listen: Option<String>,
    allowed_hosts: Vec<String>,
    socket: Option<PathBuf>,
    socket_group: Option<String>,
    token_file: Option<PathBuf>,
}

impl AdminSection {
    /// As it is written.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    pub(super) fn read(self, document: &Document<'_>, flag: Option<SocketAddr>, server: &transport::Config) -> Config {
        let section = Key::new("admin");
        let key = if flag.is_some() { Key::new("--admin") } else { section.field("listen") };
        let listen = match (flag, &self.listen) {
            (Some(listen), _) => listen,
            (None, Some(text)) => document.keep(address(document, &key, text)).unwrap_or(Config::default().listen),
            (None, None) => Config::default().listen,
        };
        // Listeners on the same port, one of them on all addresses: the second could not be bound.
        let overlaps = |other: &&SocketAddr| covers(**other, listen) || covers(listen, **other);
        if let Some(registry) = server.listen.iter().find(overlaps)
            && !document.is_refused(&Key::new("server.listen"))
            && !document.is_refused(&section.field("listen"))
        {
            let place = if *registry == listen { String::new() } else { format!(" ({registry})") };
            let problem = format!(
                "{listen} is where the registry listens{place}; the admin listener needs an address of its own"
            );
            document.refuse(&key, problem);
        }
        let allowed_hosts = allowed_hosts(document, &section.field("allowed_hosts"), &self.allowed_hosts);
        let path = |field: &str, path: Option<PathBuf>| {
            let key = section.field(field);
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                document.refuse(&key, "must not be empty");
            }
            path.map(|path| document.resolve(&key, &path))
        };
        let (socket, token_file) = (path("socket", self.socket), path("token_file", self.token_file));
        if self.socket_group.as_deref() == Some("") {
            document.refuse(&section.field("socket_group"), "must not be empty");
        }
        Config { listen, allowed_hosts, socket, socket_group: self.socket_group, token_file }
    }
}
