//! Why the TLS handshake of a client failed (pure): a label of the metrics, and a field of the log.

use std::io;

use rustls::AlertDescription;

use crate::{error_chain::sources, metrics::Label};

/// Why the TLS handshake of a client failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// The client refuses forebay's certificate: it lacks the CA, or expects another name.
    Certificate,
    /// forebay refuses the client's certificate.
    ClientCertificate,
    /// No version, cipher or protocol in common.
    Incompatible,
    /// The client left.
    Closed,
    /// The client was too slow.
    Timeout,
    /// What the client sends is no TLS.
    Protocol,
    /// This listener serves no TLS.
    NotServed,
}

impl Label for HandshakeFailure {
    const ALL: &'static [Self] = &[
        Self::Certificate,
        Self::ClientCertificate,
        Self::Incompatible,
        Self::Closed,
        Self::Timeout,
        Self::Protocol,
        Self::NotServed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::ClientCertificate => "client_certificate",
            Self::Incompatible => "incompatible",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::NotServed => "not_served",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl HandshakeFailure {
    pub(super) fn of(error: &io::Error) -> Self {
        let Some(error) = sources(error).find_map(|source| source.downcast_ref::<rustls::Error>()) else {
            return Self::Closed;
        };
        match error {
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Self::ClientCertificate,
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Self::Incompatible,
            _ => Self::Protocol,
        }
    }

    /// What the client says. Source: RFC 8446 section 6.2.
    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        match alert {
            A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA => Self::Certificate,
            A::HandshakeFailure
            | A::ProtocolVersion
            | A::InsufficientSecurity
            | A::UnrecognisedName
            | A::NoApplicationProtocol => Self::Incompatible,
            A::CloseNotify | A::UserCanceled => Self::Closed,
            _ => Self::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage, PeerIncompatible};

    use super::*;

    #[test]
    fn the_error_of_a_handshake_has_a_reason() {
        let alert = rustls::Error::AlertReceived;
        for (error, reason) in [
            // OpenSSL's clients, and Go's, that lack the CA.
            (alert(AlertDescription::UnknownCA), HandshakeFailure::Certificate),
            (alert(AlertDescription::BadCertificate), HandshakeFailure::Certificate),
            (alert(AlertDescription::ProtocolVersion), HandshakeFailure::Incompatible),
            (alert(AlertDescription::CloseNotify), HandshakeFailure::Closed),
            (alert(AlertDescription::DecodeError), HandshakeFailure::Protocol),
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), HandshakeFailure::ClientCertificate),
            (rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), HandshakeFailure::Incompatible),
            (rustls::Error::NoApplicationProtocol, HandshakeFailure::Incompatible),
            (rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), HandshakeFailure::Protocol),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(HandshakeFailure::of(&error), reason, "{error:?}");
        }
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(HandshakeFailure::of(&kind.into()), HandshakeFailure::Closed, "{kind:?}");
        }
    }
}
