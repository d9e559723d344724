//! What must be in no object and in no log: private content, unless the operator writes so, and credentials.

use forebay_test_support::real::download::client;
use reqwest::StatusCode;

use super::*;

const USER: &str = "ann";
const PASSWORD: &str = "hers-0f-the-registry";
/// `ann:hers-0f-the-registry`.
const BASIC: &str = "YW5uOmhlcnMtMGYtdGhlLXJlZ2lzdHJ5";

/// A forebay with two upstreams of one registry, which serve with its own credentials and with the client's.
async fn node(registry: &Registry, store: &SeaweedFs, keys: &str) -> Forebay {
    let url = registry.url();
    let upstreams = format!(
        "[[upstream]]\nname = \"shared.example\"\nurls = [{url:?}]\nca = \"ca.crt\"\nusername = {USER:?}\n\
         password_file = \"password\"\n\
         [[upstream]]\nname = \"private.example\"\nurls = [{url:?}]\nca = \"ca.crt\"\naccess = \"client\"\n{keys}\n{}",
        SeaweedFs::section(store.port)
    );
    let ca = registry.authority_pem();
    let [id, secret] = seaweedfs::keys();
    Forebay::start(&upstreams, &[id, secret, ("ca.crt", &ca), ("password", PASSWORD)]).await
}

/// What a client with this password gets.
async fn get(node: &Forebay, upstream: &str, blob: &Blob, password: Option<&str>) -> (StatusCode, bool) {
    let request = client().get(node.blob_url(&format!("{upstream}/team/app"), blob));
    let request = match password {
        Some(password) => request.basic_auth(USER, Some(password)),
        None => request,
    };
    let answer = request.send().await.expect("forebay answers");
    let status = answer.status();
    (status, answer.bytes().await.is_ok_and(|body| body == blob.bytes))
}

async fn assert_no_credentials(node: &Forebay, store: &SeaweedFs) {
    let secrets = [PASSWORD, BASIC, seaweedfs::SECRET_ACCESS_KEY];
    let log = node.log();
    for secret in secrets {
        assert!(!log.contains(secret), "a credential is in the log");
    }
    for object in store.objects().await {
        let content = store.object(&object.name).await.expect("a listed object is there");
        for secret in secrets {
            let is_in = |text: &[u8]| text.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!is_in(&content) && !is_in(object.name.as_bytes()), "a credential is in {}", object.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_content_is_in_no_object_unless_it_is_configured() {
    let (registry, store) = (Registry::with_password(USER, PASSWORD).await, SeaweedFs::start().await);
    let (shared, private) = (Blob::random(500, 300_000), Blob::random(501, 300_000));
    for blob in [&shared, &private] {
        registry.store("team/app", blob);
    }
    let node_without = node(&registry, &store, "").await;
    assert_eq!(get(&node_without, "private.example", &private, Some(PASSWORD)).await, (StatusCode::OK, true));
    assert_eq!(get(&node_without, "shared.example", &shared, None).await, (StatusCode::OK, true));
    until_uploaded(&store, &shared).await;
    let named: Vec<String> = store.objects().await.into_iter().map(|object| object.name).collect();
    assert_eq!(named, [name_of(&shared)]);
    assert_no_credentials(&node_without, &store).await;

    // Now the operator writes so: below a prefix of its own, and each client is still proved.
    let mut node = node(&registry, &store, "store = true").await;
    assert_eq!(get(&node, "private.example", &private, Some(PASSWORD)).await, (StatusCode::OK, true));
    let name = format!("clients/{}", name_of(&private));
    until("it is in the store", async || store.has(&name).await).await;
    let sent = registry.gets_of(&private);
    wipe(&mut node).await;
    for wrong in [None, Some("a guess")] {
        let (status, is_whole) = get(&node, "private.example", &private, wrong).await;
        assert!(status == StatusCode::UNAUTHORIZED && !is_whole, "{wrong:?}: {status}");
    }
    assert_eq!(get(&node, "private.example", &private, Some(PASSWORD)).await, (StatusCode::OK, true));
    assert_eq!(registry.gets_of(&private), sent, "the bytes came from the store");
    // The other pool has not got it.
    let (status, _) = get(&node, "shared.example", &private, None).await;
    assert_eq!(status, StatusCode::OK);
    until("the registry has sent it for the others", async || registry.gets_of(&private) == sent + 1).await;
    assert_no_credentials(&node, &store).await;
}
