use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use tokio::task::JoinHandle;

use super::{super::tests::store, *};
use crate::{
    cache::{Reading, Visibility},
    oci::{Algorithm, Digest},
    transport::Recipient,
};

/// A blob whose reader, a client, takes no bytes.
struct Stuck {
    recipient: Recipient,
    _pin: Pin,
    _reading: Reading,
}

impl Stuck {
    async fn begin(store: &DiskStore, len: u64) -> Self {
        let id = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &len.to_be_bytes()));
        let room = store.reserve_unnamed(len, 0).await.unwrap();
        let pin = room.fulfil_pinned(Purpose::Client, IndexKey::Blob(id.clone()), len);
        let recipient = Recipient::default();
        recipient.meter.waits();
        let reading = store.readers().begin(IpAddr::from([10, 0, 0, 1]).into(), &recipient, Holding::Blob(id));
        Self { recipient, _pin: pin, _reading: reading }
    }
}

fn reserve(store: &DiskStore, len: u64) -> JoinHandle<Result<Reservation, NoSpace>> {
    let store = store.clone();
    tokio::spawn(async move { store.reserve_unnamed(len, 0).await })
}

#[tokio::test(start_paused = true)]
async fn what_has_room_is_reserved_while_readers_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let stuck = Stuck::begin(&store, 600_000).await;
    let large = reserve(&store, 800_000);
    stuck.recipient.end.cancelled().await;
    let _small = store.reserve_unnamed(100_000, 0).await.unwrap();
    assert!(!large.is_finished(), "the reader has not gone yet");
    drop(stuck);
    assert!(large.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_no_client_waits_for_ends_no_reader() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let stuck = Stuck::begin(&store, 600_000).await;
    for purpose in [Purpose::Unawaited, Purpose::Ahead] {
        assert!(store.reserve_bytes(purpose, allocated(800_000), || 0).await.is_err(), "{purpose:?}");
    }
    assert!(!stuck.recipient.end.is_cancelled());
    let large = reserve(&store, 800_000);
    stuck.recipient.end.cancelled().await;
    drop(stuck);
    assert!(large.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn another_reader_goes_where_the_room_of_one_was_taken() {
    for (others, expected) in [([150_000, 0], Ok(())), ([150_000, 250_000], Err(NoSpace))] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let (first, second) = (Stuck::begin(&store, 600_000).await, Stuck::begin(&store, 200_000).await);
        let large = reserve(&store, 800_000);
        first.recipient.end.cancelled().await;
        assert!(!second.recipient.end.is_cancelled());
        let _taken = store.reserve_unnamed(others[0], 0).await.unwrap();
        drop(first);
        second.recipient.end.cancelled().await;
        let _taken_too = store.reserve_unnamed(others[1], 0).await.unwrap();
        drop(second);
        assert_eq!(large.await.unwrap().map(drop), expected, "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_ended_before_makes_room_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let (first, second) = (Stuck::begin(&store, 600_000).await, Stuck::begin(&store, 200_000).await);
    let left = reserve(&store, 800_000);
    first.recipient.end.cancelled().await;
    left.abort();
    assert!(left.await.is_err_and(|error| error.is_cancelled()));
    let large = reserve(&store, 700_000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!second.recipient.end.is_cancelled() && !large.is_finished());
    drop(first);
    assert!(large.await.unwrap().is_ok());
    assert!(!second.recipient.end.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_reservation_waits_for_its_turn_to_end_readers() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let stuck = Stuck::begin(&store, 600_000).await;
    let large = reserve(&store, 800_000);
    stuck.recipient.end.cancelled().await;
    let others = [0; 40].map(|_| reserve(&store, 800_000));
    // They all fail after the same time, not one after the other.
    for other in others {
        assert_eq!(other.await.unwrap().map(drop), Err(NoSpace));
    }
    assert!(!large.is_finished());
    drop(stuck);
    assert!(large.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_ahead_into_room_that_clients_await() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let key = IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"ahead")));
    let ahead = async || store.reserve_for(Purpose::Ahead, &key, 1000).await.map(drop);
    let stuck = Stuck::begin(&store, 600_000).await;
    assert_eq!(ahead().await, Ok(()));
    let large = reserve(&store, 800_000);
    stuck.recipient.end.cancelled().await;
    assert_eq!(ahead().await, Err(NoSpace));
    drop(stuck);
    let large = large.await.unwrap();
    assert!(large.is_ok());
    assert_eq!(ahead().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_quick_readers_keep_is_no_room_beside_fills() {
    for (slow, expected) in [(true, 600_000), (false, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = told.clone();
        store.on_shortage(move |short| {
            note.lock().unwrap().push(short);
            Box::pin(async { false })
        });
        let stuck = Stuck::begin(&store, 600_000).await;
        if !slow {
            stuck.recipient.meter.goes_on();
        }
        let _fill = store.reserve_unnamed(300_000, 0).await.unwrap();
        assert_eq!(reserve(&store, 900_000).await.unwrap().map(drop), Err(NoSpace));
        let kept: Vec<_> = told.lock().unwrap().iter().map(|short| short.kept).collect();
        assert_eq!(kept, [allocated(expected)]);
    }
}

#[tokio::test]
async fn a_reservation_waits_for_no_other_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let first = tokio::spawn({
        let store = store.clone();
        let directories = move || {
            begun.send(()).unwrap();
            let _ = goes_on.recv();
            0
        };
        async move { store.reserve_bytes(Purpose::Client, 1000, directories).await.map(drop) }
    });
    is_begun.await.unwrap();
    assert!(store.reserve_unnamed(1000, 0).await.is_ok(), "the first is still at work");
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    drop(go_on);
    // Its reservation is released with it.
    while store.0.index.reserved() > 0 {
        tokio::task::yield_now().await;
    }
}
