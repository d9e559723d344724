//! What operators have of the running forebay: the admin listener, the control socket, and the control API on both.

pub(crate) mod api;
pub mod config;
pub(crate) mod control;
pub mod control_socket;
mod listener;
mod page;
mod readiness;
mod response;
mod token;

pub use self::{
    config::Config,
    readiness::{Readiness, State},
    token::{TokenError, read_token},
};
pub(crate) use self::{
    listener::AdminListener,
    token::{AdminToken, TokenFile},
};
