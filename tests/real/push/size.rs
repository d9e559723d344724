//! However large a blob is that is pushed, forebay holds next to nothing of it in memory, whether it is kept on disk or
//! comes too fast for that; and a push that broke is begun again.

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Method, header::LOCATION};
use sha2::{Digest as _, Sha256};

use super::open_mirror;
use forebay_test_support::{
    real::{disk::files, download::client, forebay::Forebay, image::Blob, registry::Registry},
    until::until,
};

const PIECE: usize = 1 << 20;
const PIECES: usize = 2_000;

async fn send(method: Method, url: String, body: impl Into<Body>) -> (u16, Option<String>) {
    let answer = client().request(method, url).body(body).send().await.expect("forebay answers");
    let location = answer.headers().get(LOCATION).map(|value| value.to_str().expect("a Location is text").to_owned());
    (answer.status().as_u16(), location)
}

async fn begin(forebay: &Forebay) -> String {
    let (status, location) = send(Method::POST, forebay.url("/v2/team/app/blobs/uploads/"), "").await;
    assert_eq!(status, 202);
    location.expect("an upload has a place")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gigabytes_pass_through_a_few_megabytes() {
    let registry = Registry::open().await;
    let forebay = open_mirror(&registry).await;
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let place = begin(&forebay).await;
    let before = forebay.peak_memory();
    let body = piece.clone();
    let pieces = stream::iter((0..PIECES).map(move |_| Ok::<_, std::io::Error>(body.clone())));
    let (status, location) = send(Method::PATCH, forebay.url(&place), Body::wrap_stream(pieces)).await;
    assert_eq!(status, 202);
    let mut hasher = Sha256::new();
    (0..PIECES).for_each(|_| hasher.update(&piece));
    let digest = format!("sha256:{}", hex::encode(hasher.finalize()));
    let end = format!("{}&digest={digest}", location.expect("it goes on somewhere"));
    assert_eq!(send(Method::PUT, forebay.url(&end), "").await.0, 201);
    let on_its_way = forebay.cache().join("tmp");
    until("it is kept or given up", async || files(&on_its_way).is_empty().then_some(())).await;
    forebay.assert_stored_blobs_are_right();
    let grown = forebay.peak_memory().saturating_sub(before);
    let kept = if forebay.stored_blobs().is_empty() { "not kept" } else { "kept" };
    println!("{grown} bytes more at its peak, for {} bytes pushed and {kept}", PIECE * PIECES);
    // 22 MiB are on their way, and 32 MiB wait where the disk is slower than the push; the allocator keeps some of what
    // was freed.
    assert!(grown < 96 << 20, "{grown} bytes more at its peak");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_on_when_forebay_was_restarted_between_two_chunks() {
    let registry = Registry::open().await;
    let mut forebay = open_mirror(&registry).await;
    let blob = Blob::random(75, 3_000_000);
    let place = begin(&forebay).await;
    let (status, location) = send(Method::PATCH, forebay.url(&place), blob.bytes.slice(..1_000_000)).await;
    assert_eq!(status, 202);
    forebay.kill();
    forebay.revive().await;
    let place = location.expect("it goes on somewhere");
    let (status, location) = send(Method::PATCH, forebay.url(&place), blob.bytes.slice(1_000_000..)).await;
    assert_eq!(status, 202);
    let end = format!("{}&digest={}", location.expect("it goes on somewhere"), blob.digest);
    assert_eq!(send(Method::PUT, forebay.url(&end), "").await.0, 201);

    // One that is killed in the middle is begun anew, and is then whole.
    let cut = Blob::random(76, 8_000_000);
    let place = begin(&forebay).await;
    let half = stream::iter([Ok(cut.bytes.slice(..4_000_000)), Err(std::io::Error::other("the client is gone"))]);
    let broken = client().patch(forebay.url(&place)).body(Body::wrap_stream(half)).send().await;
    assert!(broken.is_err());
    let place = begin(&forebay).await;
    let (status, location) = send(Method::PATCH, forebay.url(&place), cut.bytes.clone()).await;
    assert_eq!(status, 202);
    let end = format!("{}&digest={}", location.expect("it goes on somewhere"), cut.digest);
    assert_eq!(send(Method::PUT, forebay.url(&end), "").await.0, 201);
    for blob in [&blob, &cut] {
        let got = client().get(forebay.blob_url("team/app", blob)).send().await.expect("forebay answers");
        assert_eq!(got.bytes().await.expect("the whole blob"), blob.bytes);
    }
}
