//! The registry that clients see: what a request means, whether its client may, what answers it, and what is logged of it.
//!
//! The pipeline is `service`: loop check -> route -> authenticate -> authorize -> dispatch -> respond -> log. It stands above
//! [`crate::transport`], which serves HTTP and knows no registry.

pub(crate) mod access_log;
pub(crate) mod answer_memory;
pub mod body;
pub(crate) mod client_access;
pub(crate) mod conditional;
pub(crate) mod list;
pub(crate) mod multipart_ranges;
pub(crate) mod pagination;
pub mod pagination_link;
pub mod refusal;
pub mod response;
pub(crate) mod service;

pub use self::{
    answer_memory::AnswerMemory,
    service::{Handler, Table},
};
