//! An upstream's reason reaches the client that can act on it, in the upstream's words.

use serde_json::{Value, json};

use crate::{
    access_e2e::basic,
    manifests::manifest,
    support::{
        blob::path,
        fake_registry::{Auth, FakeRegistry, Fault, When},
        mirror::{Answer, Mirror},
    },
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
    for status in [400, 402, 403, 404, 405, 406, 409, 413, 414, 415, 418, 422, 429, 451] {
        registry.heal();
        registry.fault(When::any(), refusal(status, &entry));
        let mut paths = vec![manifest(format!("tag{status}")), path(&image.layers[0]), LIST.to_owned()];
        // Some of these say that there is no endpoint for referrers.
        if !matches!(status, 400 | 404 | 405 | 406) {
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
async fn without_a_reason_the_status_passes_with_words_of_ours() {
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
    assert_eq!((answer.status, told(&answer), answer.header("retry-after")), (429, entry, Some("17")));
}

#[tokio::test]
async fn what_is_told_is_clean_and_bounded() {
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
async fn names_that_are_forebays_own_are_not_told() {
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
    ] {
        registry.heal();
        registry.fault(When::any(), refusal(403, &json!({ "code": "DENIED", "message": message, "detail": detail })));
        let told = told(&mirror.get(LIST).await);
        assert_eq!((told["message"].as_str().unwrap(), told["detail"].clone()), expected, "{message}");
    }
}

/// There the names are the client's own.
#[tokio::test]
async fn a_client_whose_credentials_decide_is_told_why() {
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
    let own = |code: &str| json!({ "code": code, "message": why, "detail": null });
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
            assert_eq!((answer.status, told(&answer)), (status, own(code)), "{path}");
        }
    }
    registry.heal();
    registry.fault(When::any(), text(403, false));
    let answer = mirror.get(LIST).await;
    assert!(answer.status == 502 && !answer.text().contains(why), "{answer:?}");
}
