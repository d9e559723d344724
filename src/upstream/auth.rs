//! Authentication to an upstream: from a challenge to the Authorization header that answers it.
//!
//! An [`Authenticator`] is asked twice by a request. [`Authenticator::known`] gives the header that the endpoint's last challenge
//! led to, before the request is sent. [`Authenticator::challenged`] answers a 401. [`feedback`] notes the response. In between:
//!
//! - [`challenge`] parses `WWW-Authenticate`, and [`scheme`] chooses the challenge to answer;
//! - [`realm`] decides which realm may see credentials;
//! - [`credential_provider`] reads them, from [`password_file`], [`docker_config`] or [`credential_helper`], and
//!   [`credential_trial`] withholds refused ones for a while;
//! - [`token_exchange`] fetches a [`token`] for a [`scope`], and [`token_cache`] keeps it.

mod authenticator;
mod authorization;
pub mod challenge;
pub(crate) mod credential;
mod credential_helper;
mod credential_provider;
mod credential_trial;
mod docker_config;
mod feedback;
mod named_helper;
mod password_file;
mod realm;
mod scheme;
pub(crate) mod scope;
pub(crate) mod token;
mod token_cache;
pub mod token_exchange;
mod token_result;

pub(crate) use self::named_helper::named_helper;
pub(in crate::upstream) use self::{
    authenticator::{Authenticator, Cause, Known},
    authorization::Authorization,
    credential_provider::CredentialProvider,
    scheme::{Scheme, is_answerable, names_other_scheme, wants_password, widened},
};
pub use token_result::TokenResult;
