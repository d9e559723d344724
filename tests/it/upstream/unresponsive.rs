//! An upstream that does not answer: what is cached goes on without it, and it is asked again soon after it is well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::net::TcpListener;

use crate::{cache::manifest::tag::never_trusting, push::put_manifest};
use forebay_test_support::{
    fake_registry::{Auth, FakeRegistry, Fault, Server, When},
    mirror::{Answer, Mirror},
    until::{bounded, until},
};
use forebay_test_support::{manifest::manifest, users::basic};

const STALE: Option<&str> = Some("forebay; hit; detail=stale");

/// Lets time pass for what counts it by the runtime's clock.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// Takes connections at the registry's port and says nothing, until it is dropped.
struct Swallower {
    taken: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Swallower {
    async fn instead_of(registry: &FakeRegistry) -> Self {
        registry.take_down(Server::Api).await;
        let listener = TcpListener::bind(("127.0.0.1", registry.url().port().unwrap())).await.unwrap();
        let taken = Arc::<AtomicUsize>::default();
        let count = taken.clone();
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok(connection) = listener.accept().await {
                held.push(connection);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { taken, task }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// With a password, which counts only where the upstream judges it.
async fn get(mirror: &Mirror, path: &str) -> Answer {
    mirror.get_with(path, &[("authorization", &basic("ann", "password"))]).await
}

/// Opens the circuit of the upstream's API: ten requests that are answered by 503.
async fn fail_in_a_row(registry: &FakeRegistry, mirror: &Mirror) {
    registry.fault(When::any(), Fault::status(503));
    for number in 0..10 {
        assert_eq!(get(mirror, &manifest(format!("none{number}"))).await.status, 502);
    }
    mirror.until_metric("forebay_upstream_circuit_open", &[], 1.0).await;
}

#[tokio::test]
async fn cached_content_needs_no_request_to_a_silent_upstream() {
    let registry = FakeRegistry::start().await;
    let images: Vec<_> = (0..5).map(|tag| registry.add_image("team/app", &tag.to_string(), &[])).collect();
    let mirror = never_trusting(&registry).await;
    for tag in 0..5 {
        assert_eq!(mirror.get(&manifest(tag)).await.status, 200);
    }
    let silent = Swallower::instead_of(&registry).await;
    let wanted: Vec<_> = (0..10).map(|number| manifest(format!("other{number}"))).collect();
    let hanging = join_all(wanted.iter().map(|path| mirror.get(path)));
    let timing_out = async {
        until("all of them wait", async || silent.taken() == 10).await;
        pass(31).await;
    };
    let (answers, ()) = bounded(async { tokio::join!(hanging, timing_out) }).await;
    assert!(answers.iter().all(|answer| answer.status == 504));
    mirror.until_metric("forebay_upstream_circuit_open", &[("upstream", "fake.example")], 1.0).await;
    let ask = async || {
        let paths: Vec<_> = (0..50).map(|number| manifest(number % 5)).collect();
        bounded(join_all(paths.iter().map(|path| mirror.get(path)))).await
    };
    for (number, stale) in ask().await.into_iter().enumerate() {
        assert_eq!((stale.status, stale.header("cache-status")), (200, STALE));
        assert_eq!(stale.body, images[number % 5].manifest_bytes);
    }
    assert_eq!(silent.taken(), 10, "no connection for any of them");
    silent.end().await;
    registry.bring_up(Server::Api).await;
    pass(2).await;
    for fresh in ask().await {
        assert_eq!(fresh.header("cache-status"), Some("forebay; hit; detail=revalidated"));
    }
    assert_eq!(mirror.metric("forebay_upstream_circuit_open", &[]).await, 0.0);
}

#[tokio::test]
async fn without_cached_content_the_error_names_the_upstream() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let named = registry.url().authority().to_owned();
    for name in ["fake.example", &*named] {
        let text = format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
        let mirror = Mirror::parse(&text).start().await;
        fail_in_a_row(&registry, &mirror).await;
        registry.forget_requests();
        let refused = mirror.get(&manifest(1)).await;
        assert_eq!((refused.status, &*refused.error_code()), (503, "UNAVAILABLE"));
        assert!(refused.header("retry-after").is_some_and(|after| (1..=8).contains(&after.parse::<u64>().unwrap())));
        for part in [&*format!("{name} has failed for "), "(status)", "tried again in "] {
            assert!(refused.text().contains(part), "{part}: {}", refused.text());
        }
        assert!(!refused.text().contains("http://"), "{}", refused.text());
        assert_eq!(mirror.head(&manifest(1)).await.status, 503);
        assert_eq!(mirror.get("/v2/team/app/tags/list").await.status, 503);
        assert!(registry.requests().is_empty());
        registry.heal();
        // Blobs have a count of their own.
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await.status, 200);
        pass(2).await;
        assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    }
}

#[tokio::test]
async fn a_push_and_a_login_are_passed_to_a_host_that_rests() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    for keys in ["push = true", "access = \"client\""] {
        let text =
            format!("[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n{keys}\n", registry.url());
        let mirror = Mirror::parse(&text).start().await;
        fail_in_a_row(&registry, &mirror).await;
        // They fail as well, and are sent.
        registry.forget_requests();
        let login = async || get(&mirror, "/v2/").await.status;
        if keys == "push = true" {
            assert!(put_manifest(&mirror, "2", "{}").await.status >= 500);
            assert!(mirror.head(&manifest(1)).await.status >= 500);
        } else {
            assert_eq!(login().await, 502);
        }
        assert!(!registry.requests().is_empty(), "{keys}");
        registry.heal();
        // An answer to one of them ends the rest.
        if keys == "push = true" {
            assert_eq!(put_manifest(&mirror, "2", "{}").await.status, 201);
        } else {
            registry.require(Auth::Open);
            assert_eq!(login().await, 200);
        }
        assert_eq!(get(&mirror, &manifest(1)).await.status, 200, "{keys}");
    }
}
