//! The registry that clients see: it routes, authorizes, answers and logs each request.
//!
//! The pipeline is [`service`]. The registry stands above [`crate::transport`], which serves HTTP and knows no
//! registry.

mod access_log;
mod authenticate;
mod authorize;
mod base;
mod blob;
mod body;
mod client_rates;
mod conditional;
mod exchange;
mod list;
mod manifest;
mod multipart_ranges;
mod pace;
mod page;
mod pagination;
pub mod pagination_link;
mod peer;
mod pulls;
mod redirect;
mod redirects;
mod refusal_log;
pub mod refused_connection;
mod response;
mod response_memory;
mod rules;
mod service;
mod upload;
mod via;

pub(crate) use self::{
    client_rates::ClientRates,
    redirects::Redirects,
    response_memory::ResponseMemory,
    service::{Authentication, Contents, Service, Table},
    via::{Instance, via},
};
