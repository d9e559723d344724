//! Tokens: every dialect of a realm, and how seldom it is asked.

use forebay::{
    oci::Operation,
    upstream::{Config, ErrorKind},
};
use http::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::upstream::{Subject, WHOLE, accept, any_list, config, has_credentials, kind, name};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Record, Server, When},
    test_ca::TestCa,
};

fn asked_realm(request: &Record) -> bool {
    request.server == Server::Realm
}

fn tokens(subject: &Subject, result: &str) -> u64 {
    subject.metric(&format!(r#"forebay_tokens_total{{result="{result}",upstream="fake.example"}}"#))
}

async fn registry(bearer: Bearer) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    registry.add_image("team/other", "1", &[b"layer"]);
    registry.require(Auth::Bearer(bearer));
    registry
}

#[tokio::test]
async fn an_anonymous_pull_costs_one_challenge_and_one_token() {
    let registry = registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    for _ in 0..3 {
        assert!(subject.manifest("team/app", "1").await.is_ok());
    }
    let seen: Vec<_> = registry.requests().iter().map(|request| (request.server, has_credentials(request))).collect();
    let (api, realm) = (Server::Api, Server::Realm);
    assert_eq!(seen, [(api, false), (realm, false), (api, true), (api, true), (api, true)]);
    let asked = registry.requests().remove(1);
    assert_eq!(asked.method, Method::GET);
    assert_eq!(asked.parameter("service"), ["fake.registry"]);
    // The challenge asked for pull,push.
    assert_eq!(asked.parameter("scope"), ["repository:team/app:pull"]);
    assert_eq!(tokens(&subject, "fetched"), 1);
    let requests = r#"forebay_upstream_requests_total{operation="token",status="200",upstream="fake.example"}"#;
    assert_eq!(subject.metric(requests), 1);
    // Another repository needs a token of its own, but no challenge.
    registry.forget_requests();
    assert!(subject.manifest("team/other", "1").await.is_ok());
    assert_eq!(registry.requests().iter().map(|request| request.server).collect::<Vec<_>>(), [realm, api]);
}

#[tokio::test]
async fn challenges_as_real_registries_write_them() {
    for challenges in [
        &[r#"Bearer realm="REALM",service="token-service",scope="repository:team/app:pull,push""#][..],
        &[r#"bearer realm="REALM""#],
        &[r#"Bearer realm="REALM", service="registry.aliyuncs.com:cn-hangzhou:26842", scope="a:b:c,d""#],
        &[r#"Basic realm="Quay", Bearer realm="REALM",service="quay.io""#],
        &[r#"Basic realm="Quay""#, r#"Bearer realm="REALM",service="quay.io""#],
        &[r#"Negotiate abc==, Bearer realm="REALM""#],
        &[r#"BEARER service=x , realm="REALM" , error="invalid_token""#],
        &[r#"Bearer realm="/token""#],
    ] {
        let challenges = challenges.iter().map(|&challenge| challenge.to_owned()).collect();
        let registry = registry(Bearer { challenges, ..Bearer::default() }).await;
        assert!(Subject::of(&registry).manifest("team/app", "1").await.is_ok(), "{:?}", registry.requests());
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_answered_is_a_refusal() {
    for challenge in [r#"Negotiate"#, "", "Bearer", r#"Basic realm="x""#, r#"Bearer service="no realm""#] {
        let registry = registry(Bearer::default()).await;
        registry.fault(When::any(), Fault::challenge(challenge));
        let refused = kind(Subject::of(&registry).manifest("team/app", "1").await);
        assert_eq!(refused, Some(ErrorKind::Unauthorized), "{challenge}");
        assert_eq!(registry.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_token_may_stand_under_either_name_and_tell_no_life() {
    for (field, expires_in) in
        [("token", None), ("access_token", None), ("token", Some(300)), ("access_token", Some(0))]
    {
        let registry = registry(Bearer { field, expires_in, ..Bearer::default() }).await;
        let subject = Subject::of(&registry);
        for _ in 0..2 {
            assert!(subject.manifest("team/app", "1").await.is_ok());
        }
        assert_eq!(registry.count(asked_realm), 1, "{field} {expires_in:?}");
    }
}

/// Clouds write each right of a client into it.
#[tokio::test]
async fn a_token_of_24_kilobytes_is_shown_whole() {
    let ca = TestCa::new();
    for registry in [FakeRegistry::start().await, FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await] {
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        registry.require(Auth::Bearer(Bearer { padding: 24_000, ..Bearer::default() }));
        let subject = Subject::new(&Config { ca: Some(ca.path()), ..config(&registry) });
        for _ in 0..2 {
            assert_eq!(subject.manifest("team/app", "1").await.unwrap(), image.manifest_bytes);
            assert_eq!(subject.blob("team/app", &image.layers[0], WHOLE).await.unwrap(), b"layer");
        }
        assert_eq!(registry.count(asked_realm), 1);
    }
}

#[tokio::test]
async fn fifty_pulls_at_once_ask_for_one_token() {
    let registry = registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    let gate = Gate::new();
    registry.fault(When::tokens(), Fault::HoldHead(gate.clone()));
    let pulls = futures_util::future::join_all((0..50).map(|_| subject.manifest("team/app", "1")));
    let open = async {
        registry.wait_for(|seen| seen.iter().filter(|request| request.server == Server::Api).count() == 50).await;
        gate.open();
    };
    let (pulled, ()) = tokio::join!(pulls, open);
    assert!(pulled.iter().all(Result::is_ok));
    assert_eq!(registry.count(asked_realm), 1);
}

#[tokio::test]
async fn a_token_request_outlives_its_first_client() {
    let registry = registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    let gate = Gate::new();
    registry.fault_times(1, When::tokens(), Fault::HoldHead(gate.clone()));
    tokio::select! {
        _ = subject.manifest("team/app", "1") => panic!("it went on without a token"),
        () = gate.reached() => {}
    }
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn a_refused_token_is_dropped_and_renewed_once() {
    let registry = registry(Bearer { expires_in: Some(3600), ..Bearer::default() }).await;
    let subject = Subject::of(&registry);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.revoke_tokens();
    registry.forget_requests();
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let seen: Vec<_> = registry.requests().iter().map(|request| request.server).collect();
    assert_eq!(seen, [Server::Api, Server::Realm, Server::Api]);
    // A 401 that comes once is not the end either.
    registry.fault_times(
        1,
        When::any(),
        Fault::challenge(&format!(r#"Bearer realm="{}""#, registry.realm_at("127.0.0.1"))),
    );
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

/// What counts is the challenge to a request that shows nothing.
#[tokio::test]
async fn a_token_that_has_died_is_sent_elsewhere_in_vain() {
    let registry = registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.revoke_tokens();
    registry.fault_times(1, When::manifests().authorized(), Fault::challenge("Basic realm=\"elsewhere\""));
    let asked = subject.manifest("team/app", "1").await;
    assert!(asked.is_ok(), "{asked:?}");
}

#[tokio::test]
async fn a_second_refusal_is_the_last_word() {
    let registry = registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    let challenge = format!(r#"Bearer realm="{}",error="insufficient_scope""#, registry.realm_at("127.0.0.1"));
    registry.fault(When::any(), Fault::challenge(&challenge));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unauthorized));
    assert_eq!(registry.requests().len(), 3);
    // And the token that did not help is not kept.
    registry.heal();
    registry.forget_requests();
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(registry.count(asked_realm), 1);
}

#[tokio::test]
async fn a_realm_that_refuses_is_no_outage_and_one_that_fails_is() {
    for (status, expected, result) in [
        (401, ErrorKind::Unauthorized, "refused"),
        (403, ErrorKind::Denied, "refused"),
        (404, ErrorKind::Protocol, "failed"),
        (429, ErrorKind::TooManyRequests, "failed"),
        (503, ErrorKind::Unavailable, "failed"),
    ] {
        let registry = registry(Bearer { refuse_get: Some(status), ..Bearer::default() }).await;
        let subject = Subject::of(&registry);
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(expected), "{status}");
        assert_eq!(tokens(&subject, result), 1, "{status}");
    }
}

/// ACR's challenges for lists name such a scope; forebay requests no other scope that a challenge names.
#[tokio::test]
async fn a_token_request_adds_only_scopes_for_reading() {
    for (wanted, asked) in [("metadata_read", "pull,metadata_read"), ("push", "pull")] {
        let challenge = format!(r#"Bearer realm="REALM",scope="repository:team/app:{wanted}""#);
        let registry = registry(Bearer { challenges: vec![challenge], ..Bearer::default() }).await;
        let _ = Subject::of(&registry).manifest("team/app", "1").await;
        let requests = registry.requests();
        let first = requests.iter().find(|request| asked_realm(request)).unwrap();
        assert_eq!(first.parameter("scope"), [format!("repository:team/app:{asked}")], "{wanted}");
    }
}

#[tokio::test]
async fn a_realm_that_breaks_off_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = Some(format!("http://{}/token", listener.local_addr().unwrap()));
    let registry = registry(Bearer { realm, ..Bearer::default() }).await;
    let subject = Subject::of(&registry);
    let breaks_off = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    };
    let (asked, ()) = tokio::join!(subject.manifest("team/app", "1"), breaks_off);
    // As against an answer without a token, which may be how a realm refuses a password.
    assert!(kind(asked).is_some_and(|kind| kind.is_outage() && kind != ErrorKind::Protocol));
}

#[tokio::test]
async fn answers_of_a_realm_that_make_no_sense() {
    let large = format!(r#"{{"token":"t","padding":"{}"}}"#, "x".repeat(64 * 1024));
    for body in ["", "{}", "<html>", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, &large] {
        let registry = registry(Bearer::default()).await;
        registry.fault(When::tokens(), Fault::Answer { status: 200, headers: vec![], body: body.to_owned() });
        let subject = Subject::of(&registry);
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Protocol));
        assert_eq!(tokens(&subject, "failed"), 1);
    }
}

#[tokio::test]
async fn a_realm_that_has_moved_is_found_again() {
    let registry = registry(Bearer::default()).await;
    let elsewhere = self::registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    // The realm that was learned refuses now, and a new challenge names another.
    registry.fault(When::tokens(), Fault::status(410));
    registry.require(Auth::Bearer(Bearer { realm: Some(elsewhere.realm_at("127.0.0.1")), ..Bearer::default() }));
    let outcome = subject.manifest("team/other", "1").await;
    // The other realm's token is none of this registry's, but it was asked.
    assert_eq!(kind(outcome), Some(ErrorKind::Unauthorized));
    assert_eq!(elsewhere.count(asked_realm), 1);
}

#[tokio::test]
async fn a_token_dies_when_its_realm_said() {
    let registry = registry(Bearer { expires_in: Some(1), ..Bearer::default() }).await;
    let subject = Subject::of(&registry);
    assert!(subject.manifest("team/app", "1").await.is_ok());
    // The cache reads the real clock: ask until the token was asked for again.
    let renewed = async {
        while registry.count(asked_realm) < 2 {
            assert!(subject.manifest("team/app", "1").await.is_ok());
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), renewed).await.unwrap();
    // It was given up in time: nothing was ever refused but the first request.
    let refused = r#"forebay_upstream_requests_total{operation="manifest",status="401",upstream="fake.example"}"#;
    assert_eq!(subject.metric(refused), 1);
}

#[tokio::test]
async fn the_catalogue_and_the_ping_have_scopes_of_their_own() {
    let registry = registry(Bearer::default()).await;
    let subject = Subject::of(&registry);
    subject.upstream.ping().await.unwrap();
    assert_eq!(registry.requests().last().unwrap().parameter("scope"), [""; 0]);
    let catalog = subject.upstream.forward(Operation::Catalog, None, "_catalog?n=5", &accept(&[]), any_list()).await;
    assert!(catalog.is_ok());
    let asked: Vec<_> = registry.requests().into_iter().filter(asked_realm).collect();
    assert_eq!(asked.last().unwrap().parameter("scope"), ["registry:catalog:*"]);
    let path = "team/app/tags/list";
    assert!(
        subject
            .upstream
            .forward(Operation::Tags, Some(&name("team/app")), path, &accept(&[]), any_list())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn operations_run_on_any_thread() {
    fn sent<T: Send>(future: T) -> T {
        future
    }
    let registry = registry(Bearer::default()).await;
    let layer = registry.add_blob("team/app", &b"layer"[..]);
    let subject = Subject::new(&config(&registry));
    let (upstream, repository) = (subject.upstream.clone(), name("team/app"));
    let pull = async move { upstream.open_blob(&repository, &layer, WHOLE).await };
    assert!(tokio::spawn(sent(pull)).await.unwrap().is_ok());
}
