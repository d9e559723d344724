//! TLS to the upstream: forebay trusts a configured CA and those of the system, and no other.

use forebay::upstream::{Config, Context, ErrorKind, SetupError, Upstream};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

use crate::upstream::{Subject, WHOLE, config, kind};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, To, When},
    test_ca::{TestCa, serving},
};

const TEN: &[u8] = b"0123456789";

#[tokio::test]
async fn a_private_ca_is_trusted_only_where_it_is_configured() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    let image = registry.add_image("team/app", "1", &[TEN]);
    registry.require(Auth::Bearer(Bearer::default()));
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), image.manifest_bytes);
    assert_eq!(subject.blob("team/app", &image.layers[0], WHOLE).await.unwrap(), TEN);
    let other = TestCa::new();
    for ca in [None, Some(other.path())] {
        let subject = Subject::new(&Config { ca, ..config(&registry) });
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["localhost"])).await;
    registry.add_image("team/app", "1", &[]);
    let mut config = Config { ca: Some(ca.path()), ..config(&registry) };
    assert_eq!(kind(Subject::new(&config).manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    config.urls[0].set_host(Some("localhost")).unwrap();
    assert!(Subject::new(&config).manifest("team/app", "1").await.is_ok());
}

/// `openssl req -x509` makes such a one, as Docker's documentation of insecure registries has it.
fn self_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    (params.self_signed(&key).unwrap(), key)
}

/// Whether a server with this certificate is believed where `ca` has `trusted`.
async fn believes((certificate, key): &(rcgen::Certificate, KeyPair), trusted: &[&rcgen::Certificate]) -> bool {
    let registry = FakeRegistry::start_tls(serving(certificate, key)).await;
    registry.add_image("team/app", "1", &[]);
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("domain.crt");
    std::fs::write(&path, trusted.iter().map(|one| one.pem()).collect::<String>()).unwrap();
    let subject = Subject::new(&Config { ca: Some(path), ..config(&registry) });
    match subject.manifest("team/app", "1").await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Unavailable);
            false
        }
    }
}

#[tokio::test]
async fn a_servers_own_certificate_in_ca_is_trusted() {
    let right = self_signed("127.0.0.1", |_| ());
    let other = self_signed("127.0.0.1", |_| ());
    let plain = self_signed("127.0.0.1", |params| params.is_ca = IsCa::NoCa);
    let explicit = self_signed("127.0.0.1", |params| params.is_ca = IsCa::ExplicitNoCa);
    let of_clients = self_signed("127.0.0.1", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let issued = TestCa::new().issue(&["127.0.0.1"]);
    for own in [&right, &plain, &explicit, &of_clients, &issued] {
        assert!(believes(own, &[&own.0]).await);
        assert!(believes(own, &[&other.0, &own.0]).await);
        // Another one of the same name is not the same certificate.
        assert!(!believes(own, &[&other.0]).await);
    }
}

#[tokio::test]
async fn a_servers_own_certificate_has_its_name_and_dates() {
    type Change = fn(&mut CertificateParams);
    let expired: Change = |params| params.not_after = date_time_ymd(2020, 1, 1);
    let early: Change = |params| params.not_before = date_time_ymd(4000, 1, 1);
    let nothing: Change = |_| ();
    for (name, change) in [("127.0.0.1", expired), ("127.0.0.1", early), ("localhost", nothing)] {
        for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::NoCa] {
            let own = self_signed(name, |params| {
                params.is_ca = is_ca;
                change(params);
            });
            assert!(!believes(&own, &[&own.0]).await, "{name}");
        }
    }
}

#[tokio::test]
async fn a_body_cut_short_is_an_error_over_http2_as_well() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
    registry.fault(When::blobs(), Fault::Truncate { at: 4 });
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Unavailable));
    registry.fault(When::blobs(), Fault::NoContentLength);
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Unavailable));
}

#[tokio::test]
async fn the_way_never_leads_from_https_to_http() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    let clear = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    clear.add_blob("team/app", TEN);
    let location = format!("{}v2/team/app/blobs/{digest}", clear.url());
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Location(location) });
    let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Protocol));
    assert!(clear.requests().is_empty());
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_said_at_start() {
    let directory = tempfile::TempDir::new().unwrap();
    let registry = FakeRegistry::start().await;
    let set_up = |content: Option<&str>| {
        let path = directory.path().join("ca.crt");
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => drop(std::fs::remove_file(&path)),
        }
        let context = Context {
            metrics: forebay::metrics::Metrics::new().unwrap(),
            via: "1.1 x".into(),
            budget: Default::default(),
            rates: Default::default(),
            health: Default::default(),
            content: Default::default(),
            pauses: Default::default(),
            cluster: None,
            store: None,
        };
        Upstream::new(&Config { ca: Some(path), ..config(&registry) }, context).unwrap_err()
    };
    assert!(matches!(set_up(None), SetupError::ReadCa { .. }));
    assert!(matches!(set_up(Some("not a certificate")), SetupError::EmptyCa { .. }));
    let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(set_up(Some(broken)), SetupError::ParseCa { .. }));
}
