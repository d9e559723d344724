//! A refused password: how often it is sent again.

use super::*;

#[tokio::test]
async fn a_refused_password_is_not_shown_for_every_request() {
    let [basic_403, bearer_403] = forbidding("se:cret");
    for auth in [Auth::Bearer(bearer()), basic_auth("se:cret"), basic_403, bearer_403] {
        let registry = registry(auth.clone()).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
        let repositories: Vec<String> = (0..40).map(|number| format!("team/app{number}")).collect();
        let at_once = repositories.iter().map(|repository| subject.manifest(repository, "1"));
        for refused in futures_util::future::join_all(at_once).await {
            assert_eq!(kind(refused), Some(ErrorKind::OurCredentials), "{auth:?}");
        }
        for repository in &repositories {
            assert_eq!(kind(subject.manifest(repository, "1").await), Some(ErrorKind::OurCredentials), "{auth:?}");
        }
        // It may be about the request: the base, or the realm, is asked about the password.
        assert_eq!(shown(&registry), 2, "{auth:?}");
        assert!(subject.metrics.encode().unwrap().contains(&format!("{CREDENTIALS_OK} 0\n")), "{auth:?}");
        assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1, "it answers");
        // Another one is shown at once, and only it.
        file(&directory, "se:cret");
        registry.forget_requests();
        assert!(subject.manifest("team/app", "1").await.is_ok(), "{auth:?}");
        assert_eq!(subject.metric(CREDENTIALS_OK), 1);
        assert!(
            registry
                .requests()
                .iter()
                .filter(|request| has_credentials(request))
                .all(|request| { request.header("authorization") != Some(&basic("me", "wrong")) })
        );
    }
}

#[tokio::test]
async fn a_password_that_was_taken_and_then_refused_is_shown_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.require(basic_auth("new"));
    registry.forget_requests();
    for _ in 0..20 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
    }
    // The base was asked whether it still takes it.
    assert_eq!(shown(&registry), 2);
    // The pause is over: the same once more, and no more than that.
    pass(11).await;
    for _ in 0..20 {
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials));
    }
    assert_eq!(shown(&registry), 4);
    registry.require(basic_auth("se:cret"));
    pass(11).await;
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::OurCredentials), "it grows");
    pass(11).await;
    assert!(subject.manifest("team/app", "1").await.is_ok());
}

/// LDAP behind a realm may take its time, and locks an account after a few wrong passwords.
#[tokio::test]
async fn a_password_that_is_refused_slowly_is_shown_once() {
    for (auth, when) in [(Auth::Bearer(bearer()), When::tokens()), (basic_auth("se:cret"), When::any().authorized())] {
        let registry = registry(auth.clone()).await;
        let directory = TempDir::new().unwrap();
        let subject = Subject::new(&with_password(&registry, &directory, "wrong"));
        for (round, at_the_gate) in [(1, 0), (2, 39)] {
            let gate = Gate::new();
            registry.heal();
            registry.fault(when.clone(), Fault::HoldHead(gate.clone()));
            let mut asking = at_once(&subject, 40);
            gate.reached().await;
            pass(3).await;
            // Where it was refused before, what it was told is told meanwhile.
            for _ in 0..at_the_gate {
                assert_eq!(asking.join_next().await.unwrap().unwrap(), Some(ErrorKind::OurCredentials), "{auth:?}");
            }
            assert_eq!(shown(&registry), 2 * round - 1, "{auth:?}");
            gate.open();
            for told in asking.join_all().await {
                assert_eq!(told, Some(ErrorKind::OurCredentials), "{auth:?}");
            }
            // The base, or the realm without a scope, has said so, too.
            assert_eq!(shown(&registry), 2 * round, "{auth:?}");
            pass(11).await;
        }
    }
}

/// Those that waited for the verdict do not go one after the other.
#[tokio::test]
async fn once_a_password_is_taken_all_go_on_at_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    let (first, rest) = (Gate::new(), Gate::new());
    registry.fault_times(1, When::manifests().authorized(), Fault::HoldHead(first.clone()));
    let mut asking = at_once(&subject, 1);
    first.reached().await;
    registry.fault(When::manifests().authorized(), Fault::HoldHead(rest.clone()));
    let waiting = at_once(&subject, 10);
    first.open();
    assert_eq!(asking.join_next().await.unwrap().unwrap(), Some(ErrorKind::NotFound));
    rest.reached_by(10).await;
    rest.open();
    assert!(waiting.join_all().await.iter().all(|told| *told == Some(ErrorKind::NotFound)));
}

#[tokio::test]
async fn a_changed_password_that_is_wrong_is_shown_once() {
    let registry = registry(basic_auth("se:cret")).await;
    let directory = TempDir::new().unwrap();
    let subject = Subject::new(&with_password(&registry, &directory, "se:cret"));
    assert!(subject.manifest("team/app", "1").await.is_ok());
    registry.require(basic_auth("new"));
    file(&directory, "wrong");
    registry.forget_requests();
    for told in at_once(&subject, 40).join_all().await {
        assert_eq!(told, Some(ErrorKind::OurCredentials));
    }
    // Of those that were on their way with the old one, one asks the base, as does the first with the new one.
    assert_eq!(registry.count(|request| request.path == "/v2/"), 2);
    let changed = basic("me", "wrong");
    assert_eq!(registry.count(|request| request.header("authorization") == Some(&changed)), 2);
}
