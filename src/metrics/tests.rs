use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use super::*;
use crate::{
    auth::LoginFailure,
    cache::{DownloadResult, ObjectKind, Outcome},
    cluster::{PeerPlace, PeerResult, RefusedProof},
    rule::RuleResult,
    store::{Direction, StoreOperation, StoreResult, UploadResult},
    transport::HandshakeFailure,
    upstream::{FailureCause, RateKey, TokenResult},
    warm::WarmResult,
};

/// Metrics in which every family has a value.
fn everything() -> Metrics {
    let metrics = Metrics::new().unwrap();
    let second = Duration::from_secs(1);
    let request = AnsweredRequest { status: 200, first_byte: second / 100, duration: second, sent: 42 };
    metrics.request("docker.io", Operation::Blob, Outcome::Hit, request);
    metrics.upstream_request("docker.io", Operation::Manifest, Some(200));
    metrics.upstream_request("docker.io", Operation::Token, None);
    metrics.upstream_error("docker.io", FailureCause::NotARegistry);
    metrics.unconfigured_upstream();
    metrics.auth_failure(LoginFailure::Wrong);
    metrics.handshake_failure(HandshakeFailure::Certificate);
    metrics.upstream_request_took("docker.io", Operation::Manifest, second);
    metrics.upstream_received("docker.io", 7);
    metrics.rate_limited("docker.io", RateKey::MaxRateOut, second);
    metrics.upstream_up("docker.io", true);
    metrics.upstream_paused("docker.io", false);
    metrics.upstream_credentials("docker.io", true);
    metrics.upstream_ratelimit("docker.io", Some(100), Some(99));
    metrics.token("docker.io", TokenResult::Fetched);
    metrics.digest_mismatch("docker.io");
    metrics.fill("docker.io", DownloadResult::UpstreamFailed);
    metrics.cache(ObjectKind::Partial, 1000, 3);
    metrics.cache_in_flight(500);
    metrics.cache_pinned(300);
    metrics.image_warmed(WarmResult::Fetched);
    metrics.cache_max(1 << 30);
    metrics.cache_filesystem_free(1 << 31);
    metrics.cache_oldest_use(Some(8));
    metrics.evicted(5);
    metrics.corrupt_object(ObjectKind::Blob);
    metrics.scrubbed(6);
    metrics.oldest_verification(7);
    metrics.connection_refused();
    metrics.reload("tls", false);
    metrics.reload("config", true);
    metrics.certificate_expiry(9);
    metrics.stall("read");
    metrics.rule_held("docker.io/*", RuleResult::Denied);
    metrics.in_cluster::<PeerPlace, PeerResult, RefusedProof>();
    metrics.cluster_members(2, 1, true);
    metrics.peer_request(PeerPlace::SameZone, PeerResult::Answered);
    metrics.peer_received(PeerPlace::OtherZone, 10);
    metrics.with_store::<StoreOperation, StoreResult, Direction, UploadResult>();
    metrics.store_request(StoreOperation::Get, StoreResult::Ok);
    metrics.store_bytes(Direction::In, 11);
    metrics.store_upload(UploadResult::Uploaded);
    metrics.store_queue(12);
    metrics.store_wrong_object();
    metrics.store_record_refused(StoreResult::Refused);
    metrics.redirected("docker.io", 13);
    metrics.returned_after_redirect("docker.io");
    drop(metrics.circuit_opened("docker.io"));
    metrics
}

/// Name, type and labels of every metric, as lines of `docs/metrics.md`: "- `NAME` (TYPE; `LABEL`, …)".
fn described(metrics: &Metrics) -> BTreeSet<String> {
    let families = metrics.0.registry.gather();
    let own = families.iter().filter(|family| family.name().starts_with("forebay_"));
    own.map(|family| {
        let labels = family.get_metric()[0].get_label().iter().map(|label| format!("`{}`", label.name()));
        let labels = labels.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        let labels = if labels.is_empty() { "no labels".to_owned() } else { labels.join(", ") };
        format!("`{}` ({}; {labels})", family.name(), format!("{:?}", family.get_field_type()).to_lowercase())
    })
    .collect()
}

#[test]
fn what_failed_last_is_told_until_it_is_read() {
    let metrics = Metrics::new().unwrap();
    for (what, ok, failed) in [
        ("tls", true, &[][..]),
        ("tls", false, &["tls"]),
        ("token", false, &["tls", "token"]),
        ("tls", true, &["token"]),
        ("config", false, &["config", "token"]),
        ("config", true, &[]),
    ] {
        metrics.reload(what, ok);
        assert_eq!(metrics.failed_reloads(), failed, "{what} {ok}");
    }
}

#[test]
fn the_document_has_every_metric_with_its_labels() {
    let document = include_str!("../../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("- `forebay_"));
    let document: BTreeSet<String> = document
        .map(|line| {
            let (head, _) = line.split_once("):").expect("a metric is \"`NAME` (TYPE; LABELS): …\"");
            let (head, labels) = head.split_once("; ").expect("the type comes first");
            let labels = labels.split(", ").collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
            format!("`forebay_{head}; {})", labels.join(", "))
        })
        .collect();
    assert_eq!(document, described(&everything()));
}

#[test]
fn the_names_of_the_contract_are_there() {
    let text = everything().encode().unwrap();
    for (name, kind) in [
        ("forebay_requests_total", "counter"),
        ("forebay_request_duration_seconds", "histogram"),
        ("forebay_time_to_first_byte_seconds", "histogram"),
        ("forebay_sent_bytes_total", "counter"),
        ("forebay_upstream_requests_total", "counter"),
        ("forebay_upstream_errors_total", "counter"),
        ("forebay_unconfigured_upstream_requests_total", "counter"),
        ("forebay_auth_failures_total", "counter"),
        ("forebay_tls_handshake_failures_total", "counter"),
        ("forebay_upstream_request_duration_seconds", "histogram"),
        ("forebay_upstream_received_bytes_total", "counter"),
        ("forebay_rate_limited_seconds_total", "counter"),
        ("forebay_upstream_up", "gauge"),
        ("forebay_upstream_paused", "gauge"),
        ("forebay_upstream_credentials_ok", "gauge"),
        ("forebay_upstream_ratelimit_limit", "gauge"),
        ("forebay_upstream_ratelimit_remaining", "gauge"),
        ("forebay_tokens_total", "counter"),
        ("forebay_digest_mismatches_total", "counter"),
        ("forebay_fills_total", "counter"),
        ("forebay_fills_in_flight", "gauge"),
        ("forebay_cache_bytes", "gauge"),
        ("forebay_cache_max_bytes", "gauge"),
        ("forebay_cache_filesystem_free_bytes", "gauge"),
        ("forebay_cache_pinned_bytes", "gauge"),
        ("forebay_warm_images_total", "counter"),
        ("forebay_cache_oldest_use_timestamp_seconds", "gauge"),
        ("forebay_cache_objects", "gauge"),
        ("forebay_evicted_bytes_total", "counter"),
        ("forebay_cache_corrupt_objects_total", "counter"),
        ("forebay_scrub_bytes_total", "counter"),
        ("forebay_scrub_oldest_verification_timestamp_seconds", "gauge"),
        ("forebay_sent_by_kernel_bytes_total", "counter"),
        ("forebay_connections", "gauge"),
        ("forebay_connections_refused_total", "counter"),
        ("forebay_build_info", "gauge"),
        ("forebay_reloads_total", "counter"),
        ("forebay_config_last_reload_successful", "gauge"),
        ("forebay_config_last_reload_success_timestamp_seconds", "gauge"),
        ("forebay_tls_certificate_expiry_timestamp_seconds", "gauge"),
        ("forebay_stalls_total", "counter"),
        ("forebay_rule_held_total", "counter"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is missing from\n{text}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    for line in [
        r#"forebay_requests_total{operation="blob",outcome="hit",status="200",upstream="docker.io"} 1"#,
        r#"forebay_sent_bytes_total{operation="blob",outcome="hit",upstream="docker.io"} 42"#,
        r#"forebay_upstream_requests_total{operation="token",status="error",upstream="docker.io"} 1"#,
        r#"forebay_fills_total{result="upstream_failed",upstream="docker.io"} 1"#,
        r#"forebay_cache_bytes{kind="partial"} 1000"#,
        r#"forebay_reloads_total{result="failed",what="tls"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is missing from\n{text}");
    }
    #[cfg(target_os = "linux")]
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
}

#[test]
fn gauges_of_what_is_in_flight_go_down_again() {
    let metrics = Metrics::new().unwrap();
    let (first, second) = (metrics.connection(), metrics.connection());
    assert!(metrics.encode().unwrap().contains("forebay_connections 2\n"));
    drop(first);
    assert!(metrics.encode().unwrap().contains("forebay_connections 1\n"));
    drop(second);
    let fill = metrics.fill_started();
    assert!(metrics.encode().unwrap().contains("forebay_connections 0\n"));
    assert!(metrics.encode().unwrap().contains("forebay_fills_in_flight 1\n"));
    drop(fill);
    assert!(metrics.encode().unwrap().contains("forebay_fills_in_flight 0\n"));
}

#[test]
fn promtool_finds_no_fault() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian package `prometheus`) is needed to check the metrics");
    promtool.stdin.take().unwrap().write_all(everything().encode().unwrap().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "promtool: {said}");
}
