//! Putting blobs, images and indexes into a registry, by the OCI distribution specification (end-4b, end-6, end-7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};

use super::{
    image::{Blob, Document, Image, Index, Referrer},
    token_server::Minter,
};

/// How the registry wants to be addressed.
#[derive(Clone)]
pub enum Login {
    None,
    Basic(String, String),
    Token(Minter),
}

/// A client that may push.
pub struct Pusher {
    client: Client,
    url: String,
    login: Login,
}

impl Pusher {
    /// For the registry at `url`, whose certificate is signed by `authority`.
    pub fn new(url: String, authority: Option<String>, login: Login) -> Pusher {
        let roots = authority.map(|pem| Certificate::from_pem(pem.as_bytes()).expect("the test's authority is good"));
        let client = Client::builder().no_proxy().tls_certs_only(roots).build().expect("a client can be built");
        Pusher { client, url, login }
    }

    pub async fn blob(&self, repository: &str, blob: &Blob) {
        let url = format!("{}/v2/{repository}/blobs/uploads/", self.url);
        let answer = self.send(repository, self.client.post(&url), StatusCode::ACCEPTED).await;
        let location = answer.headers()[LOCATION].to_str().expect("a Location is text");
        let upload = answer.url().join(location).expect("a Location is a URL");
        let put = self.client.put(upload).query(&[("digest", &blob.digest)]);
        let put = put.header(CONTENT_TYPE, "application/octet-stream").body(blob.bytes.clone());
        self.send(repository, put, StatusCode::CREATED).await;
    }

    pub async fn image(&self, repository: &str, tag: &str, image: &Image) {
        self.blobs(repository, image).await;
        self.document(repository, tag, &image.manifest).await;
    }

    pub async fn index(&self, repository: &str, tag: &str, index: &Index) {
        for image in &index.images {
            self.blobs(repository, image).await;
            self.document(repository, &image.manifest.blob.digest, &image.manifest).await;
        }
        self.document(repository, tag, &index.index).await;
    }

    /// What it refers to must be there.
    pub async fn referrer(&self, repository: &str, referrer: &Referrer) {
        self.blob(repository, &referrer.config).await;
        self.blob(repository, &referrer.content).await;
        self.document(repository, &referrer.manifest.blob.digest, &referrer.manifest).await;
        self.document(repository, &referrer.tag, &referrer.index).await;
    }

    async fn blobs(&self, repository: &str, image: &Image) {
        for blob in image.layers.iter().chain([&image.config]) {
            self.blob(repository, blob).await;
        }
    }

    async fn document(&self, repository: &str, reference: &str, document: &Document) {
        let url = format!("{}/v2/{repository}/manifests/{reference}", self.url);
        let put = self.client.put(url).header(CONTENT_TYPE, document.media_type);
        self.send(repository, put.body(document.blob.bytes.clone()), StatusCode::CREATED).await;
    }

    async fn send(&self, repository: &str, request: RequestBuilder, wanted: StatusCode) -> reqwest::Response {
        let request = match self.authorization(repository) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        let answer = request.send().await.expect("the registry answers");
        let status = answer.status();
        if status != wanted {
            panic!("{} answered {status}, not {wanted}: {}", self.url, answer.text().await.unwrap_or_default());
        }
        answer
    }

    fn authorization(&self, repository: &str) -> Option<HeaderValue> {
        let text = match &self.login {
            Login::None => return None,
            Login::Basic(user, password) => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            Login::Token(minter) => format!("Bearer {}", minter.mint(repository, &["pull", "push"])),
        };
        Some(HeaderValue::from_str(&text).expect("a login is visible ASCII"))
    }
}
