//! Upstreams that refuse ranges, in each form of that: forebay requests the whole blob once, and clients do not notice.

use forebay::oci::Digest;
use http::Method;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, Server, To, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
};

const LEN: usize = 400_000;
const FRONT: usize = 200_000;

/// What comes in place of the bytes from [`FRONT`] to the end.
fn forms() -> Vec<(&'static str, Vec<Fault>)> {
    let header = |name, value: &str| Fault::Header(name, Some(value.to_owned()));
    let answer = |status, name, value: &str| {
        vec![Fault::Answer { status, headers: vec![(name, value.to_owned())], body: String::new() }]
    };
    let mut forms: Vec<(&'static str, Vec<Fault>)> = vec![
        ("416 with the length", vec![Fault::RefuseRange]),
        ("416 that says the part is the end", answer(416, "content-range", "bytes */200000")),
        ("416 of a shorter blob", answer(416, "content-range", "bytes */7")),
        ("416 of a longer blob", answer(416, "content-range", "bytes */900000")),
        ("200 and the whole", vec![Fault::IgnoreRange]),
        ("200 and the whole without a length", vec![Fault::IgnoreRange, Fault::NoContentLength]),
        ("200 and a page", vec![Fault::html()]),
        ("200 in an encoding", vec![Fault::IgnoreRange, header("content-encoding", "gzip")]),
        ("206 without Content-Range", vec![Fault::Header("content-range", None)]),
        ("206 without Content-Range or bytes", answer(206, "etag", "x")),
        (
            "206 of the whole",
            vec![Fault::IgnoreRange, Fault::Code(206), header("content-range", "bytes 0-399999/400000")],
        ),
        ("206 of the whole without Content-Range", vec![Fault::IgnoreRange, Fault::Code(206)]),
        (
            "206 of many parts",
            vec![header("content-type", "multipart/byteranges; boundary=x"), Fault::Header("content-range", None)],
        ),
        ("206 of many parts as one", vec![header("content-type", "multipart/byteranges; boundary=x")]),
        ("206 from another byte on", vec![Fault::ShiftRange(3)]),
        ("206 of another length", vec![header("content-range", "bytes 200000-399999/500000")]),
        ("206 that is shorter than told", vec![header("content-range", "bytes 200000-299999/400000")]),
        ("206 in other units", vec![header("content-range", "items 1-2/3")]),
        ("206 that breaks at once", vec![Fault::Truncate { at: 0 }]),
        ("206 that ends at once", vec![Fault::NoContentLength, Fault::Truncate { at: 0 }]),
        ("206 in an encoding", vec![header("content-encoding", "gzip")]),
        ("a redirect to nowhere", answer(302, "etag", "x")),
        ("a redirect in a circle", vec![Fault::Redirect { status: 307, to: To::Here }]),
        ("no answer", vec![Fault::Disconnect]),
        ("200 of the part", vec![Fault::Code(200), Fault::Header("content-range", None)]),
        (
            "200 of the part without a length",
            vec![Fault::Code(200), Fault::Header("content-range", None), Fault::NoContentLength],
        ),
        ("200 that breaks at once", vec![Fault::IgnoreRange, Fault::Truncate { at: 0 }]),
        ("206 of few bytes", vec![Fault::Truncate { at: 5 }]),
        ("206 of few bytes without a length", vec![Fault::NoContentLength, Fault::Truncate { at: 5 }]),
        (
            "206 of less than asked",
            vec![Fault::ContentLength(10), header("content-range", "bytes 200000-200009/400000")],
        ),
        ("429 with a time", vec![Fault::too_many("1")]),
        ("429 with a long time", vec![Fault::too_many("3600")]),
    ];
    let statuses = [
        ("204", 204),
        ("304", 304),
        ("400", 400),
        ("401", 401),
        ("402", 402),
        ("403", 403),
        ("404", 404),
        ("405", 405),
        ("406", 406),
        ("408", 408),
        ("410", 410),
        ("416", 416),
        ("417", 417),
        ("422", 422),
        ("425", 425),
        ("429", 429),
        ("451", 451),
        ("500", 500),
        ("501", 501),
        ("502", 502),
        ("503", 503),
        ("504", 504),
        ("505", 505),
    ];
    forms.extend(statuses.map(|(name, status)| (name, vec![Fault::status(status)])));
    forms
}

fn meet(registry: &FakeRegistry, server: Server, digest: &Digest, faults: &[Fault]) {
    registry.heal();
    registry.forget_requests();
    for fault in faults {
        registry.fault(When::blob(digest).at(server).ranged(), fault.clone());
    }
}

/// One question for a part, and at most one for the whole after it; where a part brings little, and where the upstream has too
/// much to do, a second part is tried.
fn assert_asked(registry: &FakeRegistry, before: usize, form: &str) {
    let is_twice = form.contains("few bytes") || (before > 0 && (form.contains("429") || form.contains("less")));
    let requests = registry.requests();
    let parts =
        requests.iter().filter(|request| request.header("range").is_some() && !request.path.starts_with("/moved"));
    let (parts, most) = (parts.count(), if is_twice { 2 } else { 1 });
    // What gets no answer, or a 408, on a connection that was kept is sent once more on a new one.
    assert!(parts == most || (["no answer", "408"].contains(&form) && parts == 2), "{form}: {requests:#?}");
    let wholes = requests.iter().filter(|request| request.header("range").is_none());
    assert!(wholes.count() <= before + 1, "{form}: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_is_followed_by_one_part_and_one_whole() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, (form, faults)) in forms().into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        meet(&registry, Server::Api, &digest, &faults);
        registry.fault_times(1, When::blob(&digest), Fault::Truncate { at: FRONT });
        let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
        assert!(end.is_whole() && end.bytes() == content, "{form}");
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_asked(&registry, 1, form);
        assert_eq!(mirror.get(&path(&digest)).await.header("cache-status"), Some("forebay; hit"), "{form}");
    }
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_followed_by_one_part_and_one_whole() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    mirror.drain().await;
    let mut blobs = Vec::new();
    for (seed, (form, faults)) in forms().into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        blob::leave(&mirror.cache_dir(), &registry, &digest, &content[..FRONT]);
        blobs.push((form, faults, digest, content));
    }
    mirror.start().await;
    for (form, faults, digest, content) in blobs {
        meet(&registry, Server::Api, &digest, &faults);
        let end = Raw::get(mirror.address(), &path(&digest), &[]).await;
        assert_eq!(end.status, 200, "{form}");
        let end = end.rest().await;
        assert!(end.is_whole() && end.bytes() == content, "{form}");
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_asked(&registry, 0, form);
        assert_eq!(mirror.get(&path(&digest)).await.header("cache-status"), Some("forebay; hit"), "{form}");
    }
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
    assert!(blob::files(&mirror.cache_dir().join("tmp")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_at_a_blob_host() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, (form, faults)) in forms().into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        meet(&registry, Server::Cdn, &digest, &faults);
        registry.fault(When::blob(&digest), Fault::Redirect { status: 307, to: To::Cdn });
        registry.fault_times(1, When::blob(&digest).at(Server::Cdn), Fault::Truncate { at: FRONT });
        let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
        assert!(end.is_whole() && end.bytes() == content, "{form}");
    }
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_cached_comes_whole_and_in_parts_all_the_same() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(100_000).start().await;
    for (seed, (form, faults)) in forms().into_iter().enumerate() {
        let (digest, content) = add(&registry, LEN, seed as u64);
        meet(&registry, Server::Api, &digest, &faults);
        registry.fault_times(1, When::blob(&digest), Fault::Truncate { at: FRONT });
        let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
        assert!(end.is_whole() && end.bytes() == content, "{form}");
        registry.forget_requests();
        for (range, first, last) in [("bytes=200000-", FRONT, LEN - 1), ("bytes=200000-200009", FRONT, FRONT + 9)] {
            let part = Raw::get(mirror.address(), &path(&digest), &[("range", range)]).await;
            assert_eq!(
                (part.status, part.header("content-length")),
                (206, Some(&*(last - first + 1).to_string())),
                "{form}"
            );
            let end = part.rest().await;
            assert!(end.is_whole() && end.bytes() == &content[first..=last], "{form}");
        }
    }
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_cold_blob_never_has_the_refusal_of_a_range() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, (form, faults)) in forms().into_iter().enumerate() {
        let (digest, content) = add(&registry, 1_500_000, seed as u64);
        meet(&registry, Server::Api, &digest, &faults);
        let gate = Gate::new();
        registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at: 70_000, gate: gate.clone() });
        // Far enough ahead for a request of its own.
        let part = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=-1000")]).await;
        registry.wait_for(|seen| seen.len() >= 2).await;
        gate.open();
        assert_eq!(part.status, 206, "{form}");
        let end = part.rest().await;
        assert!(end.is_whole() && end.bytes() == &content[content.len() - 1000..], "{form}");
        let whole = bounded(mirror.get(&path(&digest))).await;
        assert!(whole.status == 200 && whole.body == content, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_is_told_where_neither_head_nor_parts_are_given() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let head = || When::blobs().method(http::Method::HEAD);
    // These are about the blob, or have no other length in them.
    let about = [
        "404",
        "410",
        "206 of another length",
        "200 and the whole without a length",
        "200 of the part",
        "200 of the part without a length",
    ];
    let forms = forms().into_iter().filter(|(form, _)| !about.contains(form));
    for (seed, (form, faults)) in forms.enumerate() {
        let (digest, _) = add(&registry, LEN, seed as u64);
        for (server, refused) in [(Server::Api, 405), (Server::Cdn, 403)] {
            meet(&registry, server, &digest, &faults);
            if server == Server::Cdn {
                registry.fault(When::blob(&digest), Fault::Redirect { status: 307, to: To::Cdn });
            }
            registry.fault(head().at(server), Fault::status(refused));
            let answer = mirror.head(&path(&digest)).await;
            assert_eq!((answer.status, answer.header("content-length")), (200, Some("400000")), "{form}, {server:?}");
        }
    }
}

/// The clock is paused, so all runs on one thread.
#[tokio::test]
async fn a_range_that_hangs_is_followed_by_the_whole() {
    for (seed, is_left) in [(1, true), (2, false)] {
        for fault in [
            Fault::HoldHead(Gate::new()),
            Fault::HoldBody { at: 0, gate: Gate::new() },
            Fault::HoldBody { at: 5, gate: Gate::new() },
        ] {
            let registry = FakeRegistry::start().await;
            let mut mirror = Mirror::of(&registry).await;
            let (digest, content) = add(&registry, LEN, seed);
            if is_left {
                mirror.drain().await;
                blob::leave(&mirror.cache_dir(), &registry, &digest, &content[..FRONT]);
                mirror.start().await;
                mirror.until_metric("forebay_cache_objects", &[("kind", "partial")], 1.0).await;
            } else {
                registry.fault_times(1, When::blob(&digest), Fault::Truncate { at: FRONT });
            }
            registry.fault(When::blob(&digest).ranged(), fault.clone());
            let client = Raw::send(mirror.address(), &path(&digest), &[]).await.unwrap();
            registry.wait_for(|seen| seen.iter().any(|request| request.header("range").is_some())).await;
            tokio::time::pause();
            let end = Raw::answer(client).await.unwrap().rest().await;
            tokio::time::resume();
            assert!(end.is_whole() && end.bytes() == content, "{is_left} {fault:?}");
            assert!(registry.count(|request| request.header("range").is_some()) <= 2, "{is_left} {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_with_too_much_to_do_keeps_what_is_left() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    mirror.drain().await;
    let (digest, content) = add(&registry, LEN, 1);
    blob::leave(&mirror.cache_dir(), &registry, &digest, &content[..FRONT]);
    mirror.start().await;
    registry.fault(When::blobs(), Fault::too_many("7"));
    for _ in 0..3 {
        let refused = mirror.get(&path(&digest)).await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("7")));
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
    registry.heal();
    registry.forget_requests();
    assert!(mirror.get(&path(&digest)).await.body == content);
    assert_eq!(registry.requests()[0].header("range"), Some("bytes=200000-"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_goes_when_it_has_failed_twice() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    mirror.drain().await;
    let (digest, content) = add(&registry, LEN, 1);
    let part = blob::partial(&mirror.cache_dir(), &digest);
    blob::leave(&mirror.cache_dir(), &registry, &digest, &content[..FRONT]);
    for failures in 1..=2 {
        mirror.start().await;
        registry.fault(When::blobs(), Fault::status(403));
        assert_eq!(mirror.get(&path(&digest)).await.status, 403);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(part.exists(), failures < 2);
        // An outage is no failure of what is left.
        registry.heal();
        registry.fault(When::blobs(), Fault::status(503));
        assert_eq!(mirror.get(&path(&digest)).await.status, 502);
        mirror.drain().await;
        assert_eq!(part.exists(), failures < 2);
        registry.heal();
    }
    mirror.start().await;
    registry.forget_requests();
    assert!(mirror.get(&path(&digest)).await.body == content);
    assert!(registry.requests().iter().all(|request| request.header("range").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_told_to_be_empty_is_not_out_of_range() {
    for size in [1 << 30, 100_000] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::build(&registry).max_size(size).start().await;
        let (digest, content) = add(&registry, 300_000, 1);
        registry.fault(When::blob(&digest).method(Method::HEAD), Fault::ContentLength(0));
        let answer = mirror.get_with(&path(&digest), &[("range", "bytes=5-9")]).await;
        let expected = if answer.status == 206 { content.slice(5..10) } else { content };
        assert!([200, 206].contains(&answer.status) && answer.body == expected, "{size}: {}", answer.status);
    }
}
