//! An upstream's reason reaches the client that can act on it, in the upstream's words.

use http::Method;
use serde_json::{Value, json};

use forebay_test_support::{
    blob::path,
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, When},
    mirror::{Answer, Mirror},
};
use forebay_test_support::{
    manifest::{OCI_MANIFEST, manifest},
    users::{basic, with_users},
};

const LIST: &str = "/v2/team/app/tags/list";

/// A registry's refusal.
fn refusal(status: u16, entry: &Value) -> Fault {
    let headers = vec![("content-type", "application/json".to_owned())];
    Fault::Answer { status, headers, body: json!({ "errors": [entry] }).to_string() }
}

fn told(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let mut json: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 1);
    json["errors"][0].take()
}

#[tokio::test]
async fn ecrs_reason_is_told_and_no_method_is_blamed() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let why = "Invalid parameter at 'maxResults' failed to satisfy constraint: 'Member must have value less than or equal to 1000'";
    let entry = json!({ "code": "UNSUPPORTED", "message": why, "detail": null });
    registry.fault(When::any(), refusal(405, &entry));
    let answer = mirror.get(&format!("{LIST}?n=5000")).await;
    assert_eq!((answer.status, told(&answer), answer.header("allow")), (405, entry, None));
}

#[tokio::test]
async fn status_code_message_and_detail_of_refusals_pass() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let entry = json!({ "code": "SOME_CODE", "message": "the reason", "detail": { "hint": ["x", 1] } });
    let digest = format!("sha256:{}", "a".repeat(64));
    for status in [400, 402, 403, 404, 405, 406, 409, 410, 413, 414, 415, 416, 418, 422, 429, 451] {
        registry.heal();
        registry.fault(When::any(), refusal(status, &entry));
        let mut paths = vec![manifest(format!("tag{status}")), LIST.to_owned()];
        // A blob is fetched in ranges.
        if status != 416 {
            paths.push(path(&image.layers[0]));
        }
        // Some of these say that there is no endpoint for referrers.
        if !matches!(status, 400 | 404 | 405 | 406 | 410) {
            paths.push(format!("/v2/team/app/referrers/{digest}"));
        }
        for path in paths {
            let answer = mirror.get(&path).await;
            assert_eq!((answer.status, told(&answer)), (status, entry.clone()), "{path}");
            assert_eq!(mirror.head(&path).await.status, status, "{path}");
            // Also where that is remembered.
            assert_eq!(told(&mirror.get(&path).await), entry, "{path}");
        }
    }
}

#[tokio::test]
async fn without_a_reason_the_status_passes_with_a_default_message() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (status, code) in [(406, "UNSUPPORTED"), (414, "UNSUPPORTED"), (422, "UNSUPPORTED"), (403, "DENIED")] {
        registry.heal();
        registry.fault(When::any(), Fault::status(status));
        let answer = mirror.get(LIST).await;
        assert_eq!((answer.status, answer.error_code()), (status, code.to_owned()));
    }
}

#[tokio::test]
async fn a_401_to_forebay_itself_is_a_403_that_says_why() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let why = "authentication required, visit https://aka.ms/acr/authorization for more information.";
    registry.fault(When::any(), refusal(401, &json!({ "code": "UNAUTHORIZED", "message": why })));
    let answer = mirror.get(LIST).await;
    assert_eq!((answer.status, told(&answer)), (403, json!({ "code": "DENIED", "message": why, "detail": null })));
    assert_eq!(answer.header("www-authenticate"), None);
}

/// What forebay says of a limit where the registry gives no detail.
fn detail_of(answer: &Answer) -> Value {
    let id = answer.header("x-request-id").unwrap();
    json!({ "upstream": "fake.example", "cause": "status", "stale": false, "request_id": id })
}

#[tokio::test]
async fn a_limit_is_told_with_its_reason_and_its_time() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let entry = json!({
        "code": "TOOMANYREQUESTS",
        "message": "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
        "detail": null,
    });
    registry.fault(When::any(), refusal(429, &entry));
    registry.fault(When::any(), Fault::Header("retry-after", Some("17".into())));
    let answer = mirror.get(&manifest(1)).await;
    // The registry gives no detail, so that forebay says which one it is.
    let detail = detail_of(&answer);
    let entry = json!({ "code": entry["code"], "message": entry["message"], "detail": detail });
    assert_eq!((answer.status, told(&answer), answer.header("retry-after")), (429, entry, Some("17")));
}

#[tokio::test]
async fn a_passed_on_reason_is_clean_and_bounded() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let long = "x".repeat(3000);
    for (entry, expected) in [
        (
            json!({ "code": "denied", "message": "a\u{1b}[31mb\r\nc\u{7}" }),
            json!({ "code": "DENIED", "message": "a [31mb  c", "detail": null }),
        ),
        (
            json!({ "code": "DENIED\"", "message": long, "detail": { "a": "b\u{0}" } }),
            json!({ "code": "DENIED", "message": &long[..1024], "detail": { "a": "b" } }),
        ),
        (
            json!({ "code": "DENIED", "message": "m", "detail": vec!["x".repeat(1000); 50] }),
            json!({ "code": "DENIED", "message": "m", "detail": null }),
        ),
    ] {
        registry.heal();
        registry.fault(When::any(), refusal(403, &entry));
        assert_eq!(told(&mirror.get(LIST).await), expected);
    }
}

/// Whose account forebay uses, and where the registry really is, is no client's business.
#[tokio::test]
async fn the_upstream_account_name_is_removed_from_messages() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "secret").unwrap();
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\nusername = \"robot$ci\"\npassword_file = {file:?}\n",
        registry.url()
    ));
    let mirror = mirror.start().await;
    registry.require(Auth::Basic { username: "robot$ci".into(), password: "secret".into() });
    assert_eq!(mirror.get(LIST).await.status, 200);
    let own = "the upstream refuses access; the repository may be private or may not exist";
    for (message, detail, expected) in [
        ("user robot$ci may not pull", json!({ "a": 1 }), (own, json!({ "a": 1 }))),
        ("ask at http://127.0.0.1/login", json!({ "account": "robot$ci" }), (own, Value::Null)),
        ("no", json!([{ "Type": "repository", "Name": "team/secret" }]), ("no", Value::Null)),
        ("no", json!({ "name": "team/app" }), ("no", json!({ "name": "team/app" }))),
        ("access to team/secret denied", json!({ "repo": "secret" }), (own, Value::Null)),
        (
            "access to team/app denied",
            json!({ "path": "/data/team/secret" }),
            ("access to team/app denied", Value::Null),
        ),
        ("no", json!({ "scope": "repository:team/secret:pull" }), ("no", Value::Null)),
        ("no", json!({ "Name": ["team/secret"] }), ("no", Value::Null)),
    ] {
        registry.heal();
        registry.fault(When::any(), refusal(403, &json!({ "code": "DENIED", "message": message, "detail": detail })));
        let told = told(&mirror.get(LIST).await);
        assert_eq!((told["message"].as_str().unwrap(), told["detail"].clone()), expected, "{message}");
    }
}

#[tokio::test]
async fn the_path_of_an_upstream_url_is_removed_from_messages() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}hidden-project\"]\ndefault = true\n",
        registry.url()
    ));
    let mirror = mirror.start().await;
    for message in ["no access to hidden-project/team/app", "the project hidden-project is frozen"] {
        let detail = json!([{ "Type": "repository", "Name": "hidden-project/team/app" }]);
        registry.heal();
        registry.fault(When::any(), refusal(403, &json!({ "code": "DENIED", "message": message, "detail": detail })));
        let answer = mirror.get(LIST).await;
        assert_eq!((answer.status, &told(&answer)["detail"]), (403, &Value::Null));
        assert!(!answer.text().contains("hidden-project"), "{}", answer.text());
    }
}

/// What a realm says is why, where no token is given.
#[tokio::test]
async fn the_message_of_a_realm_reaches_the_client() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    registry.require(Auth::Bearer(Bearer::default()));
    let password = users.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let keys = format!("username = \"robot$ci\"\npassword_file = {password:?}\n");
    let own = "fake.example allows no more requests for now (status)";
    let ours = "fake.example refuses the credentials of this mirror, which are not yours";
    let page = "fake.example does not answer as a registry does (not_a_registry)";
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let limit = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"the limit of tokens"}]}"#;
    for (keys, status, body, expected) in [
        ("", 403, denied, (403, "DENIED", "requested access to the resource is denied")),
        ("", 401, r#"{"details":"no such user"}"#, (403, "DENIED", "no such user")),
        ("", 429, limit, (429, "TOOMANYREQUESTS", "the limit of tokens")),
        ("", 403, "<html>", (502, "UNAVAILABLE", page)),
        // No client can help that.
        (&keys, 403, denied, (403, "UNAVAILABLE", ours)),
        (&keys, 429, limit, (429, "TOOMANYREQUESTS", "the limit of tokens")),
        (&keys, 429, r#"{"details":"robot$ci has had enough"}"#, (429, "TOOMANYREQUESTS", own)),
        (&keys, 429, r#"{"details":"ask at 127.0.0.1"}"#, (429, "TOOMANYREQUESTS", own)),
    ] {
        let mirror = Mirror::parse(&format!(
            "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n{keys}",
            registry.url()
        ));
        let mirror = mirror.start().await;
        registry.heal();
        registry.fault(When::tokens(), Fault::Answer { status, headers: vec![], body: body.to_owned() });
        for path in [LIST.to_owned(), manifest(1)] {
            let answer = mirror.get(&path).await;
            let told = told(&answer);
            let (status, code, message) = expected;
            assert_eq!((answer.status, told["code"].as_str().unwrap()), (status, code), "{body} {path}");
            assert!(told["message"].as_str().unwrap().starts_with(message), "{message}: {told}");
        }
    }
}

/// It is asked anonymously, and what it says comes as the cause of an error of forebay's own.
#[tokio::test]
async fn an_untrusted_realm_passes_on_no_name() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let realm = Some(registry.realm_at("localhost"));
    registry.require(Auth::Bearer(Bearer { realm, ..Bearer::default() }));
    let password = users.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\nusername = \"ci\"\npassword_file = {password:?}\n",
        registry.url()
    ));
    let mirror = mirror.start().await;
    let own = "the upstream refuses access; the repository may be private or may not exist";
    for (message, expected) in [("ask ops", "ask ops"), ("no access to team/secret", own), ("see localhost", own)] {
        registry.heal();
        registry.fault(When::tokens(), refusal(403, &json!({ "code": "DENIED", "message": message })));
        let answer = mirror.get(LIST).await;
        assert_eq!((answer.status, &told(&answer)["message"]), (403, &json!(expected)));
    }
}

/// A change is refused in the same words as a pull, and no more is told.
#[tokio::test]
async fn the_refusal_of_a_push_is_clean_and_bounded() {
    let (registry, users) = (FakeRegistry::start().await, with_users());
    let password = users.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let mirror = Mirror::parse(&format!(
        "[access]\nhtpasswd = {:?}\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\npush = true\n\
         username = \"robot$ci\"\npassword_file = {password:?}\n",
        users.path().join("htpasswd"),
        registry.url()
    ));
    let mirror = mirror.start().await;
    let ann = basic("ann", "secret");
    let headers = [("authorization", &*ann), ("content-type", OCI_MANIFEST)];
    let long = "x".repeat(5000);
    let digest = format!("sha256:{}", "a".repeat(64));
    let own = |status: u16| http::StatusCode::from_u16(status).map(|status| format!("the upstream answers {status}"));
    for (status, code) in [(400, "UNSUPPORTED"), (403, "DENIED"), (404, "NAME_UNKNOWN"), (500, "UNAVAILABLE")] {
        let own = own(status).unwrap();
        for (entry, expected) in [
            (
                json!({ "code": "denied\u{1b}[31m", "message": format!("a\u{1b}[2J\u{7}{long}"), "detail": { "a": "b\u{0}" } }),
                json!({ "code": code, "message": format!("a [2J {}", &long[..1018]), "detail": { "a": "b" } }),
            ),
            (
                json!({ "code": "X", "message": "user robot$ci at 127.0.0.1", "detail": { "repository": "secret/other" } }),
                json!({ "code": "X", "message": own, "detail": null }),
            ),
            (
                json!({ "code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown", "detail": { "digest": digest } }),
                json!({ "code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown", "detail": { "digest": digest } }),
            ),
        ] {
            registry.heal();
            registry.fault(When::any(), refusal(status, &entry));
            registry.fault(When::any(), Fault::Header("warning", Some(r#"299 - "at 127.0.0.1 user robot$ci""#.into())));
            for (method, path) in [
                (Method::POST, "/v2/team/app/blobs/uploads/"),
                (Method::PUT, "/v2/team/app/manifests/1"),
                (Method::DELETE, "/v2/team/app/manifests/1"),
            ] {
                let answer = mirror.send(method.clone(), path, &headers, "").await;
                assert_eq!((answer.status, told(&answer)), (status, expected.clone()), "{method} {path}");
                assert_eq!(answer.header("warning"), None);
            }
        }
    }
}

/// There the names are the client's own.
#[tokio::test]
async fn a_client_with_its_own_credentials_gets_the_reason() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    ));
    let mirror = mirror.start().await;
    let entry = json!({ "code": "DENIED", "message": "ann is no member of team", "detail": { "name": "team/other" } });
    let ann = basic("ann", "password");
    registry.fault(When::any(), refusal(403, &entry));
    let answer = mirror.get_with(LIST, &[("authorization", &ann)]).await;
    assert_eq!((answer.status, told(&answer)), (403, entry.clone()));
    registry.heal();
    registry.fault(When::any(), refusal(401, &entry));
    let answer = mirror.get_with(LIST, &[("authorization", &ann)]).await;
    let told = told(&answer);
    assert_eq!((answer.status, &told["code"], &told["message"]), (401, &json!("UNAUTHORIZED"), &entry["message"]));
    assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm=\"forebay\""));
}

/// What a registry says in plain text, and Docker Hub of its limit; what something in front of it says is no word of its.
#[tokio::test]
async fn a_reason_in_plain_text_passes() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let why = "You have reached your pull rate limit.";
    let text = |status: u16, is_registrys: bool| {
        let mut headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        if is_registrys {
            headers.push(("docker-distribution-api-version", "registry/2.0".to_owned()));
        }
        Fault::Answer { status, headers, body: format!("{why}\r\n") }
    };
    let own = |code: &str, detail: Value| json!({ "code": code, "message": why, "detail": detail });
    for (status, is_registrys, code) in [
        (403, true, "DENIED"),
        (414, true, "UNSUPPORTED"),
        (422, true, "UNSUPPORTED"),
        (429, true, "TOOMANYREQUESTS"),
        (429, false, "TOOMANYREQUESTS"),
    ] {
        registry.heal();
        registry.fault(When::any(), text(status, is_registrys));
        for path in [manifest(1), LIST.to_owned()] {
            let answer = mirror.get(&path).await;
            let detail = if status == 429 { detail_of(&answer) } else { Value::Null };
            assert_eq!((answer.status, told(&answer)), (status, own(code, detail)), "{path}");
        }
    }
    registry.heal();
    registry.fault(When::any(), text(403, false));
    let answer = mirror.get(LIST).await;
    assert!(answer.status == 502 && !answer.text().contains(why), "{answer:?}");
}

/// It is judged by HEAD what is a client's, and a HEAD has no words.
#[tokio::test]
async fn each_endpoint_gives_the_reason_of_a_refusal() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\npush = true\n",
        registry.url()
    ));
    let mirror = mirror.start().await;
    let ann = basic("ann", "password");
    let headers = [("authorization", &*ann), ("content-type", OCI_MANIFEST)];
    let why = "robot account ann expired on 2026-01-01, ask ops";
    let body = json!({ "errors": [{ "code": "UNAUTHORIZED", "message": why }] }).to_string();
    let challenge = ("www-authenticate", "Basic realm=\"fake registry\"".to_owned());
    let refused = |status| Fault::Answer { status, headers: vec![challenge.clone()], body: body.clone() };
    for (status, fault) in [(401, refused(401)), (403, refused(403))] {
        registry.heal();
        registry.fault(When::any(), fault);
        for (method, path) in [
            (Method::GET, manifest(status)),
            (Method::GET, path(&registry.add_blob("team/app", format!("refused with {status}")))),
            (Method::GET, LIST.to_owned()),
            (Method::POST, "/v2/team/app/blobs/uploads/".to_owned()),
            (Method::PUT, manifest(1)),
            (Method::DELETE, manifest(1)),
        ] {
            let content = if method == Method::PUT { "{}" } else { "" };
            let answer = mirror.send(method.clone(), &path, &headers, content).await;
            assert_eq!((answer.status, &told(&answer)["message"]), (status, &json!(why)), "{method} {path}");
        }
    }
    // One that is let in by GET alone is not let in by this, and pulls nothing.
    registry.heal();
    registry.forget_requests();
    registry.fault(When::any().method(Method::HEAD), refused(403));
    let answer = mirror.get_with(&manifest(1), &[("authorization", &ann)]).await;
    assert_eq!((answer.status, &*answer.error_code()), (403, "DENIED"));
    assert!(registry.count(|request| request.method == Method::GET && request.path.contains("/manifests/")) <= 1);
}
