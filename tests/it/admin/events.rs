//! What is told of downloads, evictions and upstreams as it happens.

use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, When},
    mirror::{Mirror, UPSTREAM},
    test_server::client,
    until::soon,
    users::basic,
};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

/// The events of a mirror, as they come.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    async fn follow(mirror: &Mirror) -> Self {
        let url = format!("http://{}/api/v1/events", mirror.app().admin_addr());
        Self { response: client().get(url).send().await.unwrap(), text: String::new() }
    }

    /// The next event: its name, and its data.
    async fn next_of_all(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.strip_prefix("event: ").and_then(|event| event.split_once("\ndata: "));
                let event = event.map(|(name, data)| (name.to_owned(), data.parse().unwrap()));
                self.text = rest.to_owned();
                match event {
                    Some(event) => return event,
                    // A comment.
                    None => continue,
                }
            }
            let chunk = soon("an event", self.response.chunk()).await.unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of this name.
    async fn next(&mut self, name: &str) -> Value {
        loop {
            let (event, data) = self.next_of_all().await;
            if event == name {
                return data;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_are_told_when_they_begin_and_end() {
    let registry = FakeRegistry::start().await;
    let digest = registry.add_blob("team/app", vec![7; MIB]);
    let mirror = Mirror::of(&registry).await;
    let mut events = Events::follow(&mirror).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    registry.fault_times(1, When::blobs(), Fault::Corrupt { at: MIB / 2 });
    assert!(mirror.try_get(&path).await.is_err());
    let begun = events.next("download").await;
    for (key, value) in [
        ("state", json!("started")),
        ("upstream", json!(UPSTREAM)),
        ("repository", json!("team/app")),
        ("digest", json!(digest.as_str())),
        ("size", json!(MIB)),
        ("failure", Value::Null),
        ("access", json!("shared")),
    ] {
        assert_eq!(begun[key], value, "{key}: {begun}");
    }
    let failed = events.next("download").await;
    assert_eq!((&failed["state"], &failed["failure"]), (&json!("failed"), &json!("mismatch")), "{failed}");

    assert_eq!(mirror.get(&path).await.status, 200);
    assert_eq!(events.next("download").await["state"], "started");
    let done = events.next("download").await;
    assert_eq!((&done["state"], &done["received"], &done["failure"]), (&json!("done"), &json!(MIB), &Value::Null));
    // A hit is a request alone.
    assert_eq!(mirror.get(&path).await.status, 200);
    let mut hit = events.next_of_all().await;
    while hit.1["outcome"] != "hit" {
        assert_ne!(hit.0, "download", "{hit:?}");
        hit = events.next_of_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_and_states_of_upstreams_are_told() {
    let registry = FakeRegistry::start().await;
    let blobs: Vec<_> = (0..4).map(|number| registry.add_blob("team/app", vec![number; MIB])).collect();
    let mirror = Mirror::build(&registry).max_size(5 * MIB as u64 / 2).start().await;
    let mut events = Events::follow(&mirror).await;
    for blob in &blobs {
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{blob}")).await.status, 200);
    }
    let ok = events.next("upstream").await;
    assert_eq!(ok, json!({ "name": UPSTREAM, "state": "ok", "before": "unknown" }));
    let mut events = Events::follow(&mirror).await;
    for blob in &blobs {
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{blob}")).await.status, 200);
    }
    let evicted = events.next("evicted").await;
    assert!(evicted["bytes"].as_u64() >= Some(MIB as u64) && evicted["objects"].as_u64() >= Some(1), "{evicted}");

    registry.fault(When::any(), Fault::status(500));
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 502);
    let down = events.next("upstream").await;
    assert_eq!(down, json!({ "name": UPSTREAM, "state": "down", "before": "ok" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_of_clients_with_grants_are_not_told_to_all() {
    let registry = FakeRegistry::start().await;
    let users = vec![("ann".to_owned(), "ann-pa55".to_owned())];
    registry.require(Auth::Bearer(Bearer { anonymous: false, users, ..Bearer::default() }));
    let digest = registry.add_blob("team/app", vec![7; 1000]);
    let public = FakeRegistry::start().await;
    let shared = public.add_blob("team/free", vec![8; 1000]);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\naccess = \"client\"\n\
         [[upstream]]\nname = \"public.example\"\nurls = [\"{}\"]\n",
        registry.url(),
        public.url()
    ))
    .start()
    .await;
    let mut events = Events::follow(&mirror).await;
    let headers = [("authorization", &*basic("ann", "ann-pa55"))];
    let path = format!("/v2/team/app/blobs/{digest}?ns=private.example");
    assert_eq!(mirror.get_with(&path, &headers).await.status, 200);
    assert_eq!(mirror.get(&format!("/v2/team/free/blobs/{shared}?ns=public.example")).await.status, 200);
    let first = events.next("download").await;
    assert_eq!(first["digest"], json!(shared.as_str()), "{first}");
}
