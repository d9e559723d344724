//! When forebay sends the password of a client.

use super::*;

/// A registry that knows nothing but Basic, such as docker-registry with htpasswd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_wants_passwords_gets_the_clients() {
    let world = World::new().await;
    world.registry.require(Auth::Basic { username: ANN.0.to_owned(), password: ANN.1.to_owned() });
    let mirror = world.mirror("").start().await;
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(mirror.get(&path).await.status, 401, "{path}");
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "{path}");
        assert_eq!(get_as(&mirror, BOB, &path).await.status, 401, "{path}");
        assert_eq!(get_as(&mirror, (ANN.0, "wrong"), &path).await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_taken_goes_at_once_and_only_once() {
    let world = World::new().await;
    let basic = |password: &str| Auth::Basic { username: ANN.0.to_owned(), password: password.to_owned() };
    world.registry.require(basic(ANN.1));
    let mirror = world.mirror("access_ttl = \"0s\"").start().await;
    assert_eq!(get_as(&mirror, ANN, "/v2/team/a/manifests/1").await.status, 200);
    for (password, status) in [(ANN.1, 200), ("a new one", 401)] {
        world.registry.require(basic(password));
        world.registry.forget_requests();
        assert_eq!(get_as(&mirror, ANN, "/v2/team/a/manifests/1").await.status, status);
        // A GET fetches the message of the refusal.
        let asked: Vec<_> = world.registry.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(asked, if status == 401 { vec![Method::HEAD, Method::GET] } else { vec![Method::HEAD] });
        assert!(world.registry.requests().iter().all(|request| request.header("authorization").is_some()));
    }
}

/// Some registries say so to a client that shows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_goes_with_what_is_refused_by_403_or_404() {
    for status in [403, 404] {
        let world = World::new().await;
        world.registry.require(Auth::Basic { username: ANN.0.to_owned(), password: ANN.1.to_owned() });
        let mirror = world.mirror("").start().await;
        assert_eq!(get_as(&mirror, (ANN.0, "wrong"), "/v2/team/a/manifests/1").await.status, 401);
        world.registry.fault_times(1, When::manifests(), Fault::Code(status));
        assert_eq!(get_as(&mirror, ANN, "/v2/team/a/manifests/1").await.status, 200, "{status}");
    }
}

/// That a realm refuses one client says nothing of how the registry is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_refusal_costs_no_other_client_a_challenge() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"").start().await;
    assert_eq!(get_as(&mirror, ANN, "/v2/team/a/manifests/1").await.status, 200);
    assert_eq!(get_as(&mirror, (ANN.0, "wrong"), "/v2/team/a/manifests/1").await.status, 401);
    world.registry.forget_requests();
    assert_eq!(get_as(&mirror, ANN, "/v2/team/a/manifests/1").await.status, 200);
    let challenged = |request: &forebay_test_support::fake_registry::Record| {
        request.server == Server::Api && request.header("authorization").is_none()
    };
    assert_eq!(world.registry.count(challenged), 0);
}
