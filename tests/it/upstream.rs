//! How a registry is asked, against one that misbehaves on command.

pub mod auth {
    pub mod credentials;
    pub mod own_credentials;
    pub mod realm;
    pub mod token;
}
pub mod blob;
pub mod client {
    pub mod circuit_breaker;
    pub mod connection_reuse;
    pub mod environment;
    pub mod http2_frames;
    pub mod late_response;
    pub mod pools;
    pub mod redirect;
    pub mod timeouts;
    pub mod tls;
}
pub mod dialects;
pub mod failover;
pub mod manifest;
pub mod response {
    pub mod content_coding;
    pub mod document_budget;
    pub mod head;
    pub mod intermediaries;
}
pub mod throttle;
pub mod unresponsive;

use std::sync::Arc;

use forebay::{
    metrics::Metrics,
    oci::{Accept, Digest, Reference, Repository},
    upstream::{
        BlobRange, BlobStream, Config, Context, Error, ErrorKind, HealthTable, IsList, PauseTable, RateTable,
        ReadBudget, Upstream,
    },
};
use http::{HeaderMap, HeaderValue, header};
use url::Url;

use forebay_test_support::fake_registry::{FakeRegistry, Record};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const WHOLE: BlobRange = BlobRange { first: 0, last: None };

/// An upstream and what it counts.
struct Subject {
    upstream: Upstream,
    metrics: Metrics,
}

impl Subject {
    fn new(config: &Config) -> Self {
        Self::within(config, ReadBudget::default())
    }

    /// One that shares what is read at a time with others.
    fn within(config: &Config, budget: ReadBudget) -> Self {
        let metrics = Metrics::new().unwrap();
        let rates = RateTable::default();
        rates.set(std::slice::from_ref(config));
        let (health, pauses, content) = (HealthTable::default(), PauseTable::default(), Default::default());
        let via = Arc::from("1.1 forebay-test");
        let context = Context {
            metrics: metrics.clone(),
            via,
            budget,
            rates,
            health,
            content,
            pauses,
            cluster: None,
            store: None,
        };
        Self { upstream: Upstream::new(config, context).unwrap(), metrics }
    }

    /// An anonymous upstream.
    fn of(registry: &FakeRegistry) -> Self {
        Self::new(&config(registry))
    }

    async fn blob(&self, repository: &str, digest: &Digest, range: BlobRange) -> Result<Vec<u8>, Error> {
        read(self.upstream.open_blob(&name(repository), digest, range).await?).await
    }

    async fn manifest(&self, repository: &str, reference: &str) -> Result<Vec<u8>, Error> {
        let got = self.upstream.get_manifest(&name(repository), &reference_of(reference), &accept(&[MANIFEST])).await;
        got.map(|manifest| manifest.bytes.to_vec())
    }

    /// The value of a line of `/metrics`; 0 if there is none.
    fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let found = text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }
}

async fn read(mut stream: BlobStream) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Whatever comes is the list.
fn any_list() -> IsList {
    Arc::new(|_| true)
}

fn config(registry: &FakeRegistry) -> Config {
    config_of([registry.url()])
}

fn config_of(urls: impl IntoIterator<Item = Url>) -> Config {
    Config::new("fake.example", urls.into_iter().collect())
}

fn name(repository: &str) -> Repository {
    repository.parse().unwrap()
}

fn reference_of(reference: &str) -> Reference {
    reference.parse().unwrap()
}

fn accept(types: &[&'static str]) -> Accept {
    let headers: HeaderMap =
        types.iter().map(|&media_type| (header::ACCEPT, HeaderValue::from_static(media_type))).collect();
    Accept::from_headers(&headers)
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

/// Whether a request carried anything secret.
fn has_credentials(record: &Record) -> bool {
    record.headers.contains_key(header::AUTHORIZATION) || record.headers.contains_key(header::COOKIE)
}
