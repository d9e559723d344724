//! Tag lists, referrers and the catalog: passed on as the upstream gives them.

use http::Method;

use crate::registry::routing::Two;
use forebay_test_support::fake_registry::{Fault, When};

fn answer(headers: Vec<(&'static str, &str)>, body: &str) -> Fault {
    let headers = headers.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    Fault::Answer { status: 200, headers, body: body.to_owned() }
}

#[tokio::test]
async fn each_list_of_tags_is_requested_with_its_query() {
    let two = Two::start().await;
    for tag in ["1", "2"] {
        two.team.add_image("a/b", tag, &[]);
    }
    for count in 1..=2 {
        let list = two.mirror.get("/v2/a/b/tags/list?n=5&ns=team&last=%2Fy").await;
        assert_eq!((list.status, list.text()), (200, r#"{"name":"a/b","tags":["1","2"]}"#));
        assert_eq!(list.header("content-type"), Some("application/json"));
        assert_eq!(list.header("cache-status"), Some("forebay; fwd=bypass"));
        assert_eq!(list.header("oci-namespace"), Some("team"));
        assert_eq!(two.team.requests().len(), count);
    }
    let asked = &two.team.requests()[0];
    assert_eq!(asked.parameter("n"), ["5"]);
    assert_eq!(asked.parameter("last"), ["/y"]);
    assert!(asked.parameter("ns").is_empty(), "{}", asked.query);
    let head = two.mirror.head("/v2/a/b/tags/list?ns=team").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("31")));
    let missing = two.mirror.get("/v2/a/none/tags/list").await;
    assert_eq!((missing.status, &*missing.error_code()), (404, "NAME_UNKNOWN"));
}

#[tokio::test]
async fn the_link_to_the_next_page_leads_through_the_mirror() {
    let two = Two::start().await;
    two.team.add_image("a/b", "1", &[]);
    for (link, path, through) in [
        (
            r#"</v2/a/b/tags/list?last=1&n=1>; rel="next""#,
            "/v2/team/a/b/tags/list?n=1",
            r#"</v2/team/a/b/tags/list?last=1&n=1>; rel="next""#,
        ),
        (
            r#"<https://team.example:5443/v2/a/b/tags/list?n=1&last=1>; rel="next""#,
            "/v2/a/b/tags/list?n=1&ns=team.example%3A5443",
            r#"</v2/a/b/tags/list?n=1&last=1&ns=team.example%3A5443>; rel="next""#,
        ),
        (
            r#"<https://evil.example/?last=1>; rel="prev", <?last=1&n=1>; title="a, b"; rel="last next", <//evil.example/>; rel=first"#,
            "/v2/team/a/b/tags/list?n=1",
            r#"</v2/team/a/b/tags/list?last=1&n=1>; rel="next""#,
        ),
        (
            r#"</v2/a/b/tags/list?n=1&last=1>; rel="next""#,
            "/team/v2/a/b/tags/list?n=1",
            r#"</team/v2/a/b/tags/list?n=1&last=1>; rel="next""#,
        ),
    ] {
        two.team.heal();
        two.team.fault(When::any(), Fault::Header("link", Some(link.to_owned())));
        let page = two.mirror.get(path).await;
        assert_eq!((page.status, page.header("link")), (200, Some(through)), "{path}");
        // And that path leads there again.
        let next = through.trim_start_matches('<').split('>').next().unwrap();
        two.forget();
        assert_eq!(two.mirror.get(next).await.status, 200, "{next}");
        assert_eq!(two.team.requests()[0].parameter("last"), ["1"]);
        assert!(two.hub.requests().is_empty());
    }
}

#[tokio::test]
async fn referrers_and_the_catalog_are_passed_on() {
    let two = Two::start().await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let headers = vec![
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("oci-filters-applied", "artifactType"),
        ("set-cookie", "session=secret"),
        ("www-authenticate", "Basic realm=\"x\""),
        ("location", "http://elsewhere.example/"),
    ];
    two.team.fault(When::any(), answer(headers, index));
    let path = format!("/v2/team/a/b/referrers/{digest}?artifactType=application/x%2By");
    let referrers = two.mirror.get(&path).await;
    assert_eq!((referrers.status, referrers.text()), (200, index));
    assert_eq!(referrers.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(referrers.header("oci-filters-applied"), Some("artifactType"));
    for kept_back in ["set-cookie", "www-authenticate", "location", "oci-namespace"] {
        assert_eq!(referrers.header(kept_back), None, "{kept_back}");
    }
    let asked = two.team.requests().remove(0);
    assert_eq!(asked.path, format!("/v2/a/b/referrers/{digest}"));
    assert_eq!(asked.parameter("artifactType"), ["application/x+y"]);

    two.team.heal();
    two.team.add_image("a/b", "1", &[]);
    for path in ["/v2/_catalog?ns=team&n=3", "/v2/team/_catalog?n=3", "/team/v2/_catalog?n=3"] {
        two.forget();
        let catalog = two.mirror.get(path).await;
        assert_eq!((catalog.status, catalog.text()), (200, r#"{"repositories":["a/b"]}"#), "{path}");
        assert_eq!(
            (two.seen(), two.team.requests()[0].query.clone()),
            (vec!["team /v2/_catalog".to_owned()], "n=3".to_owned())
        );
    }
}

#[tokio::test]
async fn an_upstream_refusal_becomes_an_error_of_forebay() {
    let two = Two::start().await;
    for (theirs, status, code) in [
        (401, 403, "DENIED"),
        (403, 403, "DENIED"),
        (404, 404, "NAME_UNKNOWN"),
        (405, 405, "UNSUPPORTED"),
        (429, 429, "TOOMANYREQUESTS"),
        (500, 502, "UNAVAILABLE"),
        (503, 502, "UNAVAILABLE"),
    ] {
        two.hub.heal();
        two.hub.fault(When::any(), Fault::status(theirs));
        for path in ["/v2/a/b/tags/list", "/v2/_catalog"] {
            let refused = two.mirror.get(path).await;
            assert_eq!((refused.status, &*refused.error_code()), (status, code), "{theirs}: {path}");
            let head = two.mirror.request(Method::HEAD, path, &[]).await;
            assert_eq!(head.status, status, "{theirs}: {path}");
        }
    }
}
