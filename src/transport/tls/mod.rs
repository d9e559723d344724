//! The server's side of TLS: certificates and their reload, and connections that the kernel encrypts.

mod authority;
mod certificate;
mod certificate_facts;
pub(super) mod handover;
pub(super) mod ktls;
pub(super) mod records;
mod reload;

#[cfg(test)]
pub(crate) use self::certificate_facts::certificate_for_tests;
/// Whether this kernel can encrypt connections (kTLS). The first call tries it on sockets of this process.
pub fn has_kernel_tls() -> bool {
    ktls::is_offered()
}

pub use self::{
    certificate::TlsError,
    certificate_facts::CertificateFacts,
    reload::{PreparedTls, ReloadableTls},
};
