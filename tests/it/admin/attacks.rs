//! Attacks on the control API: what pages of other sites, other machines, hostile names and greedy clients get of it.
//!
//! [`endpoints`] has a row for each endpoint, and the attacks go through all rows.

mod access;
mod bodies;
mod endpoints;
mod messages;
mod names;
mod private;
mod streams;

use std::net::SocketAddr;

use forebay_test_support::{
    fake_registry::{FakeRegistry, Image},
    manifest::manifest,
    mirror::{Answer, Mirror},
    until::until,
    wire,
};
use serde_json::{Value, json};

use super::control::ask;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const BEARER: (&str, &str) = ("authorization", "Bearer 0123456789abcdef0123456789abcdef");

/// A mirror with an image, and the registry that the image came from.
struct World {
    registry: FakeRegistry,
    mirror: Mirror,
    image: Image,
}

impl World {
    /// Without a token: clients of this machine may read.
    async fn open() -> Self {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"a layer"]);
        let mirror = Mirror::of(&registry).await;
        let this = Self { registry, mirror, image };
        this.pull().await;
        this
    }

    /// With [`TOKEN`].
    async fn with_token() -> Self {
        let mut this = Self::open().await;
        this.mirror.restart_with_token(TOKEN).await;
        this.pull().await;
        this
    }

    async fn pull(&self) {
        assert_eq!(self.mirror.get(&manifest("1")).await.status, 200);
        for digest in self.image.layers.iter().chain([&self.image.config]) {
            assert_eq!(self.mirror.get(&forebay_test_support::blob::path(digest)).await.status, 200);
        }
        until("the image is in the inventory", async || self.told("images").await["images"][0]["complete"] == true)
            .await;
        self.registry.forget_requests();
    }

    fn address(&self) -> SocketAddr {
        self.mirror.app().admin_addr()
    }

    /// Sends `METHOD resource` to the admin listener.
    async fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let (method, resource) = line.split_once(' ').unwrap();
        let line = format!("{method} /api/v1/{resource}");
        match body {
            [] => wire::exchange(self.address(), &line, headers).await,
            body => wire::exchange_with_body(self.address(), &line, headers, body).await,
        }
    }

    /// What the control socket tells, which no attack goes through.
    async fn told(&self, resource: &str) -> Value {
        let socket = self.mirror.config().admin.socket.as_deref().unwrap();
        let (status, body) = ask(socket, "GET", &format!("/api/v1/{resource}")).await;
        assert_eq!(status, "200", "{resource}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Fails if an attack changed anything, or spent a request.
    async fn assert_untouched(&self) {
        let images = self.told("images").await;
        assert_eq!(images["images"].as_array().unwrap().len(), 1, "{images:#}");
        assert_eq!(images["images"][0]["pinned"], false);
        assert_eq!(self.told("pins").await["pins"], json!([]));
        assert_eq!(self.told("upstreams").await["upstreams"][0]["paused_since"], Value::Null);
        assert_eq!(self.registry.count(|_| true), 0);
    }
}

/// Fails unless the answer is an error that no browser takes for a page, and that tells no other site anything.
fn assert_refused(what: &str, answer: &Answer, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status), "{what}: {answer:?}");
    // hyper refuses what is no HTTP with a head alone.
    let is_sniffed = answer.header("x-content-type-options") != Some("nosniff");
    assert!(!is_sniffed || (answer.status == 400 && answer.body.is_empty()), "{what}: {answer:?}");
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")), "{what}: {answer:?}");
    assert!(!answer.headers.contains_key("x-injected"), "{what}: {answer:?}");
    let text = content(answer);
    assert!(!text.contains(TOKEN), "{what}: {text}");
    if answer.header("content-type") == Some("application/json") && !text.is_empty() {
        let document: Value = serde_json::from_str(&text).unwrap();
        assert!(document["error"].is_string(), "{what}: {document}");
    }
}

/// The document of an answer, which may come in one chunk.
fn content(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    match (answer.header("transfer-encoding"), text.find('{'), text.rfind('}')) {
        (Some("chunked"), Some(begin), Some(end)) => text[begin..=end].to_owned(),
        _ => text.trim_end().to_owned(),
    }
}
