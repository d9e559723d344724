//! Prometheus itself is content with `/metrics`.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use forebay_test_support::{
    real::{
        daemon::Daemon,
        download::client,
        forebay::{Forebay, local},
        image::{Format, Image},
        port::free_port,
        program,
        registry::Registry,
    },
    until::until,
};

/// Every name that operators may build on, and that traffic of pulls alone brings out.
const NAMES: [&str; 27] = [
    "forebay_requests_total",
    "forebay_request_duration_seconds",
    "forebay_time_to_first_byte_seconds",
    "forebay_sent_bytes_total",
    "forebay_upstream_requests_total",
    "forebay_upstream_request_duration_seconds",
    "forebay_upstream_received_bytes_total",
    "forebay_upstream_up",
    "forebay_digest_mismatches_total",
    "forebay_fills_total",
    "forebay_fills_in_flight",
    "forebay_cache_bytes",
    "forebay_cache_max_bytes",
    "forebay_cache_filesystem_free_bytes",
    "forebay_cache_oldest_use_timestamp_seconds",
    "forebay_cache_objects",
    "forebay_evicted_bytes_total",
    "forebay_connections",
    "forebay_build_info",
    "forebay_config_last_reload_successful",
    "forebay_config_last_reload_success_timestamp_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
];

/// A mirror that has seen a miss and a hit of a manifest and of a blob.
async fn used_mirror(registry: &Registry) -> Forebay {
    let image = Image::new(Format::Oci, 90, &[40_000]);
    registry.pusher().image("library/layers", "1", &image).await;
    let config = format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    let forebay = Forebay::start(&config, &[]).await;
    for _ in 0..2 {
        for path in ["manifests/1".to_owned(), format!("blobs/{}", image.layers[0].digest)] {
            let url = forebay.url(&format!("/v2/library/layers/{path}"));
            let answer = client().get(url).header("accept", image.manifest.media_type).send().await;
            let answer = answer.expect("forebay answers").error_for_status().expect("it has what was pushed");
            answer.bytes().await.expect("the answer is whole");
        }
        // A client has its last byte before the fill has put the blob in its place.
        until("the fill is counted", async || (forebay.metric("forebay_fills_total", &[]).await > 0.0).then_some(()))
            .await;
    }
    forebay
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_all_metrics_of_the_contract() {
    let registry = Registry::open().await;
    let forebay = used_mirror(&registry).await;
    let answer = client().get(forebay.admin_url("/metrics")).send().await.expect("the admin listener answers");
    let text = answer.text().await.expect("metrics are text");

    let mut promtool = program::command("promtool", "prometheus");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool can be started");
    child.stdin.take().expect("its input is a pipe").write_all(text.as_bytes()).expect("promtool reads all");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");

    let missing: Vec<&str> = NAMES.into_iter().filter(|name| !text.contains(&format!("# TYPE {name} "))).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in\n{text}");
    for outcome in ["hit", "miss"] {
        let blobs = ["operation=\"blob\"", "upstream=\"docker.io\"", &format!("outcome=\"{outcome}\"")];
        assert_eq!(forebay.metric("forebay_requests_total", &blobs).await, 1.0, "{outcome}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_the_admin_listener() {
    let registry = Registry::open().await;
    let forebay = used_mirror(&registry).await;
    let folder = TempDir::with_prefix("forebay-prometheus-").expect("a folder can be made");
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 200ms }}\n\
         scrape_configs: [{{ job_name: forebay, static_configs: [{{ targets: ['127.0.0.1:{}'] }}] }}]\n",
        forebay.admin
    );
    fs::write(&config, text).expect("the configuration can be written");
    let port = free_port();
    let mut command = program::command("prometheus", "prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let mut prometheus = Daemon::spawn("prometheus", command, &folder.path().join("log"));
    prometheus.until_listening(local(port)).await;

    for (query, wanted) in [("up", "1"), ("forebay_requests_total{operation=\"blob\",outcome=\"hit\"}", "1")] {
        until(&format!("prometheus knows {query} as {wanted}"), async || {
            let url = format!("http://127.0.0.1:{port}/api/v1/query");
            let answer = client().get(url).query(&[("query", query)]).send().await.ok()?;
            let answer: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
            (answer["data"]["result"][0]["value"][1] == wanted).then_some(())
        })
        .await;
    }
}
