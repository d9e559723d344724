//! The metrics of the operator's contract, after some of everything has happened.

use std::fs;

use http::Method;

use crate::cache::manifest::tag::never_trusting;
use forebay_test_support::manifest::manifest;
use forebay_test_support::{
    blob,
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    test_server::Certificates,
    until::until,
};

/// Names and their labels, as they are documented for operators.
const CONTRACT: [(&str, &[&str]); 26] = [
    ("forebay_requests_total", &["upstream", "operation", "outcome", "status"]),
    ("forebay_request_duration_seconds_count", &["upstream", "operation", "outcome"]),
    ("forebay_time_to_first_byte_seconds_count", &["upstream", "operation", "outcome"]),
    ("forebay_sent_bytes_total", &["upstream", "operation", "outcome"]),
    ("forebay_upstream_requests_total", &["upstream", "operation", "status"]),
    ("forebay_upstream_request_duration_seconds_count", &["upstream", "operation"]),
    ("forebay_upstream_received_bytes_total", &["upstream"]),
    ("forebay_upstream_up", &["upstream"]),
    ("forebay_upstream_paused", &["upstream"]),
    ("forebay_upstream_ratelimit_limit", &["upstream"]),
    ("forebay_upstream_ratelimit_remaining", &["upstream"]),
    ("forebay_tokens_total", &["upstream", "result"]),
    ("forebay_digest_mismatches_total", &["upstream"]),
    ("forebay_fills_total", &["upstream", "result"]),
    ("forebay_fills_in_flight", &[]),
    ("forebay_cache_bytes", &["kind"]),
    ("forebay_cache_max_bytes", &[]),
    ("forebay_cache_filesystem_free_bytes", &[]),
    ("forebay_cache_oldest_use_timestamp_seconds", &[]),
    ("forebay_cache_objects", &["kind"]),
    ("forebay_evicted_bytes_total", &[]),
    ("forebay_connections", &[]),
    ("forebay_build_info", &["version"]),
    ("forebay_config_last_reload_successful", &[]),
    ("forebay_config_last_reload_success_timestamp_seconds", &[]),
    ("process_resident_memory_bytes", &[]),
];

/// The labels of a line, in order.
fn labels(line: &str) -> Vec<&str> {
    let Some((_, rest)) = line.split_once('{') else { return vec![] };
    let mut names: Vec<&str> =
        rest.split('}').next().unwrap().split("\",").map(|pair| pair.split('=').next().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_counts_as_a_kind_of_its_own() {
    const LEN: usize = 1_000_000;
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = blob::add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let mut client = Raw::get(mirror.address(), &blob::path(&digest), &[]).await;
    client.read(LEN / 2).await;
    let bytes = async |kind: &'static str| mirror.metric("forebay_cache_bytes", &[("kind", kind)]).await;
    assert!(bytes("in_flight").await >= LEN as f64);
    assert_eq!((bytes("blob").await, bytes("partial").await), (0.0, 0.0));
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    until("nothing is in flight", async || bytes("in_flight").await == 0.0).await;
    assert_eq!(bytes("blob").await, LEN.next_multiple_of(4096) as f64);
    let taken = mirror.metric("forebay_cache_bytes", &[]).await;
    assert_eq!(taken, blob::allocated(&mirror.cache_dir()) as f64, "what the metric says is what `du` says");
}

#[tokio::test]
async fn a_reload_and_a_certificate_are_told_by_gauges() {
    let registry = FakeRegistry::start().await;
    let certificates = Certificates::new();
    // 1 January 2040 and 2041, in seconds since 1970.
    let (first, second) = (2_208_988_800.0, 2_240_611_200.0);
    certificates.renew_for(2001, 2040);
    let tls = certificates.config.clone();
    let mirror = Mirror::build(&registry).config(|config| config.server.tls = Some(tls)).start().await;
    let told = async || {
        let names = [
            "forebay_config_last_reload_successful",
            "forebay_config_last_reload_success_timestamp_seconds",
            "forebay_tls_certificate_expiry_timestamp_seconds",
        ];
        let [ok, at, expiry] = names.map(|name| mirror.metric(name, &[]));
        (ok.await, at.await, expiry.await)
    };
    let at_start = told().await;
    assert_eq!((at_start.0, at_start.2), (1.0, first));
    assert!(at_start.1 > 1.7e9, "{at_start:?}");
    let mut bad = mirror.config().clone();
    bad.access.htpasswd = Some("/nowhere/htpasswd".into());
    assert!(mirror.app().reload(bad).is_err());
    assert_eq!(told().await, (0.0, at_start.1, first));
    certificates.renew_for(2001, 2041);
    mirror.app().reload(mirror.config().clone()).unwrap();
    let reloaded = told().await;
    assert_eq!((reloaded.0, reloaded.2), (1.0, second));
    assert!(reloaded.1 >= at_start.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_of_the_contract_has_its_labels() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    registry.require(Auth::Bearer(Bearer::default()));
    for (name, value) in [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")] {
        registry.fault(When::manifests(), Fault::Header(name, Some(value.to_owned())));
    }
    let mirror = never_trusting(&registry).await;
    // The first GET is challenged, the second damaged.
    registry.fault_times(2, When::manifests().method(Method::GET), Fault::Corrupt { at: 0 });
    for path in [manifest(1), manifest(1), manifest(1), manifest(9), format!("/v2/team/app/blobs/{}", image.layers[0])]
    {
        mirror.get(&path).await;
    }
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    mirror.until_metric("forebay_requests_total", &[("upstream", "fake.example")], 5.0).await;
    until("the scan is complete", async || {
        mirror.metric("forebay_cache_oldest_use_timestamp_seconds", &[]).await > 0.0
    })
    .await;
    let text = mirror.metrics().await;
    for (name, expected) in CONTRACT {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let lines: Vec<&str> = lines.collect();
        assert!(!lines.is_empty(), "{name} is missing from\n{text}");
        for line in lines {
            assert_eq!(labels(line), expected, "{line}");
        }
    }
    for (name, labels, value) in [
        ("forebay_upstream_ratelimit_limit", &[][..], 100.0),
        ("forebay_upstream_ratelimit_remaining", &[], 76.0),
        ("forebay_upstream_up", &[("upstream", "fake.example")], 1.0),
        ("forebay_digest_mismatches_total", &[], 1.0),
        ("forebay_requests_total", &[("outcome", "revalidated"), ("operation", "manifest"), ("status", "200")], 1.0),
        ("forebay_requests_total", &[("outcome", "miss"), ("operation", "blob"), ("status", "200")], 1.0),
        ("forebay_requests_total", &[("status", "502")], 1.0),
        ("forebay_requests_total", &[("status", "404")], 1.0),
        ("forebay_sent_bytes_total", &[("operation", "blob")], 7.0),
        ("forebay_cache_objects", &[("kind", "blob")], 1.0),
        ("forebay_cache_objects", &[("kind", "manifest")], 1.0),
        ("forebay_cache_objects", &[("kind", "tag")], 1.0),
        ("forebay_upstream_requests_total", &[("operation", "manifest"), ("status", "401")], 1.0),
        ("forebay_config_last_reload_successful", &[], 1.0),
        ("forebay_tls_certificate_expiry_timestamp_seconds", &[], 0.0),
    ] {
        assert_eq!(mirror.metric(name, labels).await, value, "{name}{labels:?} in\n{text}");
    }
    for operation in ["manifest", "blob", "token"] {
        let labels = [("operation", operation)];
        let timed = mirror.metric("forebay_upstream_request_duration_seconds_count", &labels).await;
        assert!(timed > 0.0, "{operation}");
        assert_eq!(timed, mirror.metric("forebay_upstream_requests_total", &labels).await, "{operation}");
    }
}

#[tokio::test]
async fn nothing_a_client_sends_becomes_a_label() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for path in ["/v2/?ns=evil-7.example", "/v2/evil-7/manifests/evil-7", "/evil-7", "/v2/evil-7.example/x/tags/list"] {
        mirror.get(path).await;
    }
    mirror.request(Method::from_bytes(b"EVIL-7").unwrap(), "/v2/evil-7/manifests/1", &[("user-agent", "evil-7")]).await;
    mirror.until_metric("forebay_requests_total", &[], 5.0).await;
    let text = mirror.metrics().await;
    assert!(!text.contains("evil"), "{text}");
}

#[tokio::test]
async fn the_restarted_cache_is_counted_again() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mut mirror = Mirror::of(&registry).await;
    mirror.get(&manifest(1)).await;
    mirror.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", "blob")], 1.0).await;
    mirror.until_metric("forebay_cache_bytes", &[("kind", "in_flight")], 0.0).await;
    let before = mirror.metric("forebay_cache_bytes", &[]).await;
    mirror.restart().await;
    for kind in ["blob", "manifest", "tag"] {
        mirror.until_metric("forebay_cache_objects", &[("kind", kind)], 1.0).await;
    }
    mirror.until_metric("forebay_cache_bytes", &[], before).await;
    let blobs: Vec<_> = fs::read_dir(mirror.cache_dir().join("blobs/sha256")).unwrap().collect();
    assert_eq!(blobs.len(), 1);
}
