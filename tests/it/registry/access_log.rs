//! The log of the real program: one line for each request, and no secret in any line.

use std::fs;

use forebay::oci::Digest;
use serde_json::Value;

use forebay_test_support::users::{basic, with_users};
use forebay_test_support::{
    blob,
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Server, To, When},
    program::Program,
    raw::Raw,
    until::until,
};

const PASSWORDS: [&str; 4] = ["basic-pa55", "bearer-pa55", "secret", "wrong-pa55"];

fn upstream(name: &str, registry: &FakeRegistry, password: &str) -> String {
    format!(
        "[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\nusername = \"robot\"\npassword_file = \"{password}\"\n",
        registry.url()
    )
}

async fn serving(basic_one: &FakeRegistry, bearer_one: &FakeRegistry, log: &str) -> Program {
    let directory = with_users();
    for password in ["basic-pa55", "bearer-pa55"] {
        fs::write(directory.path().join(format!("{password}.txt")), format!("{password}\n")).unwrap();
    }
    let text = format!(
        "[cache]\nmin_free = \"1 B\"\ntag_ttl = \"0s\"\n[access]\nhtpasswd = \"htpasswd\"\n{}{}",
        upstream("basic.example", basic_one, "basic-pa55.txt"),
        upstream("bearer.example", bearer_one, "bearer-pa55.txt"),
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    Program::serve(directory, log).await
}

async fn two_that_want_passwords() -> (FakeRegistry, FakeRegistry) {
    let (basic_one, bearer_one) = (FakeRegistry::start().await, FakeRegistry::start().await);
    basic_one.require(Auth::Basic { username: "robot".to_owned(), password: "basic-pa55".to_owned() });
    let users = vec![("robot".to_owned(), "bearer-pa55".to_owned())];
    bearer_one.require(Auth::Bearer(Bearer { anonymous: false, users, ..Bearer::default() }));
    for registry in [&basic_one, &bearer_one] {
        registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    }
    (basic_one, bearer_one)
}

async fn get(program: &Program, path: &str, authorization: Option<&str>) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{}{path}", program.registry));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    // What breaks in the middle is to be logged as well.
    let _ = response.bytes().await;
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_logged() {
    let (basic_one, bearer_one) = two_that_want_passwords().await;
    let program = serving(&basic_one, &bearer_one, "trace").await;
    for (name, registry) in [("basic.example", &basic_one), ("bearer.example", &bearer_one)] {
        let image = registry.add_image("team/app", "1", &[name.as_bytes()]);
        let blob = format!("/v2/{name}/team/app/blobs/{}", image.layers[0]);
        let tag = format!("/v2/{name}/team/app/manifests/1");
        assert_eq!(
            get(&program, &format!("{tag}?ns={name}&password=query-pa55"), Some(&basic("ann", "secret"))).await,
            200
        );
        assert_eq!(get(&program, &tag, Some(&basic("ann", "wrong-pa55"))).await, 401);
        // All that can go wrong is logged with its cause.
        for fault in
            [Fault::status(500), Fault::status(403), Fault::html(), Fault::Corrupt { at: 2 }, Fault::Disconnect]
        {
            registry.fault_times(1, When::blobs().at(Server::Cdn), fault);
            get(&program, &blob, None).await;
        }
        registry.fault_times(1, When::blobs().at(Server::Cdn), Fault::Truncate { at: 2 });
        assert_eq!(get(&program, &blob, None).await, 200, "{name}");
        registry.expire();
        registry.revoke_tokens();
        let second = registry.add_image("team/app", "2", &[b"another"]);
        assert_eq!(get(&program, &format!("/v2/{name}/team/app/blobs/{}", second.layers[0]), None).await, 200);
        registry.require(Auth::Basic { username: "robot".to_owned(), password: "changed".to_owned() });
        registry.revoke_tokens();
        // The credentials are forebay's own: what is cached goes on.
        assert_eq!(get(&program, &tag, None).await, 200);
        assert!(registry.count(|request| request.server == Server::Cdn) > 0);
    }
    let log = program.end().await;
    let mut secrets: Vec<String> = PASSWORDS.iter().map(|&secret| secret.to_owned()).collect();
    secrets.extend(["basic-pa55", "bearer-pa55"].map(|password| basic("robot", password)["Basic ".len()..].to_owned()));
    secrets.extend([basic("ann", "secret"), basic("ann", "wrong-pa55")].map(|it| it["Basic ".len()..].to_owned()));
    secrets.extend(["token-1", "token-2", "signature=", "query-pa55"].map(str::to_owned));
    for line in log.lines() {
        for secret in &secrets {
            // The names of the password files are no secret.
            let line = line.replace("basic-pa55.txt", "").replace("bearer-pa55.txt", "");
            assert!(!line.contains(&**secret), "{secret} is in the log: {line}");
        }
    }
    assert!(log.contains("\"message\":\"request\""), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_one_line_with_the_metric_labels() {
    let (basic_one, bearer_one) = two_that_want_passwords().await;
    let program = serving(&basic_one, &bearer_one, "info").await;
    let image = basic_one.add_image("team/app", "1", &[b"a layer"]);
    let path = format!("/v2/basic.example/team/app/blobs/{}", image.layers[0]);
    for path in [&*path, &path, "/v2/basic.example/team/app/manifests/9?ns=", "/v2/"] {
        get(&program, path, Some(&basic("ann", "secret"))).await;
    }
    let log = program.end().await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<&Value> = lines.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(requests.len(), 4, "{log}");
    for (line, (operation, outcome, status, sent)) in requests.iter().zip([
        ("blob", "miss", 200, Some(7)),
        ("blob", "hit", 200, Some(7)),
        ("manifest", "bypass", 404, None),
        ("base", "bypass", 200, Some(2)),
    ]) {
        assert_eq!(
            (&line["operation"], &line["outcome"], &line["status"]),
            (&operation.into(), &outcome.into(), &status.into()),
            "{line}"
        );
        assert_eq!(
            (&line["method"], &line["user"], &line["complete"]),
            (&"GET".into(), &"ann".into(), &true.into()),
            "{line}"
        );
        if let Some(sent) = sent {
            assert_eq!(line["sent"], sent, "{line}");
        }
        if operation != "base" {
            assert_eq!(
                (&line["upstream"], &line["repository"]),
                (&"basic.example".into(), &"team/app".into()),
                "{line}"
            );
        }
        assert!(line["id"].is_string() && line["peer"].is_string(), "{line}");
        assert_eq!(line["cause"].is_string(), status == 404, "{line}");
    }
    assert_eq!(requests[0]["path"], *path);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_its_upstream_knows_is_logged_by_its_name() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    registry.require(Auth::Basic { username: "ann".to_owned(), password: "secret".to_owned() });
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = \"1 B\"\n[[upstream]]\nname = \"a.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let program = Program::serve(directory, "info").await;
    for (password, status) in [("secret", 200), ("wrong-pa55", 401)] {
        assert_eq!(get(&program, "/v2/team/app/manifests/1", Some(&basic("ann", password))).await, status);
    }
    let log = program.end().await;
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let users: Vec<Value> =
        lines.filter(|line| line["message"] == "request").map(|line| line["user"].clone()).collect();
    assert_eq!(users, [Value::from("ann"), Value::Null], "{log}");
}

/// A program whose default upstream is this registry, with more configuration.
async fn of(registry: &FakeRegistry, log: &str, more: &str) -> Program {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = \"1 B\"\n[[upstream]]\nname = \"fake.example\"\nurls = [\"{}\"]\ndefault = true\n{more}",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    Program::serve(directory, log).await
}

/// The lines of a log with this message.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["message"] == message).collect()
}

async fn get_as(program: &Program, agent: &str, path: &str) -> (u16, Option<String>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}{path}", program.registry)).header("user-agent", agent);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let id = response.headers().get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
    let _ = response.bytes().await;
    (status, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_names_the_client_its_namespace_and_its_pull() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let other = registry.add_image("team/other", "1", &[b"another layer"]);
    let program = of(&registry, "info", "").await;
    let blob = |name: &str, layer: &Digest| format!("/v2/team/{name}/blobs/{layer}");
    let (layer, other_layer) = (&image.layers[0], &other.layers[0]);
    let long = format!("docker/29.1 \"quoted\" {}", "x".repeat(1000));
    let mut ids = Vec::new();
    for (path, agent) in [
        ("/v2/team/app/manifests/1?ns=fake.example".to_owned(), "containerd/v2.2"),
        (blob("app", layer), "containerd/v2.2"),
        ("/v2/team/other/manifests/1".to_owned(), long.as_str()),
        (blob("other", other_layer), ""),
        (blob("app", layer), ""),
        // The same image once more.
        ("/v2/team/app/manifests/1".to_owned(), ""),
        (blob("app", layer), ""),
        ("/v2/".to_owned(), ""),
    ] {
        let (status, id) = get_as(&program, agent, &path).await;
        assert_eq!(status, 200, "{path}");
        ids.push(Value::from(id.unwrap()));
    }
    let log = program.end().await;
    let requests = lines(&log, "request");
    assert_eq!(requests.iter().map(|line| line["id"].clone()).collect::<Vec<_>>(), ids, "{log}");
    // Each pull has the id of its first request.
    let first = |number: usize| ids[number].clone();
    let pulls = [first(0), first(0), first(2), first(2), first(0), first(5), first(5), Value::Null];
    assert_eq!(requests.iter().map(|line| line["pull"].clone()).collect::<Vec<_>>(), pulls, "{log}");
    assert_eq!((&requests[0]["user_agent"], &requests[0]["ns"]), (&"containerd/v2.2".into(), &"fake.example".into()));
    let agent = requests[2]["user_agent"].as_str().unwrap();
    assert!(long.starts_with(agent) && agent.len() == 256, "{agent}");
    assert_eq!((&requests[3]["user_agent"], &requests[3]["ns"]), (&Value::Null, &Value::Null));
    assert!(requests.iter().all(|line| line["failure"].is_null()), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_has_a_word_for_its_cause() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let missing = format!("sha256:{}", "0".repeat(64));
    let program = of(&registry, "info", "").await;
    let no_fault = || Vec::new();
    let cases = [
        ("/v2/team/app/manifests/9?ns=fake.example".to_owned(), no_fault(), 404, "manifest_unknown"),
        (format!("/v2/team/app/blobs/{missing}"), no_fault(), 404, "blob_unknown"),
        ("/v2/team/app/manifests/1?ns=evil.example".to_owned(), no_fault(), 404, "unconfigured_upstream"),
        ("/elsewhere".to_owned(), no_fault(), 404, "no_such_path"),
        ("/v2/team/app/blobs/sha256:00".to_owned(), no_fault(), 400, "invalid_digest"),
        ("/v2/team/app/manifests/2".to_owned(), vec![Fault::status(500)], 502, "upstream_unavailable"),
        ("/v2/team/app/manifests/3".to_owned(), vec![Fault::too_many("7")], 429, "upstream_rate_limit"),
    ];
    for (number, (path, faults, status, failure)) in cases.into_iter().enumerate() {
        for fault in faults {
            registry.fault_times(1, When::manifests(), fault);
        }
        assert_eq!(get_as(&program, "x", &path).await.0, status, "{path}");
        let line = until("the request is logged", async || {
            let lines = lines(&program.log(), "request");
            lines.get(number).cloned()
        })
        .await;
        assert_eq!((&line["status"], &line["failure"]), (&status.into(), &failure.into()), "{line}");
        let cause = if status == 502 { "status".into() } else { line["upstream_cause"].clone() };
        assert_eq!((&line["upstream_cause"], line["upstream_cause"].is_null()), (&cause, status < 429), "{line}");
        let namespace = path.split_once("?ns=").map_or(Value::Null, |(_, name)| name.into());
        assert_eq!(line["ns"], namespace, "{line}");
    }
    assert_eq!(lines(&program.end().await, "request").len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_early_is_a_failure_of_its_own() {
    const LEN: usize = 1_000_000;
    let registry = FakeRegistry::start().await;
    let (digest, _) = blob::add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let program = of(&registry, "info", "").await;
    let mut client = Raw::get(program.registry, &blob::path(&digest), &[]).await;
    client.read(1000).await;
    drop(client);
    let line = until("the request is logged", async || lines(&program.log(), "request").pop()).await;
    assert_eq!((&line["complete"], &line["failure"]), (&false.into(), &"client_left".into()), "{line}");
    gate.open();
    drop(program.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_says_how_long_it_waited_and_what_came() {
    const LEN: usize = 1_000_000;
    let registry = FakeRegistry::start().await;
    let (digest, _) = blob::add(&registry, LEN, 1);
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    let program = of(&registry, "info", "").await;
    let path = blob::path(&digest);
    let mut first = Raw::get(program.registry, &path, &[]).await;
    first.read(LEN / 2).await;
    let second = Raw::get(program.registry, &path, &[]).await;
    gate.open();
    assert!(first.rest().await.is_whole() && second.rest().await.is_whole());
    until("it is cached", async || program.metrics().await.contains("forebay_fills_in_flight 0\n")).await;
    for path in [&path, "/v2/team/app/manifests/1", "/v2/team/app/manifests/1"] {
        assert_eq!(program.get(path).await.0, 200);
    }
    let log = program.end().await;
    let requests = lines(&log, "request");
    let mut seen = Vec::new();
    for line in &requests {
        let (waited, whole) = (line["upstream_seconds"].as_f64(), line["duration_seconds"].as_f64().unwrap());
        assert!(waited.is_none_or(|waited| waited >= 0.0 && waited <= whole), "{line}");
        let came = line["upstream_bytes"].as_u64().unwrap_or_default();
        seen.push((line["operation"].as_str().unwrap(), line["outcome"].as_str().unwrap(), waited.is_some(), came));
    }
    seen.sort_unstable();
    let manifest = image.manifest_bytes.len() as u64;
    assert_eq!(
        seen,
        [
            ("blob", "hit", false, 0),
            ("blob", "joined", true, 0),
            ("blob", "miss", true, LEN as u64),
            ("manifest", "hit", false, 0),
            ("manifest", "miss", true, manifest),
        ],
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_debug_a_miss_tells_each_step_with_its_id() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[&[7; 300_000]]);
    registry.require(Auth::Bearer(Bearer::default()));
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    let program = of(&registry, "forebay=debug", "").await;
    let path = format!("/v2/team/app/blobs/{}", image.layers[0]);
    let (status, id) = get_as(&program, "x", &path).await;
    assert_eq!(status, 200);
    until("the download has ended", async || !lines(&program.log(), "the download ended").is_empty()).await;
    let log = program.end().await;
    let id = Value::from(id.unwrap());
    let of_request = |message: &str| {
        let lines: Vec<Value> = lines(&log, message).into_iter().filter(|line| line["id"] == id).collect();
        assert!(!lines.is_empty(), "{message}: {log}");
        lines
    };
    let token = &of_request("token")[0];
    assert_eq!((&token["cached"], &token["ok"], &token["host"]), (&false.into(), &true.into(), &"127.0.0.1".into()));
    assert_eq!(of_request("redirect")[0]["status"], 307);
    // The challenge, the token, the redirect and the blob.
    let heads = of_request("response head");
    let statuses: Vec<_> = heads.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert!([401, 200, 307].iter().all(|status| statuses.contains(status)), "{statuses:?}");
    assert!(heads.iter().all(|line| line["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)), "{heads:?}");
    for (message, bytes) in [("the body of a blob ended", "bytes"), ("the download ended", "bytes")] {
        let line = &of_request(message)[0];
        assert!(line[bytes] == 300_000 && line["megabytes_per_second"].as_f64().unwrap() > 0.0, "{line}");
    }
    let took = &of_request("the client took the response")[0];
    assert!(took["sent"] == 300_000 && took["client_seconds"].as_f64().unwrap() >= 0.0, "{took}");
    let line = &of_request("request")[0];
    assert_eq!((&line["outcome"], &line["upstream_bytes"]), (&"miss".into(), &300_000.into()), "{line}");
}
