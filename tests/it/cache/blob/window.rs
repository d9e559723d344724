//! A blob without room is still one transfer, for clients of any number and speed.

mod stress;

use bytes::Bytes;
use futures_util::future::join_all;

use forebay_test_support::{
    blob::{add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Builder, Mirror},
    raw::Raw,
    until::{bounded, until},
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const STEP: usize = 256 * KIB;
const RECEIVED: &str = "forebay_upstream_received_bytes_total";

/// With room for no blob of a MiB.
fn without_room(registry: &FakeRegistry) -> Builder {
    Mirror::build(registry).max_size(MIB as u64)
}

/// A client that compares what it reads and keeps none of it.
struct Client {
    raw: Raw,
    content: Bytes,
    taken: usize,
}

impl Client {
    fn new(raw: Raw, content: &Bytes) -> Self {
        assert_eq!((raw.status, raw.header("cache-status")), (200, Some("forebay; fwd=miss")));
        Self { raw, content: content.clone(), taken: 0 }
    }

    async fn get(mirror: &Mirror, path: &str, content: &Bytes) -> Self {
        Self::new(Raw::get(mirror.address(), path, &[]).await, content)
    }

    async fn read(&mut self, len: usize) {
        self.raw.read(len.min(self.content.len() - self.taken)).await;
        let read = self.raw.take();
        assert!(self.content[self.taken..].starts_with(&read), "other bytes at {}", self.taken);
        self.taken += read.len();
    }

    async fn read_all(&mut self) {
        while self.taken < self.content.len() {
            self.read(STEP).await;
        }
    }

    async fn breaks(self) -> bool {
        !self.raw.rest().await.is_whole()
    }
}

/// All of them read the whole, each as much as the others.
async fn read_in_step(clients: &mut [Client]) {
    while clients[0].taken < clients[0].content.len() {
        for client in &mut *clients {
            client.read(STEP).await;
        }
    }
}

/// Many clients, which all wait for the head that `gate` holds. The body comes when each has its head: whichever request
/// forebay reads last, it finds the transfer at its beginning.
async fn together(
    (registry, mirror): (&FakeRegistry, &Mirror),
    path: &str,
    content: &Bytes,
    (number, gate): (usize, &Gate),
) -> Vec<Client> {
    let body = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 64 * 1024, gate: body.clone() });
    let mut sent = Vec::new();
    for _ in 0..number {
        sent.push(Raw::send(mirror.address(), path, &[]).await.unwrap());
    }
    gate.reached().await;
    mirror.until_metric("forebay_connections", &[], number as f64).await;
    gate.open();
    let mut clients = Vec::new();
    for client in sent {
        clients.push(Client::new(bounded(Raw::answer(client)).await.unwrap(), content));
    }
    body.open();
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_clients_in_step_are_one_transfer() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 12 * MIB + 5, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let mut clients = together((&registry, &mirror), &path(&digest), &content, (40, &gate)).await;
    read_in_step(&mut clients).await;
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
    assert_eq!(mirror.metric(RECEIVED, &[]).await, content.len() as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_later_shares_the_transfer() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 6 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 4 * MIB, gate: gate.clone() });
    let mut first = Client::get(&mirror, &path(&digest), &content).await;
    first.read(3 * MIB).await;
    let mut second = Client::get(&mirror, &path(&digest), &content).await;
    second.read(3 * MIB).await;
    gate.open();
    join_all([first.read_all(), second.read_all()]).await;
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_disturbs_no_other() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 3 * MIB, 1);
    let (head, body) = (Gate::new(), Gate::new());
    registry.fault(When::blobs(), Fault::HoldHead(head.clone()));
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB, gate: body.clone() });
    let mut clients = together((&registry, &mirror), &path(&digest), &content, (4, &head)).await;
    for client in &mut clients {
        client.read(MIB / 2).await;
    }
    // Whichever of them began the transfer.
    clients.truncate(1);
    mirror.until_metric("forebay_connections", &[], 1.0).await;
    body.open();
    clients[0].read_all().await;
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transfer_ends_with_its_last_client() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 64 * MIB, 1);
    // The window keeps its start until both are there.
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(Client::get(&mirror, &path(&digest), &content).await);
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
    gate.open();
    drop(clients);
    // The window still has the start: who comes while the transfer goes on shares it.
    until("a client begins another transfer", async || {
        Client::get(&mirror, &path(&digest), &content).await.read(MIB).await;
        registry.count(|request| request.is_blob_get(&digest)) > 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_transfer_is_resumed_once_for_all() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 3 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: MIB });
    let mut clients = together((&registry, &mirror), &path(&digest), &content, (8, &gate)).await;
    join_all(clients.iter_mut().map(Client::read_all)).await;
    let ranges: Vec<_> = registry.requests().into_iter().filter(|request| request.is_blob_get(&digest)).collect();
    assert_eq!(ranges.len(), 2);
    let part = format!("bytes={MIB}-");
    assert_eq!((ranges[0].header("range"), ranges[1].header("range")), (None, Some(&*part)));
    assert_eq!(mirror.metric(RECEIVED, &[]).await, content.len() as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_digest_breaks_every_response() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 3 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    registry.fault(When::blobs(), Fault::Corrupt { at: 2 * MIB });
    let clients = together((&registry, &mirror), &path(&digest), &content, (8, &gate)).await;
    assert!(join_all(clients.into_iter().map(Client::breaks)).await.into_iter().all(|broken| broken));
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 1.0);
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[("cause", "not_a_registry")]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_mid_body_breaks_every_response() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 3 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: MIB });
    let clients = together((&registry, &mirror), &path(&digest), &content, (8, &gate)).await;
    registry.fault(When::blobs(), Fault::status(404));
    assert!(join_all(clients.into_iter().map(Client::breaks)).await.into_iter().all(|broken| broken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_three_speeds_are_three_transfers_at_most() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    // More than the window and the sockets of a client take.
    let (digest, content) = add(&registry, 48 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let mut clients = together((&registry, &mirror), &path(&digest), &content, (8, &gate)).await;
    let mut stopped = clients.split_off(6);
    // The others do not wait for one that takes nothing, nor for one that takes little.
    for turn in 0.. {
        for client in &mut clients {
            client.read(STEP).await;
        }
        if turn % 4 == 0 {
            stopped[0].read(STEP).await;
        }
        if clients[0].taken == content.len() {
            break;
        }
    }
    assert!(registry.count(|request| request.is_blob_get(&digest)) <= 2);
    join_all(stopped.iter_mut().map(Client::read_all)).await;
    let gets = registry.count(|request| request.is_blob_get(&digest));
    assert!(gets <= 3, "{gets}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_do_not_keep_others_out() {
    let registry = FakeRegistry::start().await;
    let mirror = without_room(&registry).start().await;
    let (digest, content) = add(&registry, 40 * MIB, 1);
    // Each has a transfer, which is past the start.
    let mut stopped = Vec::new();
    for _ in 0..2 {
        let mut client = Client::get(&mirror, &path(&digest), &content).await;
        client.read(16 * MIB).await;
        stopped.push(client);
    }
    let mut late = Client::get(&mirror, &path(&digest), &content).await;
    late.read_all().await;
    join_all(stopped.iter_mut().map(Client::read_all)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_costs_one_transfer_of_the_rest() {
    let registry = FakeRegistry::start().await;
    // A download reserves room in steps of 16 MiB while its length is not known.
    let mirror = Mirror::build(&registry).max_size(20 * MIB as u64).start().await;
    let (digest, content) = add(&registry, 24 * MIB, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::NoContentLength);
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let mut clients = Vec::new();
    for _ in 0..40 {
        let raw = Raw::get_narrow(mirror.address(), &path(&digest)).await;
        clients.push(Client { raw, content: content.clone(), taken: 0 });
    }
    gate.open();
    read_in_step(&mut clients).await;
    let gets: Vec<_> = registry.requests().into_iter().filter(|request| request.is_blob_get(&digest)).collect();
    assert_eq!(gets.len(), 2, "{:?}", gets.iter().map(|request| request.header("range")).collect::<Vec<_>>());
    assert!(gets[1].header("range").is_some_and(|range| range != "bytes=0-"), "only the rest is requested again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_costs_one_transfer_for_all() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 4 * MIB, 1);
    // Every write fails as it does on a disk without room.
    std::os::unix::fs::symlink("/dev/full", forebay_test_support::blob::partial(&mirror.cache_dir(), &digest)).unwrap();
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldHead(gate.clone()));
    let mut sent = Vec::new();
    for _ in 0..40 {
        sent.push(Raw::send(mirror.address(), &path(&digest), &[]).await.unwrap());
    }
    gate.reached().await;
    mirror.until_metric("forebay_connections", &[], 40.0).await;
    gate.open();
    for client in sent {
        let end = bounded(Raw::answer(client)).await.unwrap().rest().await;
        assert!(end.is_whole() && end.bytes() == content);
    }
    let gets = registry.count(|request| request.is_blob_get(&digest));
    assert!(gets <= 2, "{gets}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_two_repositories_share_no_unverified_byte() {
    for (access, gets) in [("client", [1, 1]), ("shared", [1, 0])] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::parse(&format!(
            "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"{access}\"\n",
            registry.url()
        ));
        let mirror = mirror.max_size(MIB as u64).start().await;
        let (digest, content) = add(&registry, 3 * MIB, 1);
        registry.add_blob("team/other", content.clone());
        let paths = ["team/app", "team/other"].map(|repository| format!("/v2/{repository}/blobs/{digest}"));
        let gate = Gate::new();
        registry.fault(When::path_of(&*paths[0]), Fault::HoldBody { at: MIB, gate: gate.clone() });
        let mut first = Client::get(&mirror, &paths[0], &content).await;
        first.read(MIB / 2).await;
        gate.reached().await;
        let mut second = Client::get(&mirror, &paths[1], &content).await;
        second.read(MIB / 2).await;
        gate.open();
        join_all([first.read_all(), second.read_all()]).await;
        let of = |path: &str| registry.count(|request| request.is_blob_get(&digest) && request.path == path);
        assert_eq!([of(&paths[0]), of(&paths[1])], gets, "{access}");
    }
}
