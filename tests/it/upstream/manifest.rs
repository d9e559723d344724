//! Manifests, tag lists and the rest of the API, without redirects and credentials.

use std::time::Duration;

use forebay::{oci::Operation, upstream::ErrorKind};
use http::Method;

use super::{MANIFEST, Subject, accept, any_list, config_of, kind, name, reference_of};
use forebay_test_support::fake_registry::{FakeRegistry, Fault, Gate, Server, To, When};

#[tokio::test]
async fn a_manifest_comes_byte_for_byte_with_its_type_and_digest() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    for reference in ["1", image.manifest.as_str()] {
        let reference = reference_of(reference);
        let got = subject.upstream.get_manifest(&name("team/app"), &reference, &accept(&[])).await.unwrap();
        assert_eq!(got.bytes, image.manifest_bytes);
        assert_eq!(got.digest.as_ref(), Some(&image.manifest));
        assert_eq!(got.media_type.unwrap().as_str(), MANIFEST);
    }
    assert_eq!(
        subject.metric(r#"forebay_upstream_requests_total{operation="manifest",status="200",upstream="fake.example"}"#),
        2
    );
    let bytes = 2 * image.manifest_bytes.len() as u64;
    assert_eq!(subject.metric(r#"forebay_upstream_received_bytes_total{upstream="fake.example"}"#), bytes);
}

#[tokio::test]
async fn a_head_stays_a_head() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    let head =
        subject.upstream.head_manifest(&name("team/app"), &reference_of("1"), &accept(&[MANIFEST])).await.unwrap();
    assert_eq!(head.digest, Some(image.manifest));
    assert_eq!(head.len, Some(image.manifest_bytes.len() as u64));
    assert_eq!(head.media_type.unwrap().as_str(), MANIFEST);
    registry.fault(When::manifests(), Fault::Header("docker-content-digest", None));
    registry.fault(When::manifests(), Fault::Header("content-type", Some("nonsense".into())));
    let head = subject.upstream.head_manifest(&name("team/app"), &reference_of("1"), &accept(&[])).await.unwrap();
    assert_eq!((head.digest, head.media_type), (None, None));
    registry.heal();
    for status in [405, 404, 400] {
        registry.fault(When::manifests(), Fault::status(status));
        let head = subject.upstream.head_manifest(&name("team/app"), &reference_of("1"), &accept(&[])).await;
        assert!(head.is_err());
    }
    assert_eq!(registry.count(|request| request.method != Method::HEAD), 0);
}

#[tokio::test]
async fn the_clients_accept_is_passed_on_as_it_is() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let subject = Subject::of(&registry);
    let wanted = ["application/vnd.oci.image.index.v1+json;q=0.5, text/x", "application/json"];
    subject.upstream.get_manifest(&name("team/app"), &reference_of("1"), &accept(&wanted)).await.unwrap();
    let sent = &registry.requests()[0].headers;
    assert_eq!(sent.get_all("accept").iter().collect::<Vec<_>>(), wanted);
    assert_eq!(sent["accept-encoding"], "identity");
    assert_eq!(sent["via"], "1.1 forebay-test");
    assert!(sent["user-agent"].to_str().unwrap().starts_with("forebay/"));
    for absent in ["referer", "cookie", "authorization", "range", "content-length"] {
        assert!(!sent.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn answers_that_are_no_success() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let subject = Subject::of(&registry);
    for (status, expected) in [
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (405, ErrorKind::Unsupported),
        (429, ErrorKind::TooManyRequests),
        (500, ErrorKind::Unavailable),
        (502, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
        (508, ErrorKind::Loop),
        (204, ErrorKind::Protocol),
        (300, ErrorKind::Protocol),
        (418, ErrorKind::Rejected { status: 418 }),
    ] {
        registry.heal();
        registry.fault(When::any(), Fault::status(status));
        assert_eq!(kind(subject.manifest("team/app", "1").await), Some(expected), "{status}");
    }
    registry.heal();
    registry.fault(When::any(), Fault::Disconnect);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 0);
    let errors = r#"forebay_upstream_requests_total{operation="manifest",status="error",upstream="fake.example"}"#;
    assert_eq!(subject.metric(errors), 1);
    registry.heal();
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1);
    assert_eq!(kind(subject.manifest("team/app", "2").await), Some(ErrorKind::NotFound));
    assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1);
}

#[tokio::test]
async fn too_many_requests_tells_when_to_come_back() {
    let registry = FakeRegistry::start().await;
    let subject = Subject::of(&registry);
    registry.fault_times(1, When::any(), Fault::too_many("17"));
    let error = subject.manifest("team/app", "1").await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (ErrorKind::TooManyRequests, Some(Duration::from_secs(17))));
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(600));
    registry.fault_times(1, When::any(), Fault::too_many(&date));
    let wait = subject.manifest("team/app", "1").await.unwrap_err().retry_after.unwrap();
    assert!((500..=600).contains(&wait.as_secs()), "{wait:?}");
    // Who has had enough of us is up.
    assert_eq!(subject.metric(r#"forebay_upstream_up{upstream="fake.example"}"#), 1);
}

#[tokio::test]
async fn limits_become_gauges() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.fault(When::any(), Fault::Header("ratelimit-limit", Some("100;w=21600".into())));
    registry.fault(When::any(), Fault::Header("ratelimit-remaining", Some("76;w=21600".into())));
    let subject = Subject::of(&registry);
    subject.upstream.head_manifest(&name("team/app"), &reference_of("1"), &accept(&[])).await.unwrap();
    assert_eq!(subject.metric(r#"forebay_upstream_ratelimit_limit{upstream="fake.example"}"#), 100);
    assert_eq!(subject.metric(r#"forebay_upstream_ratelimit_remaining{upstream="fake.example"}"#), 76);
}

#[tokio::test]
async fn a_page_for_people_is_an_outage_and_no_manifest() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.fault(When::any(), Fault::html());
    let error = Subject::of(&registry).manifest("team/app", "1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Protocol);
    assert!(error.kind.is_outage());
}

#[tokio::test]
async fn a_manifest_may_have_sixteen_mebibytes_and_no_more() {
    let registry = FakeRegistry::start().await;
    let largest = vec![b' '; 16 * 1024 * 1024];
    let digest = registry.add_manifest("team/app", MANIFEST, largest.clone());
    let larger = registry.add_manifest("team/app", MANIFEST, [&largest[..], b" "].concat());
    let subject = Subject::of(&registry);
    assert_eq!(subject.manifest("team/app", digest.as_str()).await.unwrap().len(), largest.len());
    assert_eq!(kind(subject.manifest("team/app", larger.as_str()).await), Some(ErrorKind::TooLarge));
    registry.fault(When::any(), Fault::NoContentLength);
    assert_eq!(kind(subject.manifest("team/app", larger.as_str()).await), Some(ErrorKind::TooLarge));
}

#[tokio::test]
async fn a_manifest_cut_short_is_an_error() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::of(&registry);
    registry.fault(When::manifests(), Fault::Truncate { at: 20 });
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    registry.fault(When::manifests(), Fault::NoContentLength);
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_given_up() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let gate = Gate::new();
    registry.fault(When::any(), Fault::HoldHead(gate.clone()));
    let subject = Subject::of(&registry);
    let asking = tokio::spawn(async move { subject.manifest("team/app", "1").await });
    gate.reached().await;
    // With the clock paused it jumps to the next timer as soon as there is nothing else to do.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    assert_eq!(kind(asking.await.unwrap()), Some(ErrorKind::Timeout));
    // The wait began a little before the clock stood still.
    assert!((20..=30).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_way_of_slow_steps_ends_in_time() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.fault(When::any(), Fault::Redirect { status: 307, to: To::Here });
    let hold = || {
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        gate
    };
    let wait = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    let mut gate = hold();
    let subject = Subject::of(&registry);
    let asking = tokio::spawn(async move { subject.manifest("team/app", "1").await });
    for _ in 0..2 {
        gate.reached().await;
        // No step takes the 30 s that it may.
        wait(25).await;
        let next = hold();
        gate.open();
        gate = next;
    }
    gate.reached().await;
    wait(11).await;
    assert_eq!(kind(asking.await.unwrap()), Some(ErrorKind::Timeout));
    assert_eq!(registry.requests().len(), 3);
}

#[tokio::test]
async fn a_path_in_the_upstreams_url_stays_in_front() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let subject = Subject::new(&config_of([registry.url().join("/some/prefix").unwrap()]));
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), image.manifest_bytes);
    assert_eq!(registry.requests()[0].path, "/some/prefix/v2/team/app/manifests/1");
}

#[tokio::test]
async fn a_tag_may_move_and_go() {
    let registry = FakeRegistry::start().await;
    let first = registry.add_image("team/app", "1", &[b"old"]);
    let second = registry.add_image("team/app", "2", &[b"new"]);
    assert_ne!(first.config, second.config);
    let subject = Subject::of(&registry);
    registry.tag("team/app", "1", &second.manifest);
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), second.manifest_bytes);
    registry.untag("team/app", "1");
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::NotFound));
    registry.remove_manifest("team/app", &second.manifest);
    assert_eq!(kind(subject.manifest("team/app", "2").await), Some(ErrorKind::NotFound));
    assert_eq!(subject.manifest("team/app", first.manifest.as_str()).await.unwrap(), first.manifest_bytes);
}

#[tokio::test]
async fn lists_are_forwarded_with_the_headers_that_matter() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.add_image("team/app", "2", &[]);
    registry.fault(When::any(), Fault::Header("link", Some("</v2/team/app/tags/list?last=2>; rel=\"next\"".into())));
    registry.fault(When::any(), Fault::Header("set-cookie", Some("a=b".into())));
    let subject = Subject::of(&registry);
    let path = "team/app/tags/list?n=2&last=%2Fb";
    let got = subject
        .upstream
        .forward(Operation::Tags, Some(&name("team/app")), path, &accept(&[]), any_list())
        .await
        .unwrap();
    assert_eq!(got.body, r#"{"name":"team/app","tags":["1","2"]}"#);
    assert_eq!(got.headers["content-type"], "application/json");
    assert_eq!(got.headers["link"], "</v2/team/app/tags/list?last=2>; rel=\"next\"");
    assert_eq!(got.headers.len(), 2);
    let request = &registry.requests()[0];
    assert_eq!((request.path.as_str(), request.query.as_str()), ("/v2/team/app/tags/list", "n=2&last=%2Fb"));
    let catalog =
        subject.upstream.forward(Operation::Catalog, None, "_catalog", &accept(&[]), any_list()).await.unwrap();
    assert_eq!(catalog.body, r#"{"repositories":["team/app"]}"#);
    let missing =
        subject.upstream.forward(Operation::Tags, Some(&name("no")), "no/tags/list", &accept(&[]), any_list()).await;
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn setting_up_needs_no_upstream_and_it_may_come_later() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[]);
    registry.take_down(Server::Api).await;
    let subject = Subject::of(&registry);
    assert_eq!(kind(subject.upstream.ping().await), Some(ErrorKind::Unavailable));
    assert_eq!(kind(subject.manifest("team/app", "1").await), Some(ErrorKind::Unavailable));
    registry.bring_up(Server::Api).await;
    assert!(subject.upstream.ping().await.is_ok());
    assert_eq!(subject.manifest("team/app", "1").await.unwrap(), image.manifest_bytes);
}
