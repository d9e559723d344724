//! Blobs: whole and in part, broken in every way.

use std::time::Duration;

use forebay::{
    oci::{Algorithm, Digest},
    upstream::{BlobRange, ErrorKind},
};
use http::Method;

use super::{Subject, WHOLE, kind, name, read};
use forebay_test_support::fake_registry::{FakeRegistry, Fault, Gate, When};

const TEN: &[u8] = b"0123456789";

fn from(first: u64) -> BlobRange {
    BlobRange { first, last: None }
}

#[tokio::test]
async fn a_blob_comes_whole() {
    let registry = FakeRegistry::start().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    let digest = registry.add_blob("team/app", content.clone());
    let subject = Subject::of(&registry);
    let stream = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await.unwrap();
    assert_eq!((stream.first, stream.total, stream.ranged), (0, Some(3_000_000), false));
    assert_eq!(read(stream).await.unwrap(), content);
    assert!(registry.requests()[0].header("range").is_none());
    assert_eq!(subject.metric(r#"forebay_upstream_received_bytes_total{upstream="fake.example"}"#), 3_000_000);
}

#[tokio::test]
async fn a_blob_comes_in_part() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    for (first, last, header, content) in [
        (4, None, "bytes=4-", &b"456789"[..]),
        (4, Some(6), "bytes=4-6", b"456"),
        (0, Some(0), "bytes=0-0", b"0"),
        (8, Some(100), "bytes=8-100", b"89"),
    ] {
        let range = BlobRange { first, last };
        let stream = subject.upstream.open_blob(&name("team/app"), &digest, range).await.unwrap();
        assert_eq!((stream.first, stream.total, stream.ranged), (first, Some(10), true));
        assert_eq!(read(stream).await.unwrap(), content);
        assert_eq!(registry.requests().last().unwrap().header("range"), Some(header));
    }
    let beyond = subject.blob("team/app", &digest, from(10)).await;
    assert_eq!(kind(beyond), Some(ErrorKind::RangeNotSatisfiable { total: Some(10) }));
}

#[tokio::test]
async fn an_upstream_that_ignores_the_range_is_told_apart() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), Fault::IgnoreRange);
    let subject = Subject::of(&registry);
    let stream = subject.upstream.open_blob(&name("team/app"), &digest, from(4)).await.unwrap();
    assert_eq!((stream.first, stream.total, stream.ranged), (0, Some(10), false));
    assert_eq!(read(stream).await.unwrap(), TEN);
}

#[tokio::test]
async fn a_partial_response_must_have_the_requested_range() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    for fault in [
        Fault::ShiftRange(1),
        Fault::Header("content-range", None),
        Fault::Header("content-range", Some("bytes 0-9/10".into())),
        Fault::Header("content-range", Some("bytes 4-8/10".into())),
        Fault::Header("content-range", Some("lines 4-9/10".into())),
    ] {
        registry.heal();
        registry.fault(When::blobs(), fault.clone());
        assert_eq!(kind(subject.blob("team/app", &digest, from(4)).await), Some(ErrorKind::Protocol), "{fault:?}");
    }
    // Less than was asked for is allowed, but it is no clean end either.
    registry.heal();
    registry.fault_times(1, When::blobs(), Fault::Header("content-range", Some("bytes 4-5/10".into())));
    registry.fault_times(1, When::blobs(), Fault::ContentLength(2));
    let mut stream = subject.upstream.open_blob(&name("team/app"), &digest, from(4)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), b"45"[..]);
    assert_eq!(kind(stream.next().await), Some(ErrorKind::Unavailable));
    registry.heal();
    registry.fault(When::blobs().ranged(), Fault::RefuseRange);
    assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
    let refused = subject.blob("team/app", &digest, from(4)).await;
    assert_eq!(kind(refused), Some(ErrorKind::RangeNotSatisfiable { total: Some(10) }));
}

#[tokio::test]
async fn a_body_cut_at_any_byte_is_never_a_clean_end() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    for chunked in [false, true] {
        for at in 0..TEN.len() {
            registry.heal();
            registry.fault(When::blobs(), Fault::Truncate { at });
            if chunked {
                registry.fault(When::blobs(), Fault::NoContentLength);
            }
            let mut stream = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await.unwrap();
            let mut got = Vec::new();
            let error = loop {
                match stream.next().await {
                    Ok(Some(piece)) => got.extend_from_slice(&piece),
                    Ok(None) => panic!("a clean end after {} bytes", got.len()),
                    Err(error) => break error,
                }
            };
            assert_eq!((got.as_slice(), error.kind), (&TEN[..at], ErrorKind::Unavailable), "{at} {chunked}");
        }
    }
}

#[tokio::test]
async fn a_length_that_is_wrong_is_an_error_or_a_short_body() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    registry.fault_times(1, When::blobs(), Fault::ContentLength(11));
    assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(ErrorKind::Unavailable));
    // HTTP cannot tell a length that is too small from the truth: the digest will.
    registry.fault_times(1, When::blobs(), Fault::ContentLength(9));
    assert_eq!(subject.blob("team/app", &digest, WHOLE).await.unwrap(), &TEN[..9]);
    registry.fault_times(1, When::blobs(), Fault::ContentLength(5));
    assert_eq!(kind(subject.blob("team/app", &digest, from(4)).await), Some(ErrorKind::Protocol));
}

#[tokio::test]
async fn a_length_that_is_not_told_is_not_known() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), Fault::NoContentLength);
    let subject = Subject::of(&registry);
    let stream = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await.unwrap();
    assert_eq!(stream.total, None);
    assert_eq!(read(stream).await.unwrap(), TEN);
    let stream = subject.upstream.open_blob(&name("team/app"), &digest, from(4)).await.unwrap();
    assert_eq!(stream.total, Some(10));
    assert_eq!(read(stream).await.unwrap(), &TEN[4..]);
    // Of its first byte it is told.
    assert_eq!(subject.upstream.head_blob(&name("team/app"), &digest).await.unwrap().len, Some(10));
    registry.fault(When::blobs(), Fault::IgnoreRange);
    assert_eq!(subject.upstream.head_blob(&name("team/app"), &digest).await.unwrap().len, None);
}

#[tokio::test]
async fn bytes_are_passed_on_as_they_come() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), Fault::Corrupt { at: 3 });
    // Verifying is the caller's.
    assert_eq!(Subject::of(&registry).blob("team/app", &digest, WHOLE).await.unwrap(), b"0122456789");
}

#[tokio::test]
async fn what_cannot_be_a_blob_is_refused() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    for (fault, expected) in [
        (Fault::html(), ErrorKind::Protocol),
        (Fault::status(206), ErrorKind::Protocol),
        (Fault::status(404), ErrorKind::NotFound),
        (Fault::status(403), ErrorKind::Denied),
        (Fault::status(500), ErrorKind::Unavailable),
        (Fault::Disconnect, ErrorKind::Unavailable),
    ] {
        registry.heal();
        registry.fault(When::blobs(), fault.clone());
        assert_eq!(kind(subject.blob("team/app", &digest, WHOLE).await), Some(expected), "{fault:?}");
    }
    registry.heal();
    let unknown = Digest::of(Algorithm::Sha512, b"unknown");
    assert_eq!(kind(subject.blob("team/app", &unknown, WHOLE).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn the_bytes_before_a_stall_come_and_the_stall_ends() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 4, gate: gate.clone() });
    let subject = Subject::of(&registry);
    let mut stream = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), &TEN[..4]);
    gate.reached().await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    assert_eq!(kind(stream.next().await), Some(ErrorKind::Timeout));
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn giving_up_waiting_loses_no_byte() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 4, gate: gate.clone() });
    let subject = Subject::of(&registry);
    let mut stream = subject.upstream.open_blob(&name("team/app"), &digest, WHOLE).await.unwrap();
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(1), stream.next()).await.is_err());
    }
    gate.open();
    while let Some(piece) = stream.next().await.unwrap() {
        got.extend_from_slice(&piece);
    }
    assert_eq!(got, TEN);
}

#[tokio::test]
async fn a_slow_upstream_is_waited_for() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    registry.fault(When::blobs(), Fault::DelayHead(Duration::from_millis(2)));
    registry.fault(When::blobs(), Fault::Throttle { piece: 1, pause: Duration::from_millis(1) });
    assert_eq!(Subject::of(&registry).blob("team/app", &digest, WHOLE).await.unwrap(), TEN);
}

#[tokio::test]
async fn the_head_of_a_blob_downloads_nothing() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let subject = Subject::of(&registry);
    assert_eq!(subject.upstream.head_blob(&name("team/app"), &digest).await.unwrap().len, Some(10));
    assert_eq!(registry.count(|request| request.method != Method::HEAD), 0);
}

#[tokio::test]
async fn a_head_404_is_followed_by_a_one_byte_get() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", TEN);
    let empty = registry.add_blob("team/app", &b""[..]);
    let subject = Subject::of(&registry);
    // As a proxy project of Harbor does before it has the blob.
    registry.fault(When::blobs().method(Method::HEAD), Fault::status(404));
    assert_eq!(subject.upstream.head_blob(&name("team/app"), &digest).await.unwrap().len, Some(10));
    assert_eq!(registry.requests().last().unwrap().header("range"), Some("bytes=0-0"));
    assert_eq!(subject.upstream.head_blob(&name("team/app"), &empty).await.unwrap().len, Some(0));
    registry.remove_blob("team/app", &digest);
    let missing = subject.upstream.head_blob(&name("team/app"), &digest).await;
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
}
