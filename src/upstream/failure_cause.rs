//! Why an upstream could not answer, in one word of a closed list (pure): a label of the metrics, a field of the log,
//! and what clients are told.
//!
//! What must hold: the words are a contract with operators and with clients. What happens besides gets the word whose
//! remedy is the same; the log has the whole chain of causes.

use std::{error::Error, io};

use super::client::address_filter::{AddressRefused, LookupFailed};
use crate::{error_chain::sources, metrics::Label};

/// Why an upstream could not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// No address of its host was found.
    Dns,
    /// No connection could be made, or the upstream ended it before the response was whole.
    Refused,
    /// No connection, response or next byte came in time.
    Timeout,
    /// The TLS handshake failed: a certificate, or no TLS at all.
    Tls,
    /// forebay's own credentials are refused, or cannot be read.
    Credentials,
    /// What answers is no registry, by its page, its protocol, or content that does not have its digest.
    NotARegistry,
    /// It answers with a status that says that it cannot, such as 500 or 429.
    Status,
}

impl Label for FailureCause {
    const ALL: &'static [Self] =
        &[Self::Dns, Self::Refused, Self::Timeout, Self::Tls, Self::Credentials, Self::NotARegistry, Self::Status];

    fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Credentials => "credentials",
            Self::NotARegistry => "not_a_registry",
            Self::Status => "status",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl FailureCause {
    /// Why a request got no response, or a body broke off. `is_connect`: while the connection was made.
    pub(super) fn of_transport(error: &(dyn Error + 'static), is_connect: bool, is_timeout: bool) -> Self {
        let is_any = |is: &dyn Fn(&(dyn Error + 'static)) -> bool| sources(error).any(is);
        if is_any(&|source| source.is::<AddressRefused>()) {
            return Self::NotARegistry;
        }
        // A lookup may time out, too.
        if is_any(&|source| source.is::<LookupFailed>()) {
            return Self::Dns;
        }
        // A TLS server that ends the connection during the handshake says no more than that.
        let is_end = |source: &(dyn Error + 'static)| {
            source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
        };
        if is_any(&|source| source.is::<rustls::Error>()) || (is_connect && is_any(&is_end)) {
            return Self::Tls;
        }
        if is_timeout {
            return Self::Timeout;
        }
        // Another protocol, such as TLS where clear HTTP is expected.
        let is_nonsense = |source: &(dyn Error + 'static)| {
            source.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_parse() || error.is_parse_too_large())
        };
        if is_any(&is_nonsense) { Self::NotARegistry } else { Self::Refused }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage};

    use super::*;

    fn io_error(kind: io::ErrorKind) -> io::Error {
        kind.into()
    }

    #[test]
    fn the_chain_of_a_transport_error_has_one_cause() {
        use io::ErrorKind as K;
        let tls = |error| io::Error::other(io::Error::new(K::InvalidData, error));
        let lookup = |kind: K| io::Error::other(LookupFailed::new("registry.lan", kind.into()));
        for (error, is_connect, is_timeout, cause) in [
            (io_error(K::ConnectionRefused), true, false, FailureCause::Refused),
            (io_error(K::HostUnreachable), true, false, FailureCause::Refused),
            (io_error(K::ConnectionReset), true, false, FailureCause::Refused),
            (io_error(K::ConnectionReset), false, false, FailureCause::Refused),
            (io_error(K::BrokenPipe), false, false, FailureCause::Refused),
            // A response that was cut short, and a handshake.
            (io_error(K::UnexpectedEof), false, false, FailureCause::Refused),
            (io_error(K::UnexpectedEof), true, false, FailureCause::Tls),
            (io_error(K::TimedOut), true, true, FailureCause::Timeout),
            (io_error(K::TimedOut), false, true, FailureCause::Timeout),
            (lookup(K::NotFound), true, false, FailureCause::Dns),
            (lookup(K::TimedOut), true, true, FailureCause::Dns),
            (tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)), true, false, FailureCause::Tls),
            (tls(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)), true, false, FailureCause::Tls),
            (tls(rustls::Error::DecryptError), false, false, FailureCause::Tls),
        ] {
            assert_eq!(FailureCause::of_transport(&error, is_connect, is_timeout), cause, "{error:?}");
        }
    }

    #[test]
    fn the_words_are_those_of_the_contract() {
        let words: Vec<_> = FailureCause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words, ["dns", "refused", "timeout", "tls", "credentials", "not_a_registry", "status"]);
    }
}
