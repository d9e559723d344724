//! `[admin]`: the listener for operators.

use std::net::SocketAddr;

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    server::{address, allowed_hosts},
};
use crate::{admin::Config, transport};

/// The keys of `[admin]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdminSection {
    listen: Option<String>,
    allowed_hosts: Vec<String>,
}

impl AdminSection {
    pub(super) fn read(
        self,
        document: &Document<'_>,
        flag: Option<SocketAddr>,
        server: &transport::Config,
    ) -> Result<Config, Error> {
        let section = Key::new("admin");
        let key = if flag.is_some() { Key::new("--admin") } else { section.field("listen") };
        let listen = match (flag, &self.listen) {
            (Some(listen), _) => listen,
            (None, Some(text)) => address(document, &key, text)?,
            (None, None) => Config::default().listen,
        };
        if listen.port() != 0 && server.listen.contains(&listen) {
            return Err(document.error(
                &key,
                format!("{listen} is where the registry listens; the admin listener needs an address of its own"),
            ));
        }
        let allowed_hosts = allowed_hosts(document, &section.field("allowed_hosts"), &self.allowed_hosts)?;
        Ok(Config { listen, allowed_hosts })
    }
}
