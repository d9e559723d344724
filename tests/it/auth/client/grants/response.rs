//! Which responses of an upstream are a grant.

use super::*;

/// Some know only GET; some say 404 to a HEAD of what they would first have to fetch themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_answers_no_head_proves_a_right_by_get() {
    for status in [404, 405] {
        let world = World::new().await;
        world.registry.fault(When::manifests().authorized().method(Method::HEAD), Fault::Code(status));
        let mirror = world.mirror("").start().await;
        for who in [ANN, BOB] {
            let expected = if who == ANN { 200 } else { 401 };
            assert_eq!(get_as(&mirror, who, "/v2/team/a/manifests/1").await.status, expected, "{status} {who:?}");
        }
    }
}

/// A proxy with a single sign-on answers a client that it refuses with 200 and a document of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_200_about_something_else_is_no_right() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    for path in World::pull("team/a", &world.of_ann) {
        assert_eq!(get_as(&mirror, ANN, &path).await.status, 200, "{path}");
    }
    let login = r#"{"login":"https://sso.example/"}"#.to_owned();
    let json = vec![("content-type", "application/json".to_owned())];
    let same_length = "x".repeat(SECRET.len());
    let another = r#"{"schemaVersion":2,"manifests":[]}"#;
    for (status, headers, body) in [
        (200, json.clone(), login.clone()),
        (200, vec![], login.clone()),
        (200, vec![], String::new()),
        (200, vec![("content-type", "application/octet-stream".to_owned())], same_length),
        (200, json, another.to_owned()),
        (200, vec![("docker-content-digest", world.of_bob.manifest.to_string())], login.clone()),
        (204, vec![], String::new()),
        (206, vec![], login),
    ] {
        world.registry.heal();
        let answer = Fault::Answer { status, headers: headers.clone(), body: body.clone() };
        world.registry.fault(When::manifests(), answer.clone());
        world.registry.fault(When::blobs(), answer);
        let mut paths = World::pull("team/a", &world.of_ann);
        // By its tag, another manifest than the cached one is one.
        if body == another || headers.iter().any(|(name, _)| *name == "docker-content-digest") {
            paths.remove(0);
        }
        for path in paths {
            for method in [Method::GET, Method::HEAD] {
                let refused = request_as(&mirror, BOB, method, &path).await;
                assert_eq!(refused.status, 502, "{status} {body}: {path}");
                assert_eq!(refused.header("docker-content-digest"), None);
            }
        }
        assert_eq!(get_as(&mirror, ANN, &layer("team/a", &world.of_ann)).await.status, 200, "her right stays");
    }
    // Nothing of it was noted.
    world.registry.heal();
    assert_eq!(get_as(&mirror, BOB, &layer("team/a", &world.of_ann)).await.status, 401);
}

/// A registry behind a content network tells no digest of a blob, and a client may have it already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_without_a_digest_is_taken_by_its_content() {
    let world = World::new().await;
    let (large, longest) = (vec![7; 100_000], vec![7; 64 * 1024]);
    // Of the large one nothing is told before its size is known to be that of the proof.
    let statuses = [200, 304, 304];
    let image = world.registry.add_image("team/a", "2", &[&large, &longest, b"small"]);
    let mirror = world.mirror("").start().await;
    for ((digest, content), status) in image.layers.iter().zip([&*large, &longest, b"small"]).zip(statuses) {
        let path = format!("/v2/team/a/blobs/{digest}");
        world.registry.fault(When::blob(digest), Fault::Header("docker-content-digest", None));
        let ann = basic(ANN.0, ANN.1);
        let known = format!("\"{digest}\"");
        let unchanged = mirror.get_with(&path, &[("authorization", &ann), ("if-none-match", &known)]).await;
        assert_eq!(unchanged.status, status, "{path}");
        for _ in 0..2 {
            let answer = get_as(&mirror, ANN, &path).await;
            assert_eq!((answer.status, &*answer.body), (200, content), "{path}");
        }
    }
}

/// A proxy answers a client that it refuses with 200 and a document, which is large, of another size than the blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_blob_of_another_size_nothing_is_told() {
    let world = World::new().await;
    let digest = world.registry.add_blob("team/a", vec![7; 100_000]);
    let mirror = world.mirror("").config(|config| config.cache.negative_ttl = Duration::ZERO).start().await;
    world.registry.fault(
        When::blob(&digest).method(Method::HEAD),
        Fault::Answer { status: 200, headers: vec![], body: "x".repeat(70_000) },
    );
    let (path, ann, etag) = (format!("/v2/team/a/blobs/{digest}"), basic(ANN.0, ANN.1), format!("\"{digest}\""));
    for (name, value) in
        [("range", "bytes=200000-"), ("range", "bytes=0-9"), ("if-none-match", &*etag), ("accept", "*/*")]
    {
        let answer = mirror.get_with(&path, &[("authorization", &ann), (name, value)]).await;
        assert_eq!(answer.status, 502, "{name}: {value}");
        for header in ["etag", "content-range", "docker-content-digest"] {
            assert_eq!(answer.header(header), None, "{name}: {value}");
        }
    }
}
