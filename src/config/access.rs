//! `[access]`: who may pull, and who may push.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{byte_rate::ByteRate, document::Document, error::Key, paths, units::Period};
use crate::{
    auth::{ANY_CERTIFICATE, Anonymous, Config, PushUsers},
    transport,
};

const ACCESS_TTL: Duration = Duration::from_secs(60);
const ACCESS_GRACE: Duration = Duration::from_secs(60 * 60);

/// The keys of `[access]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccessSection {
    anonymous: Anonymous,
    htpasswd: Option<PathBuf>,
    push_users: Option<Vec<String>>,
    allow_clear_login: bool,
    access_ttl: Option<Period>,
    access_grace: Option<Period>,
    client_rate: Option<ByteRate>,
}

/// How long a client's permission holds, for upstreams whose sections do not set it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientGrants {
    pub ttl: Duration,
    pub grace: Duration,
}

/// What `forebay user` has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// The file of `access.htpasswd`, which need not be there yet.
    pub htpasswd: Option<PathBuf>,
    /// The names in `access.push_users`.
    pub push_users: Vec<String>,
}

impl AccessSection {
    /// Looks at no file.
    pub(super) fn user_settings(self, document: &Document<'_>) -> UserSettings {
        let key = Key::new("access").field("htpasswd");
        UserSettings {
            htpasswd: self.htpasswd.map(|path| document.resolve(&key, &path)),
            push_users: self.push_users.unwrap_or_default(),
        }
    }

    pub(super) fn client_grants(&self) -> ClientGrants {
        let period = |given: Option<Period>, default| given.map_or(default, |Period(period)| period);
        ClientGrants { ttl: period(self.access_ttl, ACCESS_TTL), grace: period(self.access_grace, ACCESS_GRACE) }
    }

    /// `by_client`: an upstream authorizes clients by their own credentials.
    pub(super) fn read(self, document: &Document<'_>, server: &transport::Config, by_client: bool) -> Config {
        let section = Key::new("access");
        let readable = |path: PathBuf| document.keep(paths::readable(document, &section.field("htpasswd"), &path));
        let htpasswd = self.htpasswd.and_then(readable);
        // A value that was refused may be the one that is missed below.
        let is_sure = |key: &str| !document.is_refused(&Key::new(key));
        let has_users = htpasswd.is_some() || !is_sure("access.htpasswd");
        let has_certificates = server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) || !is_sure("server.tls");
        let by_client = by_client || !is_sure("upstream");
        if self.anonymous == Anonymous::None && !has_users && !has_certificates && !by_client {
            document.refuse(
                &section.field("anonymous"),
                "no client could pull: with \"none\" there must be access.htpasswd, server.tls.client_ca or an upstream \
                 with access = \"client\"",
            );
        }
        let push_users = self
            .push_users
            .map(|names| push_users(document, &section.field("push_users"), &names, has_users, has_certificates));
        Config {
            anonymous: self.anonymous,
            htpasswd,
            push_users,
            allow_clear_login: self.allow_clear_login,
            client_rate: self.client_rate.map(|ByteRate(rate)| rate),
        }
    }
}

fn push_users(
    document: &Document<'_>,
    key: &Key,
    names: &[String],
    has_users: bool,
    has_certificates: bool,
) -> PushUsers {
    let mut push_users = PushUsers::default();
    for (index, name) in names.iter().enumerate() {
        if let Some(problem) = problem_of(name, has_users, has_certificates) {
            document.refuse(&key.item(index), problem);
            continue;
        }
        let is_new = match &**name {
            ANY_CERTIFICATE => !std::mem::replace(&mut push_users.certificates, true),
            name => push_users.users.insert(name.into()),
        };
        if !is_new {
            document.refuse(&key.item(index), "is named twice");
        }
    }
    push_users
}

/// Why no client can have a name of `push_users`.
fn problem_of(name: &str, has_users: bool, has_certificates: bool) -> Option<&'static str> {
    match name {
        ANY_CERTIFICATE if has_certificates => None,
        ANY_CERTIFICATE => Some("no client can show a certificate: server.tls.client_ca is not set"),
        "" => Some("must not be empty"),
        name if name.contains(':') || name.chars().any(char::is_control) => {
            Some("must be a user of access.htpasswd, or \"certificate:*\" for all client certificates")
        }
        _ if !has_users => Some("there is no such user: access.htpasswd is not set"),
        _ => None,
    }
}
