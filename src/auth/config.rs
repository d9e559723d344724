//! `[access]`: who may pull, and who may push.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde::Deserialize;

use crate::rate::BytesPerSecond;

/// The entry of `push_users` that stands for all client certificates; no user of htpasswd has such a name.
pub const ANY_CERTIFICATE: &str = "certificate:*";

/// The `[access]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub anonymous: Anonymous,
    /// The file of bcrypt lines; if it is set, its users may pull.
    pub htpasswd: Option<PathBuf>,
    /// `None`: all users of htpasswd may push to upstreams that take pushes with forebay's own credentials.
    pub push_users: Option<PushUsers>,
    /// Whether clients may send passwords over clear HTTP, too.
    pub allow_clear_login: bool,
    /// How fast forebay sends to one client.
    pub client_rate: Option<BytesPerSecond>,
}

/// Who may push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushUsers {
    /// Users of htpasswd who may push.
    pub users: BTreeSet<Arc<str>>,
    /// Whether clients that show a certificate may push, too.
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

impl Anonymous {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::None => "none",
        }
    }
}
