//! An HTTP client of an upstream: reqwest's, and for bodies of blobs the one that goes before it.

use reqwest::{Client, Response};

use super::{
    blob_client::BlobClient,
    http_request::{HttpRequest, TransportError},
};

/// A client, and the one that goes before it where it can.
#[derive(Clone)]
pub(super) struct HttpClient {
    pub general: Client,
    pub blobs: Option<BlobClient>,
}

impl HttpClient {
    pub(super) async fn send(&self, request: &HttpRequest) -> Result<Response, TransportError> {
        if let Some(blobs) = &self.blobs
            && blobs.takes(request)
        {
            return blobs.send(request).await;
        }
        let HttpRequest { method, url, headers, body } = request;
        let sent = self.general.request(method.clone(), url.clone()).headers(headers.clone());
        let sent = match body {
            Some(body) => sent.body(body.clone()),
            None => sent,
        };
        Ok(sent.send().await?)
    }
}

impl From<Client> for HttpClient {
    fn from(general: Client) -> Self {
        Self { general, blobs: None }
    }
}
