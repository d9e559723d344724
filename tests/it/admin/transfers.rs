//! What is sent and downloaded now.

use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, When},
    mirror::{Mirror, UPSTREAM},
    test_server::client,
    until::until,
    users::basic,
};
use serde_json::{Value, json};

const RESOURCE: &str = "/api/v1/transfers";
const MIB: usize = 1024 * 1024;

/// What the socket tells, which sees everything.
async fn transfers(mirror: &Mirror) -> Value {
    let socket = mirror.config().admin.socket.clone().unwrap();
    let (_, text) = super::control::ask(&socket, "GET", RESOURCE).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn on_listener(mirror: &Mirror) -> Value {
    let url = format!("http://{}{RESOURCE}", mirror.app().admin_addr());
    serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

fn len(document: &Value, list: &str) -> usize {
    document[list].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_and_its_clients_are_told_while_they_last() {
    let registry = FakeRegistry::start().await;
    let layer = vec![7; 3 * MIB];
    let image = registry.add_image("team/app", "1", &[&layer]);
    let mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 0).start().await;
    mirror.get("/v2/team/app/manifests/1").await;
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let path = format!("/v2/team/app/blobs/{}", image.layers[0]);
    let during = async {
        gate.reached().await;
        let document = until("both clients", async || {
            let document = transfers(&mirror).await;
            let has_all = len(&document, "requests") == 2
                && document["requests"].as_array().unwrap().iter().all(|request| request["sent"] != json!(0))
                && document["downloads"][0]["here"] != json!(0);
            has_all.then_some(document)
        })
        .await;
        gate.open();
        document
    };
    let agent = [("user-agent", "containerd/v2.1 go")];
    let (document, first, second) =
        tokio::join!(during, mirror.get_with(&path, &agent), mirror.get_with(&path, &agent));
    assert_eq!((first.status, second.status), (200, 200));

    let download = &document["downloads"][0];
    assert_eq!((len(&document, "downloads"), &document["left_out"]), (1, &json!(0)));
    for (key, value) in [
        ("upstream", json!(UPSTREAM)),
        ("repository", json!("team/app")),
        ("image", json!("fake.example/team/app:1")),
        ("digest", json!(image.layers[0].as_str())),
        ("stage", json!("receiving")),
        ("size", json!(3 * MIB)),
        ("clients", json!(2)),
        ("prefetch", json!(false)),
        ("access", json!("shared")),
    ] {
        assert_eq!(download[key], value, "{key}: {download}");
    }
    let (here, received) = (download["here"].as_u64().unwrap(), download["received"].as_u64().unwrap());
    assert!(here > 0 && here <= received && received <= MIB as u64, "{download}");
    let mut outcomes: Vec<_> =
        document["requests"].as_array().unwrap().iter().map(|one| one["outcome"].clone()).collect();
    outcomes.sort_by_key(|outcome| outcome.to_string());
    assert_eq!(outcomes, ["joined", "miss"]);
    for request in document["requests"].as_array().unwrap() {
        for (key, value) in [
            ("image", json!("fake.example/team/app:1")),
            ("subject", json!(format!("fake.example/team/app@{}", image.layers[0]))),
            ("user_agent", json!("containerd/v2.1 go")),
            ("operation", json!("blob")),
            ("method", json!("GET")),
            ("status", json!(200)),
            ("length", json!(3 * MIB)),
            ("access", json!("shared")),
        ] {
            assert_eq!(request[key], value, "{key}: {request}");
        }
        assert!(request["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{request}");
    }
    until("nothing is left", async || {
        let document = on_listener(&mirror).await;
        len(&document, "requests") == 0 && len(&document, "downloads") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_a_head_is_told() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let during = async {
        gate.reached().await;
        let document = on_listener(&mirror).await;
        gate.open();
        document
    };
    let (document, answer) = tokio::join!(during, mirror.get("/v2/team/app/manifests/1"));
    assert_eq!(answer.status, 200);
    let request = &document["requests"][0];
    assert_eq!((&request["outcome"], &request["status"], &request["sent"]), (&Value::Null, &Value::Null, &json!(0)));
    assert_eq!((&request["image"], &request["bytes_per_second"]), (&json!("fake.example/team/app:1"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_of_clients_with_grants_are_for_the_socket() {
    let registry = FakeRegistry::start().await;
    let users = vec![("ann".to_owned(), "ann-pa55".to_owned())];
    registry.require(Auth::Bearer(Bearer { anonymous: false, users, ..Bearer::default() }));
    let digest = registry.add_blob("team/app", vec![7; 2 * MIB]);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    ))
    .start()
    .await;
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let during = async {
        gate.reached().await;
        let all = until("the download", async || {
            let all = transfers(&mirror).await;
            (len(&all, "downloads") == 1 && all["requests"][0]["sent"] != json!(0)).then_some(all)
        })
        .await;
        let listener = on_listener(&mirror).await;
        gate.open();
        (all, listener)
    };
    let (credentials, path) = (basic("ann", "ann-pa55"), format!("/v2/team/app/blobs/{digest}"));
    let headers = [("authorization", &*credentials)];
    let ((all, listener), answer) = tokio::join!(during, mirror.get_with(&path, &headers));
    assert_eq!(answer.status, 200);
    assert_eq!((&all["downloads"][0]["access"], &all["requests"][0]["access"]), (&json!("client"), &json!("client")));
    assert!(!all.to_string().contains("ann-pa55"), "{all}");
    assert_eq!((len(&listener, "requests"), len(&listener, "downloads")), (0, 0), "{listener}");
    assert_eq!((&listener["sent_bytes_per_second"], &listener["left_out"]), (&json!(0), &json!(0)));
}
