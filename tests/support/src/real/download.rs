//! A plain HTTP client that hashes what it gets and tells a whole body from a broken one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Client, Response, StatusCode};
use sha2::{Digest as _, Sha256};

/// How a download ended.
#[derive(Debug)]
pub enum Download {
    /// The body came to its announced end; this is its digest.
    Whole(String),
    /// The answer was not 200.
    Refused(StatusCode),
    /// The connection broke before the end of the body.
    Broken,
}

impl Download {
    pub fn is_whole(&self, digest: &str) -> bool {
        matches!(self, Download::Whole(got) if got == digest)
    }
}

/// A client that trusts no certificate and uses no proxy.
pub fn client() -> Client {
    Client::builder().no_proxy().tls_certs_only([]).build().expect("a client can be built")
}

/// GET, to the end; whatever happens is a value.
pub async fn download(url: &str) -> Download {
    download_counting(url, Arc::default()).await
}

/// As [`download`]; `received` grows as the body comes.
pub async fn download_counting(url: &str, received: Arc<AtomicU64>) -> Download {
    let Ok(answer) = client().get(url).send().await else { return Download::Broken };
    if answer.status() != StatusCode::OK {
        return Download::Refused(answer.status());
    }
    hash(answer, &received).await
}

async fn hash(mut answer: Response, received: &AtomicU64) -> Download {
    let mut hasher = Sha256::new();
    loop {
        match answer.chunk().await {
            Ok(Some(bytes)) => {
                hasher.update(&bytes);
                received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Ok(None) => return Download::Whole(format!("sha256:{}", hex::encode(hasher.finalize()))),
            Err(_) => return Download::Broken,
        }
    }
}
