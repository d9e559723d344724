//! A registry that is sick is nothing to the clients of another one that has the same blobs.

use bytes::Bytes;
use forebay::oci::Digest;
use futures_util::future::join_all;
use http::Method;

use forebay_test_support::{
    blob::{REPOSITORY, content, partial, path},
    fake_registry::{FakeRegistry, Fault, Gate, Record, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
};

const LEN: usize = 400_000;
const SICK: &str = "sick.example";

/// Two registries that have the same blobs, and a mirror of both: the healthy one is the default.
struct Two {
    sick: FakeRegistry,
    healthy: FakeRegistry,
    mirror: Mirror,
}

impl Two {
    async fn start() -> Self {
        let (sick, healthy) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let text = format!(
            "[[upstream]]\nname = \"{SICK}\"\nurls = [\"{}\"]\n[[upstream]]\nname = \"healthy.example\"\nurls = [\"{}\"]\ndefault = true\n",
            sick.url(),
            healthy.url()
        );
        let mirror = Mirror::parse(&text).config(|config| config.cache.prefetch = 8).start().await;
        Self { sick, healthy, mirror }
    }

    fn add(&self, len: usize, seed: u64) -> (Digest, Bytes) {
        let content = content(len, seed);
        self.sick.add_blob(REPOSITORY, content.clone());
        (self.healthy.add_blob(REPOSITORY, content.clone()), content)
    }

    fn gets(&self, digest: &Digest) -> usize {
        self.healthy.count(|request| request.is_blob_get(digest))
    }
}

fn of_sick(digest: &Digest) -> String {
    format!("{}?ns={SICK}", path(digest))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_hangs_holds_up_no_other_ones_clients() {
    let two = Two::start().await;
    let gate = Gate::new();
    let drip = Fault::Throttle { piece: 100, pause: std::time::Duration::from_millis(20) };
    let hangs = [
        vec![Fault::HoldHead(gate.clone())],
        vec![Fault::HoldBody { at: 0, gate: gate.clone() }],
        vec![Fault::HoldBody { at: LEN / 2, gate: gate.clone() }],
        vec![Fault::HoldBody { at: LEN / 2, gate: gate.clone() }, Fault::ContentLength(LEN as u64 * 2)],
        vec![Fault::HoldBody { at: LEN / 2, gate: gate.clone() }, Fault::NoContentLength],
        vec![drip],
    ];
    let mut leaders = Vec::new();
    for (seed, faults) in hangs.into_iter().enumerate() {
        // The first one is small enough to be verified before its head is sent.
        let (digest, content) = two.add(if seed == 0 { 30_000 } else { LEN }, seed as u64);
        let what = format!("{faults:?}");
        faults.into_iter().for_each(|fault| two.sick.fault(When::blob(&digest), fault));
        leaders.push(Raw::send(two.mirror.address(), &of_sick(&digest), &[]).await.unwrap());
        two.sick.wait_for(|records| records.iter().any(|request| request.is_blob_get(&digest))).await;
        let head = bounded(two.mirror.head(&path(&digest))).await;
        assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()), "{what}");
        let path_of_it = path(&digest);
        let whole = join_all((0..8).map(|_| two.mirror.get(&path_of_it)));
        let part = two.mirror.get_with(&path_of_it, &[("range", "bytes=20000-20999")]);
        let (whole, part) = bounded(async { tokio::join!(whole, part) }).await;
        assert!(whole.iter().all(|answer| answer.status == 200 && answer.body == content), "{what}");
        assert!(part.status == 206 && part.body == content[20_000..21_000], "{what}");
        assert_eq!(two.gets(&digest), 1, "{what}");
        two.mirror.until_metric("forebay_fills_total", &[("result", "complete")], (seed + 1) as f64).await;
        // What is here is given to all clients that still wait for it.
        for path in [path(&digest), of_sick(&digest)] {
            let hit = bounded(two.mirror.get(&path)).await;
            assert_eq!((hit.header("cache-status"), hit.body == content), (Some("forebay; hit"), true), "{what}");
        }
    }
    two.sick.heal();
    gate.open();
    drop(leaders);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_hanging_registry_get_the_blob_in_the_end() {
    let two = Two::start().await;
    let (digest, content) = two.add(LEN, 1);
    let gate = Gate::new();
    two.sick.fault(When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let mut leader = Raw::get(two.mirror.address(), &of_sick(&digest), &[]).await;
    leader.read(LEN / 4).await;
    assert_eq!(bounded(two.mirror.get(&path(&digest))).await.body, content);
    gate.open();
    assert!(leader.rest().await.bytes() == content);
    two.mirror.until_metric("forebay_fills_total", &[("result", "complete")], 2.0).await;
    // Both were kept under the same name; nothing is left of either.
    assert_eq!(std::fs::read_dir(two.mirror.cache_dir().join("tmp")).unwrap().count(), 0);
    assert_eq!(two.mirror.metric("forebay_cache_objects", &[("kind", "blob")]).await, 1.0);
    assert_eq!(two.mirror.get(&path(&digest)).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_error_of_a_registry_reaches_another_ones_clients() {
    let two = Two::start().await;
    let errors = [
        None,
        Some(Fault::status(401)),
        Some(Fault::status(403)),
        Some(Fault::status(500)),
        Some(Fault::too_many("7")),
        Some(Fault::Disconnect),
        Some(Fault::Corrupt { at: 1000 }),
        Some(Fault::Corrupt { at: LEN - 1 }),
        Some(Fault::ContentLength(LEN as u64 - 1)),
        Some(Fault::ContentLength(LEN as u64 * 2)),
    ];
    for (seed, error) in errors.into_iter().enumerate() {
        let (digest, content) = two.add(LEN, 100 + seed as u64);
        let gate = Gate::new();
        // The failure comes while the other one's clients wait.
        two.sick.fault(When::blob(&digest), Fault::HoldHead(gate.clone()));
        let what = format!("{error:?}");
        match error {
            Some(error) => two.sick.fault(When::blob(&digest), error),
            None => two.sick.remove_blob(REPOSITORY, &digest),
        }
        let leader = Raw::send(two.mirror.address(), &of_sick(&digest), &[]).await;
        two.sick.wait_for(|records| records.iter().any(|request| request.is_blob_get(&digest))).await;
        let path_of_it = path(&digest);
        let clients = join_all((0..8).map(|_| two.mirror.get(&path_of_it)));
        let head = two.mirror.request(Method::HEAD, &path_of_it, &[]);
        let fail = async {
            let is_head = |record: &Record| record.method == Method::HEAD && record.path.ends_with(digest.as_str());
            two.healthy.wait_for(|records| records.iter().any(is_head)).await;
            gate.open();
        };
        let (answers, head, ()) = bounded(async { tokio::join!(clients, head, fail) }).await;
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == content), "{what}");
        assert_eq!((head.status, two.gets(&digest)), (200, 1), "{what}");
        drop(leader);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lying_registry_left_breaks_no_other_ones_client() {
    let mut two = Two::start().await;
    for (seed, status) in [401, 403, 404].into_iter().enumerate() {
        let (digest, content) = two.add(LEN, 200 + seed as u64);
        let gate = Gate::new();
        // Most of the blob, and wrong; then the registry gives no more of it.
        let held = Fault::HoldBody { at: 300_000, gate: gate.clone() };
        for fault in [Fault::Corrupt { at: 1000 }, held, Fault::Truncate { at: 300_000 }] {
            two.sick.fault_times(1, When::blob(&digest), fault);
        }
        let leader = Raw::send(two.mirror.address(), &of_sick(&digest), &[]).await;
        gate.reached().await;
        two.sick.fault(When::blob(&digest), Fault::status(status));
        gate.open();
        drop(leader);
        two.mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert!(partial(&two.mirror.cache_dir(), &digest).exists(), "{status}");
        if seed % 2 == 1 {
            two.mirror.drain().await;
            two.mirror.start().await;
        }
        let got = two.mirror.get(&path(&digest)).await;
        assert!(got.status == 200 && got.body == content, "{status}");
        assert_eq!(two.gets(&digest), 1, "{status}");
    }
    assert!(two.healthy.requests().iter().all(|request| request.header("range").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_prefetch_delays_no_other_registry() {
    let two = Two::start().await;
    let layer = content(LEN, 1);
    let of_sick = two.sick.add_image(REPOSITORY, "1", &[&layer]);
    let of_healthy = two.healthy.add_image(REPOSITORY, "1", &[&layer]);
    let layer_digest = &of_sick.layers[0];
    assert_eq!(layer_digest, &of_healthy.layers[0]);
    let gate = Gate::new();
    two.sick.fault(When::blob(layer_digest), Fault::HoldHead(gate.clone()));
    for rest in ["manifests/1".to_owned(), format!("blobs/{}", of_sick.config)] {
        assert_eq!(two.mirror.get(&format!("/v2/{REPOSITORY}/{rest}?ns={SICK}")).await.status, 200);
    }
    gate.reached().await;
    let got = bounded(two.mirror.get(&path(layer_digest))).await;
    assert!(got.status == 200 && got.body == layer);
    assert_eq!(two.gets(layer_digest), 1);
    gate.open();
}
