//! The log of the real program: one line for each request, and no secret in any line.

use std::fs;

use serde_json::Value;

use forebay_test_support::users::{basic, with_users};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Server, To, When},
    program::Program,
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
