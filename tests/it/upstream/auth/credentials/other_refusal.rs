//! Refusals that are none of the password.

use super::*;

#[tokio::test]
async fn a_401_to_what_is_not_for_us_is_none_to_the_password() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.fault(When::path_of("/private/"), Fault::challenge(r#"Basic realm="x""#));
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Unauthorized));
        assert!(subject.manifest("team/app", "1").await.is_ok());
    }
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
}

/// The first request after a start may be for what is not for us.
#[tokio::test]
async fn a_401_is_none_to_a_password_that_the_base_takes() {
    let bases = [Fault::status(200), Fault::status(404), Fault::no_backend()];
    for base in bases {
        let registry = registry(basic_auth("se:cret")).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
        registry.fault(When::base().authorized(), base.clone());
        registry.fault(When::path_of("/private/"), Fault::challenge(r#"Basic realm="x""#));
        for _ in 0..2 {
            assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Unauthorized), "{base:?}");
            assert_eq!(subject.metric(CREDENTIALS_OK), 1, "{base:?}");
        }
        // What the base has taken was taken: no other one has to wait for its turn.
        assert_eq!(shown(&registry), 4, "{base:?}");
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{base:?}");
    }
}

#[tokio::test]
async fn a_base_that_refuses_a_password_gets_one_request() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
    assert_eq!(kind(subject.upstream.ping().await), Some(ErrorKind::OurCredentials));
    assert_eq!(shown(&registry), 1);
}

#[tokio::test]
async fn of_requests_refused_together_not_each_asks_the_base() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::challenge(r#"Basic realm="x""#));
    registry.fault(When::base().authorized(), Fault::HoldHead(gate.clone()));
    let asking = at_once(&subject, 10);
    gate.reached().await;
    // The first challenge, and the ten.
    let refused = r#"forebay_upstream_requests_total{operation="manifest",status="401",upstream="fake.example"}"#;
    while subject.metric(refused) < 11 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert!(asking.join_all().await.iter().all(|told| *told == Some(ErrorKind::Unauthorized)));
    assert!(registry.count(|request| request.path == "/v2/" && has_credentials(request)) < 10);
}

/// A base that answers without credentials says nothing about a password.
#[tokio::test]
async fn a_401_at_one_repository_leaves_a_try_to_another() {
    let registry = registry(basic_auth("se:cret")).await;
    registry.fault(When::base(), Fault::status(200));
    registry.fault(When::path_of("/private/"), Fault::challenge(r#"Basic realm="x""#));
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
    for repository in ["private/app", "private/app", "team/app", "team/app", "team/other", "private/app"] {
        assert_eq!(kind(subject.manifest(repository, "1").await), Some(ErrorKind::OurCredentials));
    }
    assert_eq!(registry.count(|request| request.path.contains("/manifests/") && has_credentials(request)), 2);
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::OurCredentials));
    }
    for _ in 0..3 {
        assert!(subject.manifest("team/app", "1").await.is_ok());
        assert_eq!(
            kind(subject.manifest("private/app", "1").await),
            Some(ErrorKind::Unauthorized),
            "once it was taken"
        );
    }
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
}

/// As ACR says to what is not for the user.
#[tokio::test]
async fn a_realms_401_to_a_scope_is_none_to_the_password() {
    let registry = registry(Auth::Bearer(Bearer { refuse_scope: Some("private/"), ..bearer() })).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for _ in 0..3 {
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Unauthorized));
        assert_eq!(subject.metric(CREDENTIALS_OK), 1);
    }
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn a_password_that_is_answered_by_403_is_read_anew() {
    for (old, new) in forbidding("se:cret").into_iter().zip(forbidding("new")) {
        let registry = registry(old.clone()).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
        assert!(subject.manifest("team/app", "1").await.is_ok());
        registry.require(new);
        registry.revoke_tokens();
        file(&directory, "new");
        registry.forget_requests();
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{old:?}");
        assert_eq!(subject.metric(CREDENTIALS_OK), 1, "{old:?}");
        // It has died, and there is no other one.
        registry.require(old.clone());
        registry.revoke_tokens();
        registry.forget_requests();
        for _ in 0..10 {
            assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials), "{old:?}");
        }
        assert!(shown(&registry) <= 3, "{old:?}: {}", shown(&registry));
        assert!(subject.metrics.encode().unwrap().contains(&format!("{CREDENTIALS_OK} 0\n")), "{old:?}");
    }
}

/// Whatever the base says, to all or to this user: a password for which something is given is right.
#[tokio::test]
async fn a_403_for_lack_of_rights_is_none_to_the_password() {
    let [basic_403, bearer_403] = forbidding("se:cret");
    for base in [None, Some(When::base()), Some(When::base().authorized())] {
        for auth in [basic_403.clone(), basic_auth("se:cret"), bearer_403.clone()] {
            let registry = registry(auth.clone()).await;
            let directory = TempDir::new().unwrap();
            let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
            assert!(subject.manifest("team/app", "1").await.is_ok(), "{auth:?}");
            registry.fault(When::path_of("/private/"), denied());
            if let Some(base) = &base {
                registry.fault(base.clone(), denied());
            }
            for _ in 0..3 {
                assert_eq!(
                    kind(subject.manifest("private/app", "1").await),
                    Some(ErrorKind::Denied),
                    "{base:?} {auth:?}"
                );
                assert!(subject.manifest("team/app", "1").await.is_ok(), "{base:?} {auth:?}");
            }
            assert_eq!(subject.metric(CREDENTIALS_OK), 1, "{base:?} {auth:?}");
        }
    }
}

/// GHCR says so to a wrong password, others to what is not for the user.
#[tokio::test]
async fn a_realm_that_denies_a_scope_may_know_the_password() {
    let registry = registry(Auth::Bearer(bearer())).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    for _ in 0..3 {
        registry.fault_times(1, When::tokens(), denied());
        assert_eq!(kind(subject.manifest("private/app", "1").await), Some(ErrorKind::Denied));
    }
    let scopes: Vec<_> = asks(&registry).iter().map(|asked| asked.parameter("scope").concat()).collect();
    assert_eq!(scopes, ["repository:private/app:pull", ""].repeat(3));
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
    // A page is no word on the password, nor is an outage.
    let blocked = Fault::Answer { status: 403, headers: vec![], body: "blocked".to_owned() };
    registry.fault(When::tokens(), blocked);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    registry.heal();
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

#[tokio::test]
async fn an_unreachable_base_refuses_no_password() {
    for auth in [basic_auth("se:cret"), forbidding("se:cret")[0].clone()] {
        for outage in [Fault::Disconnect, Fault::status(503), Fault::too_many("5")] {
            let registry = registry(auth.clone()).await;
            let directory = TempDir::new().unwrap();
            let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
            assert!(subject.manifest("team/app", "1").await.is_ok());
            registry.fault(
                When::manifests(),
                if matches!(auth, Auth::Basic { .. }) { Fault::challenge(r#"Basic realm="x""#) } else { denied() },
            );
            registry.fault(When::base(), outage.clone());
            let told = kind(subject.manifest("team/app", "1").await).unwrap();
            assert!(told.is_outage() && told != ErrorKind::OurCredentials, "{told:?} {outage:?} {auth:?}");
            assert_eq!(subject.metric(CREDENTIALS_OK), 1);
            registry.heal();
            assert!(subject.manifest("team/app", "1").await.is_ok(), "{outage:?} {auth:?}");
        }
    }
}

/// What is pushed to is asked what it has, and says that it has not.
#[tokio::test]
async fn what_an_upstream_has_not_is_an_answer_to_the_password() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&Config { push: true, ..with_password(&registry, &directory, "se:cret") });
    let unknown = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    assert_eq!(kind(subject.upstream.head_blob(&name("team/app"), &unknown).await), Some(ErrorKind::NotFound));
    assert_eq!(subject.metric(CREDENTIALS_OK), 1);
    // What answers in its place has not seen the password.
    let other = Subject::new(&with_password(&registry, &directory, "se:cret"));
    registry.fault(When::manifests().authorized(), Fault::status(503));
    assert_eq!(kind(other.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    registry.heal();
    registry.fault(When::manifests().authorized(), Fault::no_backend());
    assert_eq!(kind(other.manifest("team/app", "1").await), Some(ErrorKind::Foreign { status: 404 }));
    assert_eq!(other.metric(CREDENTIALS_OK), 0);
}
