//! URLs that forebay signed a while ago.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use reqwest::StatusCode;

use super::{SIZE, client, location, node, upload};
use forebay_test_support::real::{
    image::Blob,
    registry::Registry,
    seaweedfs::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, SeaweedFs},
};

/// A URL for a GET that was signed so long `ago`, as forebay signs it.
///
/// Source: AWS Signature Version 4, "Authenticating Requests: Using Query Parameters".
fn signed(host: &str, path: &str, ago: Duration) -> String {
    let time = humantime::format_rfc3339_seconds(SystemTime::now() - ago).to_string().replace(['-', ':'], "");
    let day = &time[..8];
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ACCESS_KEY_ID}%2F{}&X-Amz-Date={time}&X-Amz-Expires=1200\
         &X-Amz-SignedHeaders=host",
        scope.replace('/', "%2F")
    );
    let request = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let request = hex::encode(digest::digest(&digest::SHA256, request.as_bytes()));
    let sign =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let mut key = sign(format!("AWS4{SECRET_ACCESS_KEY}").as_bytes(), day);
    for part in ["us-east-1", "s3", "aws4_request"] {
        key = sign(&key, part);
    }
    let signature = hex::encode(sign(&key, &format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}")));
    format!("http://{host}{path}?{query}&X-Amz-Signature={signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_url_is_refused_by_the_store() {
    let (registry, store) = (Registry::open().await, SeaweedFs::start().await);
    let blob = Blob::random(515, SIZE);
    registry.store("library/app", &blob);
    let forebay = node(&registry, store.port, "127.0.0.0/8").await;
    upload(&forebay, &store, "", "library/app", &blob).await;
    let there = location(&client().get(forebay.blob_url("library/app", &blob)).send().await.expect("forebay answers"));
    let names: Vec<String> = there.query_pairs().map(|(name, _)| name.into_owned()).collect();
    let host = format!("localhost:{}", store.port);
    for (ago, expected) in [(0, StatusCode::OK), (1_100, StatusCode::OK), (1_300, StatusCode::FORBIDDEN)] {
        let url = signed(&host, there.path(), Duration::from_secs(ago));
        let parsed: url::Url = url.parse().expect("it is a URL");
        assert!(parsed.query_pairs().all(|(name, _)| names.contains(&name.into_owned())), "{names:?}");
        let answer = client().get(url).send().await.expect("the store answers");
        assert_eq!(answer.status(), expected, "after {ago} s");
    }
}
