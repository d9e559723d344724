//! The client of the registries behind forebay.
//!
//! An [`Upstream`] is the handle of one configured registry. A request goes to one of the registry's URLs after the
//! other ([`failover`]), has the Authorization header that the last challenge led to ([`with_authorization`],
//! [`auth`]), follows redirects ([`client::follow_redirects`]), and its response becomes a result or an error
//! ([`response`]). What must hold: credentials go only where they belong; every wait and every body in memory is
//! bounded; an error tells whether the upstream answered or could not.
//!
//! It knows no cache, and opens no connection before the first request.

mod auth;
mod blob;
mod client;
mod config;
mod context;
mod endpoint;
mod error;
mod exchange;
mod explain;
mod failover;
mod failure_cause;
mod failure_log;
mod handle;
mod head;
mod health;
mod identity;
mod list;
mod login;
mod low_quota;
mod manifest;
mod mirrors;
mod password_check;
mod pause;
mod peer_use;
mod peers;
mod principal;
mod rates;
mod read;
mod read_request;
mod redact_for_clients;
mod redacted_url;
mod repositories_of_registry;
mod response;
mod setup_error;
mod state;
mod store_object;
mod stores;
mod throttle;
mod transfer_log;
mod upload_body;
mod via;
mod with_authorization;
mod write;
mod wrong_peers;

pub(crate) use self::{
    auth::named_helper, peers::peer_tls, principal::Verdict, rates::TimedHold, response::warning::VALUE_WEIGHT,
    stores::store_tls,
};
pub use self::{
    auth::{TokenResult, challenge, token_exchange},
    blob::{BlobStream, length::BlobHead, range::BlobRange},
    client::{
        ca_file::CaFlaws, circuit_breaker::open_circuit::OpenCircuit, peer_certificate::PeerCertificate, probe::Probe,
        proxy,
    },
    config::{Access, Config, CredentialSource, UpstreamTimeouts},
    context::Context,
    error::{Error, ErrorKind},
    explain::{ExplainedAuthorization, ExplainedHead, ExplainedStep, ExplainedToken},
    failure_cause::FailureCause,
    handle::Upstream,
    health::{Health, HealthTable},
    identity::{Registry, UrlHashes},
    list::Forwarded,
    manifest::{ManifestBody, ManifestHead},
    mirrors::Mirrors,
    pause::PauseTable,
    principal::{ClientCredential, NoRandomSource, Principal, PrincipalKey},
    rates::{RateKey, RateTable, UpstreamRates},
    read_request::IsList,
    response::{
        document_budget::{ReadBudget, ReadRoom},
        refusal::{Reason, Refusal},
        warning::ContentNotes,
    },
    setup_error::SetupError,
    upload_body::UploadBody,
    write::{WriteAction, WriteRequest, WriteResponse, WriteTarget, upload_location},
};

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::oci::{Accept, Digest, Reference, Repository};

    /// A future contains those that it awaits. That of a download was once larger than the stack of a thread that had
    /// to move it.
    #[test]
    fn futures_fit_on_any_stack() {
        let config = Config::at("registry.example", &["https://registry.example"]);
        let upstream = Upstream::new(&config, Context::of_test()).unwrap();
        let repository: Repository = "team/app".parse().unwrap();
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let reference = Reference::Digest(digest.clone());
        let accept = Accept::from_headers(&HeaderMap::new());
        let sizes = [
            size_of_val(&upstream.open_blob(&repository, &digest, BlobRange::default())),
            size_of_val(&upstream.head_blob(&repository, &digest)),
            size_of_val(&upstream.get_manifest(&repository, &reference, &accept)),
            size_of_val(&upstream.head_manifest(&repository, &reference, &accept)),
        ];
        assert!(sizes.iter().all(|size| *size < 4096), "{sizes:?} bytes");
    }
}
