//! `[access]`: who may pull, and who may push.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde::Deserialize;

/// What stands in `push_users` for all client certificates; no user of htpasswd has such a name.
pub const ANY_CERTIFICATE: &str = "certificate:*";

/// The `[access]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub anonymous: Anonymous,
    /// bcrypt lines; present: these users may pull.
    pub htpasswd: Option<PathBuf>,
    /// `None`: all users of htpasswd, where upstreams take pushes with credentials of ours.
    pub push_users: Option<PushUsers>,
    /// Passwords are taken over clear HTTP, too.
    pub allow_clear_login: bool,
}

/// Who may push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushUsers {
    /// Of htpasswd.
    pub users: BTreeSet<Arc<str>>,
    /// And clients that show a certificate.
    pub certificates: bool,
}

/// What clients without credentials may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    #[default]
    Pull,
    None,
}
