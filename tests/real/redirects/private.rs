//! Private content in the store: a URL is for the client whom the registry grants the blob, and for a minute.

use reqwest::StatusCode;

use super::{client, follower, gets_of, location, redirects, section};
use forebay_test_support::{
    real::{
        forebay::Forebay,
        image::{Blob, Format, Image},
        podman::Podman,
        push::{Login, Pusher},
        registry::Registry,
        seaweedfs::{self, SeaweedFs},
        token_server::{TokenServer, User},
    },
    until::until,
};

const ANN: User = User { name: "ann", password: "hers: a colon, spaces", repositories: &["ann/app"] };
const BOB: User = User { name: "bob", password: "his", repositories: &["bob/app"] };

async fn get(forebay: &Forebay, user: Option<&User>, repository: &str, blob: &Blob) -> reqwest::Response {
    let request = client().get(forebay.blob_url(repository, blob));
    let request = match user {
        Some(user) => request.basic_auth(user.name, Some(user.password)),
        None => request,
    };
    request.send().await.expect("forebay answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_no_url_for_what_is_another_ones() {
    let tokens = TokenServer::of(&[ANN, BOB]).await;
    let (registry, store) = (Registry::with_tokens(&tokens).await, SeaweedFs::start().await);
    let image = Image::new(Format::Oci, 580, &[3_000_000]);
    let config = format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\npush = true\n\
         store = true\nredirect = true\n{}",
        registry.url(),
        section(store.port, "127.0.0.0/8"),
    );
    let forebay = Forebay::start(&config, &seaweedfs::keys()).await;
    let login = Login::Basic(ANN.name.to_owned(), ANN.password.to_owned());
    Pusher::new(forebay.url(""), None, login).image("ann/app", "1", &image).await;
    let layer = &image.layers[0];
    let object = format!("clients/blobs/sha256/{}/{}", &layer.hex()[..2], layer.hex());
    until("the layer is in the store", async || store.has(&object).await).await;
    until("forebay knows", async || forebay.metric("forebay_store_upload_queue", &[]).await == 0.0).await;

    let there = location(&get(&forebay, Some(&ANN), "ann/app", layer).await);
    assert!(there.query_pairs().any(|pair| pair == ("X-Amz-Expires".into(), "60".into())), "{there}");
    assert!(there.path().ends_with(&object), "{there}");
    let content = client().get(there).send().await.expect("the store answers");
    assert_eq!(content.bytes().await.expect("it is whole"), layer.bytes);
    for (user, repository, status) in [
        (Some(&BOB), "ann/app", StatusCode::UNAUTHORIZED),
        (Some(&BOB), "bob/app", StatusCode::NOT_FOUND),
        (None, "ann/app", StatusCode::UNAUTHORIZED),
    ] {
        let refused = get(&forebay, user, repository, layer).await;
        assert!(refused.headers().get("location").is_none(), "{refused:?}");
        assert_eq!(refused.status(), status, "{repository}");
    }
    assert_eq!(redirects(&forebay).await, 1.0);
    // Her credentials stay behind.
    let served = follower()
        .get(forebay.blob_url("ann/app", layer))
        .header("range", "bytes=0-9")
        .basic_auth(ANN.name, Some(ANN.password))
        .send()
        .await
        .expect("the store answers");
    assert_eq!(served.bytes().await.expect("it is whole"), layer.bytes[..10]);
    assert_eq!(gets_of(&forebay, layer).last().expect("a line")["outcome"], "redirected");

    let (user, name) = (Podman::new(""), format!("docker://127.0.0.1:{}/ann/app:1", forebay.port));
    let (credentials, folder) = (format!("{}:{}", ANN.name, ANN.password), user.place("copied"));
    let to = format!("dir:{}", folder.display());
    user.skopeo(&["copy", "--src-tls-verify=false", "--src-creds", &credentials, &name, &to]).await.ok();
    assert_eq!(std::fs::read(folder.join(layer.hex())).expect("the layer was copied"), layer.bytes);
    for secret in ["X-Amz-Signature", ANN.password, seaweedfs::SECRET_ACCESS_KEY] {
        assert!(!forebay.log().contains(secret), "{secret} is in the log");
    }
}

/// Clients in Go would send their credentials along.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_the_host_of_the_store_stay_here() {
    let tokens = TokenServer::of(&[ANN]).await;
    let (registry, store) = (Registry::with_tokens(&tokens).await, SeaweedFs::start().await);
    let image = Image::new(Format::Oci, 590, &[3_000_000]);
    registry.pusher().image("ann/app", "1", &image).await;
    let config = format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n\
         store = true\nredirect = true\n{}redirect_clients = [\"127.0.0.1\"]\n",
        registry.url(),
        SeaweedFs::section(store.port),
    );
    let forebay = Forebay::start(&config, &seaweedfs::keys()).await;
    let layer = &image.layers[0];
    let object = format!("clients/blobs/sha256/{}/{}", &layer.hex()[..2], layer.hex());
    for _ in 0..3 {
        let served = get(&forebay, Some(&ANN), "ann/app", layer).await;
        assert_eq!(
            (served.status(), served.bytes().await.expect("it is whole")),
            (StatusCode::OK, layer.bytes.clone())
        );
        until("the layer is in the store", async || store.has(&object).await).await;
    }
    assert_eq!(redirects(&forebay).await, 0.0);
    // By a name that is not the store's, the same client is sent there.
    let named = forebay.blob_url("ann/app", layer).replace("127.0.0.1", "localhost");
    let sent = client().get(named).basic_auth(ANN.name, Some(ANN.password)).send().await.expect("forebay answers");
    assert_eq!(sent.status(), StatusCode::TEMPORARY_REDIRECT);
}
