//! Several ranges in one request, as clients of zstd:chunked and eStargz ask: one answer with all parts, whatever the upstream
//! can do.

use http::Method;

use super::*;
use forebay_test_support::mirror::Answer;

/// What one part is said to be, and its bytes.
type Part = (String, Bytes);

/// The parts of an answer, which is exactly what a strict reader expects.
fn parts(answer: &Answer) -> Vec<Part> {
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-range"), None);
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    let boundary = answer.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut parts = Vec::new();
    let mut rest = answer.body.clone();
    let take = |rest: &mut Bytes, expected: &str| {
        assert!(rest.starts_with(expected.as_bytes()), "{:?}", String::from_utf8_lossy(&rest[..rest.len().min(200)]));
        drop(rest.split_to(expected.len()));
    };
    take(&mut rest, &format!("--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes "));
    loop {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let range = String::from_utf8(rest.split_to(end).to_vec()).unwrap();
        take(&mut rest, "\r\n\r\n");
        let (first, last) = range.split_once('/').unwrap().0.split_once('-').unwrap();
        let len = last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap();
        parts.push((range, rest.split_to(len)));
        take(&mut rest, &format!("\r\n--{boundary}"));
        if rest.as_ref() == b"--\r\n" {
            return parts;
        }
        take(&mut rest, "\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ");
    }
}

/// What the parts of these bytes of a blob are.
fn expected(content: &Bytes, ranges: &[(usize, usize)]) -> Vec<Part> {
    let part =
        |&(first, last): &(usize, usize)| (format!("{first}-{last}/{}", content.len()), content.slice(first..=last));
    ranges.iter().map(part).collect()
}

async fn get(mirror: &Mirror, digest: &Digest, range: &str) -> Answer {
    bounded(mirror.get_with(&path(digest), &[("range", range)])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_are_one_answer_cold_and_cached() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, (range, ranges)) in (1..).zip([
        ("bytes=0-9,20-29", &[(0, 9), (20, 29)][..]),
        ("bytes=20-29,0-9", &[(20, 29), (0, 9)]),
        ("bytes=0-0,-1", &[(0, 0), (99_999, 99_999)]),
        ("bytes= 5-9 ,, 90000-,", &[(5, 9), (90_000, 99_999)]),
        ("bytes=0-9,90000-200000", &[(0, 9), (90_000, 99_999)]),
        // What lies outside is left out, what overlaps or adjoins is one.
        ("bytes=0-9,200000-,50-59", &[(0, 9), (50, 59)]),
        ("bytes=500000-,0-9,50-59", &[(0, 9), (50, 59)]),
        ("bytes=0-9,10-19,50-59", &[(0, 19), (50, 59)]),
        ("bytes=50-59,5-14,0-9", &[(50, 59), (0, 14)]),
        ("bytes=0-40000,10-20,50000-99999", &[(0, 40_000), (50_000, 99_999)]),
    ]) {
        let (digest, content) = add(&registry, 100_000, seed);
        registry.forget_requests();
        for cold in [true, false] {
            let answer = get(&mirror, &digest, range).await;
            assert_eq!(parts(&answer), expected(&content, ranges), "{range}, cold: {cold}");
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
            let status = answer.header("cache-status").unwrap();
            match cold {
                false => assert_eq!(status, "forebay; hit", "{range}"),
                // By a range that lies outside, too, a download is begun: the others join it.
                true if range.starts_with("bytes=500000-") => {}
                true => assert_eq!(status, "forebay; fwd=miss; stored", "{range}"),
            }
            mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        }
        assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1, "one GET, whatever was asked for");
        assert!(registry.count(|request| request.method == Method::HEAD) <= 1, "{range}: {:?}", registry.requests());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_range_is_left_the_answer_has_no_parts() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, (range, first, last)) in (1..).zip([
        ("bytes=0-9,5-19", 0, 19),
        ("bytes=0-9,10-19", 0, 19),
        ("bytes=10-19,0-9", 0, 19),
        ("bytes=5-9,5-9", 5, 9),
        ("bytes=5-9,5000-", 5, 9),
        ("bytes=5000-,7000-7001,5-9", 5, 9),
        ("bytes=9-5,5-9", 5, 9),
        ("bytes=0-499,500-", 0, 999),
    ]) {
        let (digest, content) = add(&registry, 1000, seed);
        for cold in [true, false] {
            let answer = get(&mirror, &digest, range).await;
            let part = (answer.status, answer.header("content-range"), &answer.body);
            let content_range = format!("bytes {first}-{last}/1000");
            assert_eq!(part, (206, Some(&*content_range), &content.slice(first..=last)), "{range}, cold: {cold}");
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        }
    }
}

/// It takes the first part for the first range, and so on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_gets_as_many_parts_as_it_asks_for() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 1000, 1);
    let user_agent = ("user-agent", "containers/5.23.1 (github.com/containers/image)");
    for (range, ranges) in [
        ("bytes=0-9,10-19", &[(0, 9), (10, 19)][..]),
        ("bytes=0-9,10-19,20-29,50-", &[(0, 9), (10, 19), (20, 29), (50, 999)]),
    ] {
        let answer = mirror.get_with(&path(&digest), &[("range", range), user_agent]).await;
        assert_eq!(parts(&answer), expected(&content, ranges), "{range}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_are_too_many_or_none_are_refused() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let set = |count: usize| (0..count).map(|n| format!("{0}-{0}", 2 * n)).collect::<Vec<_>>().join(",");
    let (digest, content) = add(&registry, 10_000, 1);
    let too_many = format!("bytes={}", set(1025));
    // Nothing is fetched for it.
    assert_eq!(get(&mirror, &digest, &too_many).await.status, 400);
    assert!(registry.requests().is_empty());
    // Cold, and cached.
    for _ in 0..2 {
        for range in [&*too_many, "bytes=0-,0-", "bytes=0-9999,0-0", "bytes=-6000,-6000", "bytes=0-5000,5000-"] {
            let answer = get(&mirror, &digest, range).await;
            assert_eq!(
                (answer.status, &*answer.error_code()),
                (400, "UNSUPPORTED"),
                "{}",
                &range[..20.min(range.len())]
            );
        }
        for range in ["bytes=10000-,20000-30000", "bytes=9-5,-0"] {
            let answer = get(&mirror, &digest, range).await;
            assert_eq!((answer.status, &*answer.error_code()), (416, "SIZE_INVALID"), "{range}");
            assert_eq!(answer.header("content-range"), Some("bytes */10000"), "{range}");
        }
        let answer = get(&mirror, &digest, &format!("bytes={}", set(1024))).await;
        assert_eq!(parts(&answer).len(), 1024);
    }
    // What is no set of ranges is none.
    for ignored in ["bytes=0-9,x", "bytes=0-9;20-29", "lines=0-9,20-29"] {
        let answer = get(&mirror, &digest, ignored).await;
        assert_eq!((answer.status, &answer.body), (200, &content), "{ignored}");
    }
    assert_eq!(mirror.request(Method::HEAD, &path(&digest), &[("range", &too_many)]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_of_what_the_client_has_no_more_are_the_whole() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 1000, 1);
    let etag = format!("\"{digest}\"");
    for condition in ["\"other\"", &*etag, "W/\"other\""] {
        let headers = [("range", "bytes=0-9,20-29"), ("if-range", condition)];
        let answer = mirror.get_with(&path(&digest), &headers).await;
        if condition == etag {
            assert_eq!(parts(&answer), expected(&content, &[(0, 9), (20, 29)]));
        } else {
            assert_eq!((answer.status, &answer.body), (200, &content), "{condition}");
        }
    }
    let headers = [("range", "bytes=0-9,20-29"), ("if-none-match", &*etag)];
    assert_eq!(mirror.get_with(&path(&digest), &headers).await.status, 304);
    assert_eq!(
        mirror.request(Method::HEAD, &path(&digest), &headers[..1]).await.header("content-length"),
        Some("1000")
    );
}

/// podman asks for up to 1024 ranges of a large blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_room_for_a_thousand_ranges() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, MIB, 1);
    assert_eq!(mirror.get(&path(&digest)).await.status, 200);
    // As long as those of a blob of 100 GB are.
    let ranges: Vec<(usize, usize)> = (0..1024).map(|n| (n * 1000, n * 1000 + n % 7)).collect();
    let set: Vec<String> = ranges.iter().map(|(first, last)| format!("{first:011}-{last:011}")).collect();
    let range = format!("bytes={}", set.join(","));
    assert_eq!(parts(&get(&mirror, &digest, &range).await), expected(&content, &ranges));
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let request = http2.get(format!("{}{}", mirror.url(), path(&digest))).header("range", range);
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let answer = Answer { status, headers, body: response.bytes().await.unwrap() };
    assert_eq!(parts(&answer), expected(&content, &ranges));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distant_ranges_of_a_cold_blob_do_not_wait_for_all() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 16 * MIB, 64 * 1024);
    let ranges = [(0, 9), (4 * MIB, 5 * MIB), (15 * MIB, 16 * MIB - 1), (8 * MIB, 8 * MIB + 9)];
    let set: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let answer = get(&mirror, &digest, &format!("bytes={}", set.join(","))).await;
    assert_eq!(parts(&answer), expected(&content, &ranges));
    gate.open();
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    until_stored(&mirror).await;
    // forebay requests one range at a time from the upstream.
    for request in registry.requests() {
        assert!(request.header("range").is_none_or(|range| !range.contains(',')), "{request:?}");
    }
    let factor = received(&mirror).await / (16 * MIB) as f64;
    assert!((1.0..1.3).contains(&factor), "the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_without_ranges_is_no_reason_for_the_whole() {
    for fault in [Fault::IgnoreRange, Fault::RefuseRange, Fault::ShiftRange(3), Fault::Header("content-range", None)] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content) = add(&registry, 4 * MIB, 1);
        registry.fault(When::blobs().ranged(), fault.clone());
        let answer = get(&mirror, &digest, "bytes=-1000,0-9,2000000-2000009").await;
        let ranges = [(4 * MIB - 1000, 4 * MIB - 1), (0, 9), (2_000_000, 2_000_009)];
        assert_eq!(parts(&answer), expected(&content, &ranges), "{fault:?}");
    }
}

/// It is larger than the cache: forebay requests each range, and sends the whole where the upstream has no ranges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_of_a_blob_that_is_not_cached() {
    for fault in [None, Some(Fault::IgnoreRange), Some(Fault::RefuseRange), Some(Fault::Truncate { at: 100 })] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::build(&registry).max_size(MIB as u64).start().await;
        let (digest, content) = add(&registry, 4 * MIB, 1);
        let is_refused = matches!(fault, Some(Fault::IgnoreRange | Fault::RefuseRange));
        match fault {
            Some(Fault::Truncate { .. }) => registry.fault_times(3, When::blobs().ranged(), fault.unwrap()),
            Some(fault) => registry.fault(When::blobs().ranged(), fault),
            None => {}
        }
        let answer = get(&mirror, &digest, "bytes=3000000-3000999,0-999,2000000-2000999").await;
        if is_refused {
            assert_eq!((answer.status, &answer.body), (200, &content));
        } else {
            let ranges = [(3_000_000, 3_000_999), (0, 999), (2_000_000, 2_000_999)];
            assert_eq!(parts(&answer), expected(&content, &ranges));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_whose_second_range_fails_is_broken() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(MIB as u64).start().await;
    let (digest, _) = add(&registry, 4 * MIB, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs().ranged(), Fault::HoldBody { at: 1000, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=0-99999,3000000-")]).await;
    assert!(client.header("content-type").unwrap().starts_with("multipart/byteranges; boundary="));
    gate.reached().await;
    // The rest of the first part comes, and nothing any more after it.
    registry.fault(When::blobs(), Fault::status(404));
    gate.open();
    let end = client.rest().await;
    assert!(!end.is_whole() && end.bytes().len() < 150_000, "{}", end.bytes().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_of_unknown_length_return_the_whole_blob() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = of_unknown_length(&registry);
    let cold = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=5-9,20-29")]).await;
    assert_eq!(cold.status, 200);
    gate.open();
    let end = cold.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    until_stored(&mirror).await;
    assert_eq!(parts(&get(&mirror, &digest, "bytes=5-9,20-29").await), expected(&content, &[(5, 9), (20, 29)]));
}
