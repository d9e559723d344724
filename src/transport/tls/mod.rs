//! The server's side of TLS: certificates and their reload, and connections that the kernel encrypts.

mod certificate;
pub(super) mod handover;
pub(super) mod ktls;
pub(super) mod records;
mod reload;

pub use self::{
    certificate::TlsError,
    reload::{PreparedTls, ReloadableTls},
};
