//! Redirects: followed by hand, with nothing secret in the luggage.

use forebay::upstream::{BlobRange, Config, ErrorKind};
use http::Method;

use crate::upstream::{Subject, WHOLE, accept, config, has_credentials, kind, name, reference_of};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Record, Server, To, When},
    mirror::Mirror,
    test_ca::TestCa,
};

const TEN: &[u8] = b"0123456789";

fn to_cdn(status: u16) -> Fault {
    Fault::Redirect { status, to: To::Cdn }
}

fn at_cdn(request: &Record) -> bool {
    request.server == Server::Cdn
}

#[tokio::test]
async fn each_redirect_status_is_followed_without_credentials() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    for status in [301, 302, 303, 307, 308] {
        registry.heal();
        registry.fault(When::blobs(), to_cdn(status));
        assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN, "{status}");
    }
    assert_eq!(registry.count(at_cdn), 5);
    assert_eq!(registry.count(|request| at_cdn(request) && has_credentials(request)), 0);
    // A signed URL is a credential as well.
    assert_eq!(registry.count(|request| request.headers.contains_key("referer")), 0);
    assert!(registry.requests().iter().all(|request| request.header("accept-encoding") == Some("identity")));
    let via = registry.requests().iter().all(|request| request.header("via") == Some("1.1 forebay-test"));
    assert!(via);
}

#[tokio::test]
async fn a_range_goes_along() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), to_cdn(307));
    let subject = Subject::of(&registry);
    let range = BlobRange { first: 4, last: Some(6) };
    assert_eq!(subject.blob("team/app", &digest, range).await.unwrap(), b"456");
    assert_eq!(registry.requests().last().unwrap().header("range"), Some("bytes=4-6"));
}

#[tokio::test]
async fn a_redirect_is_never_remembered() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), to_cdn(301));
    let subject = Subject::of(&registry);
    for _ in 0..3 {
        assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
        registry.expire();
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 3);
}

#[tokio::test]
async fn a_relative_location_keeps_the_credentials() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let digest = registry.add_blob("team/app", TEN);
    registry.fault_times(2, When::blobs(), Fault::Redirect { status: 302, to: To::Here });
    let subject = Subject::of(&registry);
    assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
    let moved = registry.requests().into_iter().find(|request| request.path.starts_with("/moved/")).unwrap();
    assert!(has_credentials(&moved));
}

#[tokio::test]
async fn another_name_of_the_same_machine_is_another_host() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
    registry.forget_requests();
    let location = registry.realm_at("localhost").replace("/token", "/elsewhere");
    registry.fault_times(1, When::blobs(), Fault::Redirect { status: 307, to: To::Location(location) });
    assert!(subject.blob("team/app", &digest, WHOLE).await.is_err());
    let elsewhere = registry.requests().into_iter().find(|request| request.path == "/elsewhere").unwrap();
    assert!(!has_credentials(&elsewhere));
}

#[tokio::test]
async fn credentials_that_were_left_behind_are_not_taken_up_again() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
    registry.forget_requests();
    let back = format!("{}v2/back/blobs/x", registry.url());
    registry.fault(When::blob(&digest), to_cdn(307));
    let away_and_back = Fault::Answer { status: 307, headers: vec![("location", back)], body: String::new() };
    registry.fault(When::blobs().at(Server::Cdn), away_and_back);
    // The target refuses a request without credentials; that is no refusal of the client.
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Unavailable));
    let back = registry.requests().into_iter().find(|request| request.path.contains("/back/")).unwrap();
    assert!(!has_credentials(&back));
}

#[tokio::test]
async fn userinfo_in_a_location_is_not_sent() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let mut location = registry.cdn_url();
    location.set_username("me").unwrap();
    location.set_password(Some("pw")).unwrap();
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Location(location.into()) });
    assert!(Subject::of(&registry).blob("team/app", &digest, WHOLE).await.is_err());
    assert_eq!((registry.count(at_cdn), registry.count(has_credentials)), (1, 0));
}

#[tokio::test]
async fn a_circle_ends() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), Fault::Redirect { status: 302, to: To::Here });
    assert_eq!(kind(Subject::of(&registry).blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Protocol));
    assert_eq!(registry.requests().len(), 11);
    // Ten are followed, as by the usual clients.
    registry.heal();
    registry.fault_times(10, When::blobs(), Fault::Redirect { status: 302, to: To::Here });
    assert_eq!(Subject::of(&registry).blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
}

#[tokio::test]
async fn local_and_cloud_metadata_addresses_are_not_dialled() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    // The upstream is on loopback, so loopback is fair; the rest is not, and fails at once.
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://[::ffff:169.254.169.254]/",
        "http://100.100.100.200/",
        "ftp://127.0.0.1/",
        "nonsense://",
        "",
    ] {
        registry.heal();
        registry.fault(When::blobs(), Fault::Redirect { status: 302, to: To::Location(location.into()) });
        let refused = kind(subject.blob("team/app", &digest, WHOLE).await);
        assert_eq!(refused, Some(ErrorKind::Protocol), "{location}");
    }
    registry.heal();
    registry.fault(When::blobs(), Fault::status(302));
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Protocol));
}

#[tokio::test]
async fn a_blob_host_that_refuses_is_an_outage_and_no_denial() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    for (status, expected) in [
        (401, ErrorKind::Unavailable),
        (403, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
        (404, ErrorKind::NotFound),
    ] {
        registry.heal();
        registry.fault(When::blobs(), to_cdn(307));
        registry.fault(When::blobs().at(Server::Cdn), Fault::status(status));
        assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(expected), "{status}");
    }
    // A challenge of the blob host is not answered.
    registry.heal();
    registry.fault(When::blobs(), to_cdn(307));
    let challenge = format!(r#"Bearer realm="{}""#, registry.realm_at("127.0.0.1"));
    registry.fault(When::blobs().at(Server::Cdn), Fault::challenge(&challenge));
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Unavailable));
    assert_eq!(registry.count(|request| request.server == Server::Realm), 0);
}

#[tokio::test]
async fn a_registry_that_a_redirect_leads_to_is_in_the_cause() {
    let (registry, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = registry.add_image("team/app", "1", &[TEN]);
    other.require(Auth::Bearer(Bearer::default()));
    let host = other.url().to_string().replace("http://", "").replace('/', "");
    for path in ["manifests/1".to_owned(), format!("blobs/{}", image.layers[0])] {
        let location = format!("{}v2/team/app/{path}", other.url());
        registry.fault(When::path_of(path), Fault::Redirect { status: 307, to: To::Location(location) });
    }
    let subject = Subject::of(&registry);
    let mirror = Mirror::of(&registry).await;
    for (error, path) in [
        (subject.manifest("team/app", "1").await.unwrap_err(), "manifests/1".to_owned()),
        (subject.blob("team/app", &image.layers[0], WHOLE).await.unwrap_err(), format!("blobs/{}", image.layers[0])),
    ] {
        assert!(error.kind == ErrorKind::Unavailable && error.is_of_other_registry(), "{error}");
        assert!(error.to_string().contains(&format!("{host}, a registry that asks for credentials")), "{error}");
        let answer = mirror.get(&format!("/v2/team/app/{path}")).await;
        assert_eq!(answer.status, 502, "{path}");
        let text = answer.text();
        assert!(text.contains("has to make an upstream of its own") && !text.contains(&host), "{text}");
    }
    assert_eq!(other.count(|request| request.server == Server::Realm), 0);
}

#[tokio::test]
async fn as_many_headers_as_clients_take_are_taken() {
    let ca = TestCa::new();
    let names: Vec<&'static str> = (0..150).map(|number| &*Box::leak(format!("x-{number}").into_boxed_str())).collect();
    for secure in [false, true] {
        let registry = match secure {
            true => FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await,
            false => FakeRegistry::start().await,
        };
        let image = registry.add_image("team/app", "1", &[]);
        // 64 KiB in all, as many headers and as one.
        for (names, value) in [(&names[..], 430), (&names[..1], 65_536)] {
            registry.heal();
            names.iter().for_each(|name| registry.fault(When::any(), Fault::Header(name, Some("x".repeat(value)))));
            let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
            let got = subject.manifest("team/app", "1").await;
            assert_eq!(got.unwrap(), image.manifest_bytes, "{secure} {value}");
        }
    }
}

#[tokio::test]
async fn a_head_is_not_forced_upon_a_url_signed_for_get() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    let head = async || subject.upstream.head_blob(&name("team/app"), &digest).await;
    registry.fault(When::blobs(), to_cdn(307));
    assert_eq!(head().await.unwrap().len, Some(10));
    assert_eq!(registry.count(|request| request.method != Method::HEAD), 0);
    for status in [400, 403, 405, 501] {
        registry.heal();
        registry.forget_requests();
        registry.fault(When::blobs(), to_cdn(307));
        registry.fault(When::blobs().at(Server::Cdn).method(Method::HEAD), Fault::status(status));
        assert_eq!(head().await.unwrap().len, Some(10), "{status}");
        let seen: Vec<_> = registry.requests().into_iter().map(|request| (request.server, request.method)).collect();
        assert_eq!(seen, [(Server::Api, Method::HEAD), (Server::Cdn, Method::HEAD), (Server::Cdn, Method::GET)]);
        assert_eq!(registry.requests()[2].header("range"), Some("bytes=0-0"));
    }
    // A blob host that ignores the range tells the length all the same.
    registry.fault(When::blobs().at(Server::Cdn), Fault::IgnoreRange);
    assert_eq!(head().await.unwrap().len, Some(10));
}

#[tokio::test]
async fn the_head_of_a_manifest_is_never_made_a_pull() {
    let registry = FakeRegistry::start().await;
    registry.add_image("pause", "3.9", &[]);
    registry.fault(When::manifests(), to_cdn(307));
    registry.fault(When::manifests().at(Server::Cdn).method(Method::HEAD), Fault::status(403));
    let subject = Subject::of(&registry);
    let head = subject.upstream.head_manifest(&name("pause"), &reference_of("3.9"), &accept(&[])).await;
    assert_eq!(kind(head), Some(ErrorKind::Unavailable));
    assert_eq!(registry.count(|request| request.method != Method::HEAD), 0);
}

#[tokio::test]
async fn manifests_are_followed_too() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("pause", "3.9", &[]);
    registry.fault(When::manifests(), to_cdn(307));
    let subject = Subject::of(&registry);
    assert_eq!(subject.manifest("pause", "3.9").await.unwrap(), image.manifest_bytes);
    let head = subject.upstream.head_manifest(&name("pause"), &reference_of("3.9"), &accept(&["a/b"])).await.unwrap();
    assert_eq!(head.digest, Some(image.manifest));
    let last = registry.requests().pop().unwrap();
    assert_eq!((last.server, last.method.clone(), last.header("accept")), (Server::Cdn, Method::HEAD, Some("a/b")));
}

#[tokio::test]
async fn an_error_shows_no_signature() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), to_cdn(307));
    registry.take_down(Server::Cdn).await;
    let subject = Subject::new(&config(&registry));
    let mut error = &subject.blob("team/app", &digest, WHOLE).await.unwrap_err() as &dyn std::error::Error;
    loop {
        assert!(!format!("{error} {error:?}").contains("signature"), "{error:?}");
        match error.source() {
            Some(source) => error = source,
            None => break,
        }
    }
}
