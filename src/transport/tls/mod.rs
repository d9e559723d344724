//! The server's side of TLS: certificates and their reload, and connections that the kernel encrypts.

mod certificate;
mod certificate_facts;
pub(super) mod handover;
pub(super) mod ktls;
pub(super) mod records;
mod reload;

#[cfg(test)]
pub(crate) use self::certificate_facts::certificate_for_tests;
pub use self::{
    certificate::TlsError,
    certificate_facts::CertificateFacts,
    reload::{PreparedTls, ReloadableTls},
};
