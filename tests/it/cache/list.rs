//! Tags and the catalogue: asked for each time, in pages, and given as they were when the upstream cannot be asked.

pub mod passthrough;
pub mod referrers;
pub mod referrers_tag;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;

use crate::push::put_manifest;
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    mirror::{Answer, Mirror},
    until::{bounded, until},
};

pub const STALE: Option<&str> = Some("forebay; hit; detail=stale");

/// What is in all pages of a list, following each `Link` to the next.
pub async fn pages(mirror: &Mirror, first: &str) -> Vec<Answer> {
    let mut pages = vec![mirror.get(first).await];
    while let Some(link) = pages.last().and_then(|page| page.header("link")) {
        let (next, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(rest, r#"; rel="next""#);
        let next = mirror.get(next).await;
        assert_eq!(next.status, 200, "{next:?}");
        pages.push(next);
        assert!(pages.len() < 20, "it has no end");
    }
    pages
}

/// The names in all pages of a list.
async fn names(mirror: &Mirror, first: &str, field: &str) -> Vec<Vec<String>> {
    let read = |page: Answer| {
        let json: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        json[field].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    pages(mirror, first).await.into_iter().map(read).collect()
}

async fn filled() -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::start().await;
    for (repository, tag) in [("a/b", "1"), ("a/b", "2"), ("a/b", "3+"), ("a/c", "1"), ("d", "1")] {
        registry.add_image(repository, tag, &[]);
    }
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].push = true).start().await;
    (registry, mirror)
}

#[tokio::test]
async fn all_pages_come_by_each_name_and_without_the_upstream() {
    let (registry, mirror) = filled().await;
    let front = "/v2/fake.example";
    for _ in ["with the upstream", "without"] {
        for (first, field, expected) in [
            ("/v2/a/b/tags/list?n=2", "tags", &[&["1", "2"][..], &["3+"]][..]),
            (&*format!("{front}/a/b/tags/list?n=1"), "tags", &[&["1"], &["2"], &["3+"]]),
            ("/v2/a/b/tags/list?n=2&ns=fake.example", "tags", &[&["1", "2"], &["3+"]]),
            ("/v2/a/b/tags/list?n=0", "tags", &[&[]]),
            ("/v2/a/b/tags/list", "tags", &[&["1", "2", "3+"]]),
            ("/v2/a/b/tags/list?last=2", "tags", &[&["3+"]]),
            ("/v2/_catalog?n=2", "repositories", &[&["a/b", "a/c"], &["d"]]),
            (&format!("{front}/_catalog?n=2"), "repositories", &[&["a/b", "a/c"], &["d"]]),
            ("/v2/_catalog?ns=fake.example", "repositories", &[&["a/b", "a/c", "d"]]),
        ] {
            assert_eq!(names(&mirror, first, field).await, expected, "{first}");
        }
        registry.take_down(Server::Api).await;
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_answer_leaves_the_last_list() {
    let (registry, mirror) = filled().await;
    let paths = ["/v2/a/b/tags/list", "/v2/_catalog?n=2"];
    for path in paths {
        let refused = mirror.get("/v2/none/tags/list").await;
        assert_eq!((refused.status, mirror.get(path).await.header("cache-status")), (404, Some("forebay; fwd=bypass")));
    }
    let good = join_all(paths.map(|path| mirror.get(path))).await;
    for fault in [Fault::too_many("60"), Fault::status(500), Fault::status(503), Fault::Disconnect, Fault::html()] {
        registry.heal();
        // It answers between them, so that it does not fail too often in a row to be asked.
        assert_eq!(mirror.get("/v2/none/tags/list").await.status, 404);
        registry.fault(When::any(), fault.clone());
        for (path, good) in paths.iter().zip(&good) {
            let stale = mirror.get(path).await;
            assert_eq!((stale.status, stale.header("cache-status")), (200, STALE), "{fault:?} {path}");
            assert_eq!((&stale.body, stale.header("content-type")), (&good.body, good.header("content-type")));
            let head = mirror.head(path).await;
            assert_eq!(
                (head.status, head.header("cache-status"), head.body.len()),
                (200, STALE, 0),
                "{fault:?} {path}"
            );
            assert_eq!(head.header("content-length"), good.header("content-length"));
        }
        // No client requested these before.
        for other in ["/v2/a/b/tags/list?n=7", "/v2/a/c/tags/list", "/v2/_catalog"] {
            let status = if matches!(fault, Fault::Answer { status: 429, .. }) { 429 } else { 502 };
            assert_eq!(mirror.get(other).await.status, status, "{fault:?} {other}");
        }
    }
    let labels = [("operation", "tags"), ("outcome", "stale"), ("status", "200")];
    mirror.until_metric("forebay_requests_total", &labels, 10.0).await;
    // And it is asked again as soon as it answers.
    registry.heal();
    registry.add_image("a/b", "4", &[]);
    let new = mirror.get(paths[0]).await;
    assert_eq!(
        (new.text(), new.header("cache-status")),
        (r#"{"name":"a/b","tags":["1","2","3+","4"]}"#, Some("forebay; fwd=bypass"))
    );
}

#[tokio::test]
async fn a_failing_url_leads_to_the_next_for_a_list() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    second.offer_referrers(true);
    let subject = second.add_image("a/b", "1", &[]).manifest;
    let text = format!("name = \"x.example\"\nurls = [\"{}\", \"{}\"]\ndefault = true\n", first.url(), second.url());
    let mirror = Mirror::parse(&format!("[[upstream]]\n{text}")).start().await;
    let paths = ["/v2/a/b/tags/list", "/v2/_catalog", &format!("/v2/a/b/referrers/{subject}")];
    for body in ["", "busy", "{}", "[]", r#"{"login":true}"#, r#"{"errors":[]}"#, "<html>", r#"{"tags":["1"]"#] {
        for kind in ["application/json", "text/html", "text/plain"] {
            first.heal();
            let headers = vec![("content-type", kind.to_owned())];
            first.fault(When::any(), Fault::Answer { status: 200, headers, body: body.to_owned() });
            for (path, name) in paths.iter().zip(["tags", "repositories", "manifests"]) {
                let answer = mirror.get(path).await;
                assert!(answer.status == 200 && answer.text().contains(name), "{path} {kind} {body}: {answer:?}");
            }
        }
    }
}

/// Of an upstream that is open to all as well: what is not the list is an outage, whatever type it claims.
#[tokio::test]
async fn a_page_in_a_lists_place_is_an_outage() {
    let (registry, mirror) = filled().await;
    let paths = ["/v2/a/b/tags/list", "/v2/_catalog?n=2"];
    let good = join_all(paths.map(|path| mirror.get(path))).await;
    let page = "<html><script>alert(1)</script></html>";
    for (kind, body) in [
        ("text/html", page),
        ("application/json", page),
        ("image/svg+xml", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>"),
        ("text/xml", "<?xml version=\"1.0\"?><a/>"),
        ("application/json", "{\"login\":true}"),
        ("application/json", ""),
    ] {
        registry.heal();
        let headers = vec![("content-type", kind.to_owned())];
        registry.fault(When::any(), Fault::Answer { status: 200, headers, body: body.to_owned() });
        for (path, good) in paths.iter().zip(&good) {
            let stale = mirror.get(path).await;
            assert_eq!(
                (stale.status, stale.header("cache-status"), &stale.body),
                (200, STALE, &good.body),
                "{kind} {path}"
            );
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        for other in ["/v2/a/c/tags/list", "/v2/_catalog", &format!("/v2/a/b/referrers/{digest}")] {
            let answer = mirror.get(other).await;
            assert_eq!((answer.status, &*answer.error_code()), (502, "UNAVAILABLE"), "{kind} {other}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_list_is_served_while_the_upstream_hangs() {
    let (registry, mirror) = filled().await;
    let good = mirror.get("/v2/a/b/tags/list").await;
    let gate = Gate::new();
    registry.fault(When::any(), Fault::HoldHead(gate.clone()));
    let asked_at = Instant::now();
    let stale = mirror.get("/v2/a/b/tags/list").await;
    assert_eq!((stale.header("cache-status"), &stale.body), (STALE, &good.body));
    assert!(asked_at.elapsed() < Duration::from_secs(20), "the client would have given up");
    gate.open();
}

#[tokio::test]
async fn what_the_upstream_refuses_is_not_told_from_memory_later() {
    for status in [401, 403, 404] {
        let (registry, mirror) = filled().await;
        for path in ["/v2/a/b/tags/list", "/v2/_catalog"] {
            assert_eq!(mirror.get(path).await.status, 200);
            registry.fault(When::any(), Fault::status(status));
            assert_eq!(mirror.get(path).await.status, if status == 404 { 404 } else { 403 }, "{status} {path}");
            registry.heal();
            registry.fault(When::any(), Fault::status(503));
            assert_eq!(mirror.get(path).await.status, 502, "{status} {path}");
            registry.heal();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_requests_at_once_share_one_response() {
    let (registry, mirror) = filled().await;
    let path = "/v2/a/b/tags/list";
    // That they have come before the first is answered is likely, and no more.
    until("a client joined", async || {
        registry.heal();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault(When::any(), Fault::HoldHead(gate.clone()));
        let asking = join_all(
            (0..8).map(|number| mirror.request(if number % 2 == 0 { Method::GET } else { Method::HEAD }, path, &[])),
        );
        let opening = async {
            bounded(gate.reached()).await;
            gate.open();
        };
        let (answers, ()) = tokio::join!(asking, opening);
        assert!(answers.iter().all(|answer| answer.status == 200));
        assert!(registry.requests().iter().all(|request| request.method == Method::GET));
        let collapsed = Some("forebay; fwd=miss; collapsed");
        let joined = answers.iter().filter(|answer| answer.header("cache-status") == collapsed).count();
        assert_eq!(joined + registry.requests().len(), 8);
        joined > 0
    })
    .await;
}

/// Once a change through us is answered, no list that was made before it is given, whatever becomes of the upstream.
#[tokio::test]
async fn a_change_through_the_mirror_is_never_contradicted() {
    let (registry, mirror) = filled().await;
    registry.add_image("team/app", "1", &[]);
    let (tags, catalog, other) = ("/v2/team/app/tags/list", "/v2/_catalog", "/v2/a/b/tags/list");
    let delete = async || mirror.request(Method::DELETE, "/v2/team/app/manifests/2", &[]).await.status;
    for (change, left) in [("put", r#"["1","2"]"#), ("delete", r#"["1"]"#)] {
        for path in [tags, catalog, other] {
            assert_eq!(mirror.get(path).await.status, 200);
        }
        let status = if change == "put" { put_manifest(&mirror, "2", "{}").await.status } else { delete().await };
        assert!(matches!(status, 201 | 202), "{change}: {status}");
        registry.take_down(Server::Api).await;
        for path in [tags, catalog] {
            assert_eq!(mirror.get(path).await.status, 502, "{change} {path}");
        }
        assert_eq!(mirror.get(other).await.header("cache-status"), STALE, "nothing was changed there");
        registry.bring_up(Server::Api).await;
        let list = format!(r#"{{"name":"team/app","tags":{left}}}"#);
        assert_eq!(mirror.get(tags).await.text(), list);
        registry.take_down(Server::Api).await;
        let stale = mirror.get(tags).await;
        assert_eq!((stale.header("cache-status"), stale.text()), (STALE, &*list));
        registry.bring_up(Server::Api).await;
    }
}

/// A list that was in flight during a push goes to the client that requested it, and to no request after the push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_was_on_its_way_during_a_push_is_not_kept() {
    let (registry, mirror) = filled().await;
    registry.add_image("team/app", "1", &[]);
    let gate = Gate::new();
    registry.fault_times(1, When::any().method(Method::GET), Fault::HoldBody { at: 0, gate: gate.clone() });
    let tags = "/v2/team/app/tags/list";
    let pushing = async {
        bounded(gate.reached()).await;
        assert_eq!(put_manifest(&mirror, "2", "{}").await.status, 201);
        // Nor does any client join that request.
        assert_eq!(mirror.get(tags).await.text(), r#"{"name":"team/app","tags":["1","2"]}"#);
        gate.open();
    };
    let (early, ()) = tokio::join!(mirror.get(tags), pushing);
    assert_eq!(early.text(), r#"{"name":"team/app","tags":["1"]}"#);
    registry.take_down(Server::Api).await;
    let stale = mirror.get(tags).await;
    assert_eq!((stale.header("cache-status"), stale.text()), (STALE, r#"{"name":"team/app","tags":["1","2"]}"#));
}

#[tokio::test]
async fn a_list_is_not_given_for_ever() {
    let registry = FakeRegistry::start().await;
    registry.add_image("a", "1", &[]);
    let forgetting = Mirror::build(&registry).config(|config| config.cache.stale_if_error = Duration::ZERO);
    let mirror = forgetting.start().await;
    assert_eq!(mirror.get("/v2/a/tags/list").await.status, 200);
    registry.take_down(Server::Api).await;
    assert_eq!(mirror.get("/v2/a/tags/list").await.status, 502);
}

/// What else is in a query makes no other list of it: neither for the upstream nor for what is kept.
#[tokio::test]
async fn a_query_that_says_nothing_makes_no_other_list() {
    let (registry, mirror) = filled().await;
    for query in ["?n=2", "?n=02&x=1", "?x=2&n=2&n=1", "?%6e=2&artifactType=a/b&ns=fake.example"] {
        assert_eq!(mirror.get(&format!("/v2/a/b/tags/list{query}")).await.status, 200);
    }
    assert!(registry.requests().iter().all(|request| request.query == "n=2"));
    registry.take_down(Server::Api).await;
    for query in ["?n=2&x=3", "?n=002"] {
        let stale = mirror.get(&format!("/v2/a/b/tags/list{query}")).await;
        assert_eq!((stale.status, stale.header("cache-status")), (200, STALE), "{query}");
    }
}

/// Some registries have the next page asked for by parameters of their own.
#[tokio::test]
async fn a_page_by_the_upstreams_own_parameters_is_found() {
    let (registry, mirror) = filled().await;
    let next = r#"</v2/a/b/tags/list?n=1&next_page=a%2Fb>; rel="next""#.to_owned();
    registry.fault_times(1, When::any(), Fault::Header("link", Some(next)));
    let page = mirror.get("/v2/a/b/tags/list?n=1").await;
    let link = page.header("link").unwrap().trim_start_matches('<').split('>').next().unwrap().to_owned();
    assert_eq!(mirror.get(&link).await.status, 200);
    assert_eq!(registry.requests()[1].query, "n=1&next_page=a%2Fb");
}

#[tokio::test]
async fn lists_have_their_own_type_whatever_the_upstream_says() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let digest = format!("sha256:{}", "a".repeat(64));
    for kind in ["image/svg+xml", "text/xml", "application/octet-stream"] {
        for (path, own) in [
            ("/v2/a/b/tags/list".to_owned(), "application/json"),
            ("/v2/_catalog".to_owned(), "application/json"),
            (format!("/v2/a/b/referrers/{digest}"), "application/vnd.oci.image.index.v1+json"),
        ] {
            let body = r#"{"schemaVersion":2,"manifests":[],"tags":[],"repositories":[]}"#.to_owned();
            let headers = vec![("content-type", kind.to_owned())];
            registry.fault_times(1, When::any(), Fault::Answer { status: 200, headers, body });
            let answer = mirror.get(&path).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(own)), "{path} {kind}");
        }
    }
}
