//! What fails: upstreams, and logins and handshakes of clients.

use super::{Metrics, labels::Label};

impl Metrics {
    /// Credentials and handshakes of clients may fail, for these reasons. Series with alerts begin at 0.
    pub fn clients_may_fail<Login: Label, Handshake: Label>(&self) {
        for reason in Login::ALL {
            self.0.families.requests.auth_failures.with_label_values(&[reason.as_str()]);
        }
        for reason in Handshake::ALL {
            self.0.families.connections.handshake_failures.with_label_values(&[reason.as_str()]);
        }
    }

    /// An upstream could not answer a request, or broke off a body.
    pub fn upstream_error(&self, upstream: &str, cause: impl Label) {
        self.0.families.upstreams.errors.with_label_values(&[upstream, cause.as_str()]).inc();
    }

    /// A client requested an upstream that is not configured.
    pub fn unconfigured_upstream(&self) {
        self.0.families.requests.unconfigured.inc();
    }

    /// A client's credentials were refused.
    pub fn auth_failure(&self, reason: impl Label) {
        self.0.families.requests.auth_failures.with_label_values(&[reason.as_str()]).inc();
    }

    /// The TLS handshake of a client failed.
    pub fn handshake_failure(&self, reason: impl Label) {
        self.0.families.connections.handshake_failures.with_label_values(&[reason.as_str()]).inc();
    }
}
