//! What bob may try to get what is ann's.

use super::*;
use forebay_test_support::{
    fake_registry::{Fault, Gate, Record, When},
    raw::Raw,
};

/// Both upstreams lead to registries that bob may use; what ann pulled is cached.
struct Case {
    world: World,
    mirror: Mirror,
    _hub: FakeRegistry,
}

impl Case {
    async fn new() -> Self {
        let (world, hub) = (World::new().await, FakeRegistry::start().await);
        hub.add_image("library/app", "1", &[b"layer"]);
        let mirror = Mirror::parse(&format!(
            "[[upstream]]\nname = \"hub.example\"\nurls = [\"{}\"]\npush = true\n\
             [[upstream]]\nname = \"other.example\"\nurls = [\"{}\"]\naccess = \"client\"\n\
             [[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\npush = true\n",
            hub.url(),
            hub.url(),
            world.registry.url()
        ))
        .start()
        .await;
        for path in World::pull("team/a", &world.of_ann) {
            assert_eq!(get_as(&mirror, ANN, &path).await.status, 200);
            assert_eq!(request_as(&mirror, ANN, Method::HEAD, &path).await.status, 200);
        }
        // Bob has a grant for his own repository.
        for path in World::pull("team/b", &world.of_bob).into_iter().chain(World::pull("team/open", &world.open)) {
            assert_eq!(get_as(&mirror, BOB, &path).await.status, 200);
        }
        Self { world, mirror, _hub: hub }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_of_these_gets_anything_of_anns() {
    let case = Case::new().await;
    let image = &case.world.of_ann;
    let (layer, config, manifest) = (&image.layers[0], &image.config, &image.manifest);
    let etag = format!("\"{layer}\"");
    let bob = basic(BOB.0, BOB.1);
    let as_bob: &[(&str, &str)] = &[("authorization", &bob)];
    let range: &[(&str, &str)] = &[("authorization", &bob), ("range", "bytes=0-9")];
    let several: &[(&str, &str)] = &[("authorization", &bob), ("range", "bytes=0-9,20-29")];
    let last: &[(&str, &str)] = &[("authorization", &bob), ("range", "bytes=-5")];
    let known: &[(&str, &str)] = &[("authorization", &bob), ("if-none-match", &etag)];
    let star: &[(&str, &str)] = &[("authorization", &bob), ("if-none-match", "*")];
    let index: &[(&str, &str)] = &[("authorization", &bob), ("accept", "application/vnd.oci.image.index.v1+json")];
    let (wrong, stolen) = (basic("ann", BOB.1), basic("ann", ""));
    let (wrong, stolen) = ([("authorization", &*wrong)], [("authorization", &*stolen)]);
    let token: &[(&str, &str)] = &[("authorization", "Bearer token-1")];
    let (get, head, post) = (Method::GET, Method::HEAD, Method::POST);
    let tries = [
        (&get, "/v2/team/a/manifests/1".to_owned(), as_bob),
        (&head, "/v2/team/a/manifests/1".to_owned(), as_bob),
        (&get, format!("/v2/team/a/manifests/{manifest}"), as_bob),
        (&head, format!("/v2/team/a/manifests/{manifest}"), as_bob),
        (&get, format!("/v2/team/a/blobs/{layer}"), as_bob),
        (&head, format!("/v2/team/a/blobs/{layer}"), as_bob),
        (&get, format!("/v2/team/a/blobs/{config}"), as_bob),
        (&get, format!("/v2/team/a/blobs/{layer}"), range),
        (&get, format!("/v2/team/b/blobs/{layer}"), as_bob),
        (&head, format!("/v2/team/b/blobs/{layer}"), as_bob),
        (&get, format!("/v2/team/b/blobs/{layer}"), range),
        (&get, format!("/v2/team/a/blobs/{layer}"), several),
        (&get, format!("/v2/team/b/blobs/{layer}"), several),
        (&get, format!("/v2/team/b/blobs/{layer}"), last),
        (&get, format!("/v2/team/b/blobs/{layer}"), known),
        (&get, format!("/v2/team/a/blobs/{layer}"), known),
        (&head, format!("/v2/team/a/blobs/{layer}"), star),
        (&get, format!("/v2/team/a/manifests/{manifest}"), star),
        (&get, format!("/v2/team/b/manifests/{manifest}"), as_bob),
        (&head, format!("/v2/team/b/manifests/{manifest}"), as_bob),
        (&get, format!("/v2/team/b/blobs/{manifest}"), as_bob),
        (&get, format!("/v2/team/b/manifests/{config}"), as_bob),
        (&get, "/v2/team/a/manifests/1".to_owned(), index),
        (&get, format!("/v2/team/open/blobs/{layer}"), as_bob),
        (&get, format!("/v2/team/open/blobs/{layer}"), &[]),
        (&get, format!("/v2/team/open/manifests/{manifest}"), &[]),
        (&get, format!("/v2/hub.example/library/app/blobs/{layer}"), &[]),
        (&head, format!("/v2/hub.example/library/app/blobs/{layer}"), &[]),
        (&get, format!("/v2/hub.example/library/app/manifests/{manifest}"), &[]),
        (&get, format!("/v2/library/app/blobs/{layer}?ns=hub.example"), range[1..].as_ref()),
        (&get, format!("/v2/other.example/library/app/blobs/{layer}"), as_bob),
        (&get, format!("/v2/other.example/library/app/manifests/{manifest}"), as_bob),
        (&get, format!("/v2/private.example/team/a/blobs/{layer}?ns=private.example"), as_bob),
        (&get, format!("/v2/team/a/blobs/{layer}"), &[]),
        (&get, format!("/v2/team/a/blobs/{layer}"), &wrong),
        (&get, format!("/v2/team/a/blobs/{layer}"), &stolen),
        (&get, format!("/v2/team/a/blobs/{layer}"), token),
        (&get, "/v2/team/a/tags/list".to_owned(), as_bob),
        (&get, format!("/v2/team/a/referrers/{manifest}"), as_bob),
        (&post, format!("/v2/team/b/blobs/uploads/?mount={layer}&from=team/a"), as_bob),
        (&post, format!("/v2/hub.example/library/app/blobs/uploads/?mount={layer}&from=private.example/team/a"), &[]),
    ];
    assert!(tries.len() >= 20);
    for (method, path, headers) in tries {
        let answer = case.mirror.request(method.clone(), &path, headers).await;
        let begun_instead = *method == post && answer.status == 202;
        assert!(matches!(answer.status, 401 | 403 | 404) || begun_instead, "{method} {path}: {}", answer.status);
        let shown = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
        assert!(!shown.contains("what only ann"), "{method} {path}: {shown}");
        for header in ["etag", "docker-content-digest", "content-range", "accept-ranges"] {
            assert_eq!(answer.header(header), None, "{method} {path} {headers:?}");
        }
    }
    // Whether a name exists makes no difference.
    let exists = case.mirror.get_with("/v2/team/a/manifests/1", as_bob).await;
    for path in ["/v2/team/a/manifests/2", "/v2/team/none/manifests/1"] {
        let answer = case.mirror.get_with(path, as_bob).await;
        assert_eq!((answer.status, answer.text()), (exists.status, exists.text()), "{path}");
    }
}

/// The blob is on its way for her when he asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clients_with_a_grant_join_a_download() {
    let world = World::new().await;
    let mirror = world.mirror("").config(|config| config.cache.negative_ttl = std::time::Duration::ZERO).start().await;
    let large: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    let digest = world.registry.add_blob("team/a", large.clone());
    let gate = Gate::new();
    world.registry.fault_times(
        1,
        When::blob(&digest).method(Method::GET),
        Fault::HoldBody { at: 500_000, gate: gate.clone() },
    );
    let path = format!("/v2/team/a/blobs/{digest}");
    let ann = basic(ANN.0, ANN.1);
    let mut hers = Raw::get(mirror.address(), &path, &[("authorization", &ann)]).await;
    hers.read(100_000).await;
    for path in [path.clone(), format!("/v2/team/b/blobs/{digest}"), format!("/v2/team/open/blobs/{digest}")] {
        for range in ["bytes=0-99", "bytes=900000-"] {
            let bob = basic(BOB.0, BOB.1);
            let answer = mirror.get_with(&path, &[("authorization", &bob), ("range", range)]).await;
            assert!(matches!(answer.status, 401 | 404), "{path}: {}", answer.status);
        }
        assert!(matches!(get_as(&mirror, BOB, &path).await.status, 401 | 404), "{path}");
        assert!(matches!(request_as(&mirror, BOB, Method::HEAD, &path).await.status, 401 | 404), "{path}");
    }
    // A client with a grant joins.
    world
        .registry
        .require(Auth::Bearer(Bearer { rights: vec![("bob", "team/a"), ("ann", "team/a")], ..World::rules() }));
    let bob = basic(BOB.0, BOB.1);
    let mut his = Raw::get(mirror.address(), &path, &[("authorization", &bob)]).await;
    his.read(100_000).await;
    gate.open();
    assert!(hers.rest().await.bytes() == large && his.rest().await.bytes() == large);
    let whole = |request: &Record| request.is_blob_get(&digest) && request.header("range").is_none();
    assert_eq!(world.registry.count(whole), 1);
}

/// A manifest of one's own may list what is another's; that does not make it one's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_list_a_digest_is_not_to_have_it() {
    let case = Case::new().await;
    let layer = &case.world.of_ann.layers[0];
    let size = SECRET.len();
    let forged = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{size}}}]}}"#,
        case.world.of_bob.config
    );
    let digest = case.world.registry.add_manifest("team/b", "application/vnd.oci.image.manifest.v1+json", forged);
    case.world.registry.tag("team/b", "forged", &digest);
    for path in ["/v2/team/b/manifests/forged".to_owned(), format!("/v2/team/b/blobs/{}", case.world.of_bob.config)] {
        assert_eq!(get_as(&case.mirror, BOB, &path).await.status, 200);
    }
    assert_eq!(get_as(&case.mirror, BOB, &format!("/v2/team/b/blobs/{layer}")).await.status, 404);
}

/// Each time the upstream says to her, by a HEAD, how long the blob is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_parts_are_given_to_whom_the_whole_is() {
    let world = World::new().await;
    let mirror = world.mirror("access_ttl = \"0s\"").start().await;
    let large: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    let digest = world.registry.add_blob("team/a", large);
    let no_digest = Fault::Header("docker-content-digest", None);
    world.registry.fault(When::blob(&digest).method(Method::HEAD), no_digest);
    let path = format!("/v2/team/a/blobs/{digest}");
    let ann = basic(ANN.0, ANN.1);
    for round in 0..3 {
        let headers = [("authorization", &*ann), ("range", "bytes=0-9,500000-500009,-10")];
        let answer = mirror.get_with(&path, &headers).await;
        assert_eq!(answer.status, 206, "{round}");
        assert!(answer.header("content-type").unwrap().starts_with("multipart/byteranges"), "{round}");
        let text = String::from_utf8_lossy(&answer.body);
        for range in ["0-9", "500000-500009", "999990-999999"] {
            assert!(text.contains(&format!("Content-Range: bytes {range}/1000000\r\n")), "{round}: {text}");
        }
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
}

/// While ann's next question hangs, bob's goes at once: the limit is hers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_had_enough_of_one_client_serves_another() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let (of_ann, of_bob) = (layer("team/a", &world.of_ann), layer("team/b", &world.of_bob));
    world.registry.fault_times(1, When::tokens(), Fault::too_many("600"));
    assert_eq!(get_as(&mirror, ANN, &of_ann).await.status, 429);
    let gate = Gate::new();
    world.registry.fault_times(1, When::tokens(), Fault::HoldHead(gate.clone()));
    let meanwhile = async {
        gate.reached().await;
        let status = get_as(&mirror, BOB, &of_bob).await.status;
        gate.open();
        status
    };
    let (ann, bob) = tokio::join!(get_as(&mirror, ANN, &of_ann), meanwhile);
    assert_eq!((ann.status, bob), (200, 200));
}
