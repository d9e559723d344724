//! Who a client is, and what it may do.
//!
//! What must hold: if there are users, wrong credentials are refused even where none are needed (or `docker login`
//! would succeed with any password); if there are none, credentials are ignored, since clients send this host the
//! credentials of an old login file, or of a header in their configuration. An unknown user name costs the client as
//! much time as a wrong password. Verifying a password (tens of milliseconds of CPU) happens off the async threads, few
//! at once with a bounded queue before it, and once per pull rather than once per request. The registry makes the
//! response to a refusal.

mod access_control;
mod basic;
pub mod config;
mod failed_logins;
mod grants;
mod htpasswd;
mod login_failure;
mod new_password;
mod password_attempts;
mod password_cache;
mod password_queue;
mod rules;
mod user_file;
mod user_lines;
mod user_name;

use std::{sync::Arc, time::Duration};

pub(crate) use self::basic::basic;
pub use self::{
    access_control::AccessControl,
    config::{Anonymous, Config, PushUsers},
    htpasswd::Error,
    new_password::NewPassword,
    password_attempts::PasswordAttempts,
    user_file::{Existing, User, UserFile, UserFileError},
    user_name::UserName,
};
pub(crate) use self::{
    access_control::watch,
    config::ANY_CERTIFICATE,
    grants::{Grant, Grants, Resource},
    login_failure::LoginFailure,
    password_attempts::AttemptFrom,
    rules::{check_push_users, count_users},
};

/// A client that may pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Anonymous,
    /// A user of the htpasswd file.
    User(Arc<str>),
    /// A client whose credentials the upstream verifies, by the name it sent.
    Client(Arc<str>),
    /// A client with a certificate signed by the client CA.
    Certificate,
}

/// Why a client may not pull. The response is 401 with a challenge; 429 if forebay is busy or too many passwords were
/// wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("credentials are needed")]
    Missing,
    #[error("the credentials are not Basic ones")]
    Malformed,
    #[error("the user name or the password is wrong")]
    Wrong,
    /// The password was not verified.
    #[error("too many passwords are being verified")]
    Busy,
    /// The password was not verified; forebay verifies none before this time is over.
    #[error("too many wrong passwords")]
    TooMany(Duration),
}
