//! Whether a client has to log in at forebay before it pulls.

use crate::auth;

/// How clients that may pull prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Every client may pull.
    NotNeeded,
    /// By a password of the htpasswd file.
    Needed,
    /// By a password, which forebay does not accept on this connection.
    NeedsTls,
    /// By a certificate: there are no passwords.
    Certificate,
}

impl Login {
    /// `takes_passwords`: whether forebay accepts passwords on the client's connection.
    pub fn of(access: &auth::Config, takes_passwords: bool) -> Self {
        match (access.anonymous, &access.htpasswd) {
            (auth::Anonymous::Pull, _) => Self::NotNeeded,
            (auth::Anonymous::None, None) => Self::Certificate,
            (auth::Anonymous::None, Some(_)) if takes_passwords => Self::Needed,
            (auth::Anonymous::None, Some(_)) => Self::NeedsTls,
        }
    }

    /// Whether a client that has an account can pull.
    pub fn is_possible(self) -> bool {
        matches!(self, Self::NotNeeded | Self::Needed)
    }
}
