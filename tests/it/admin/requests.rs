//! The history over the control API: pulls with their requests, who sees which, and what follows.

use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Image, When},
    mirror::Mirror,
    test_server::client,
    until::{soon, until},
    users::basic,
};
use serde_json::Value;

/// A document of the admin listener.
async fn document(mirror: &Mirror, resource: &str) -> Value {
    let url = format!("http://{}/api/v1/{resource}", mirror.app().admin_addr());
    let text = client().get(url).send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The entries of a resource, once there are so many.
async fn entries(mirror: &Mirror, resource: &str, count: usize) -> Vec<Value> {
    let list = resource.split('?').next().unwrap();
    until(&format!("{count} entries of {resource}"), async || {
        let document = document(mirror, resource).await;
        let entries = document[list].as_array().unwrap().clone();
        (entries.len() == count).then_some(entries)
    })
    .await
}

/// Requests of docker for an image.
async fn pull(mirror: &Mirror, image: &Image) {
    for path in ["/v2/".to_owned(), "/v2/team/app/manifests/1".to_owned()] {
        assert_eq!(mirror.get_with(&path, &[("user-agent", "docker/29.1 go/go1.24 os/linux")]).await.status, 200);
    }
    for digest in std::iter::once(&image.config).chain(&image.layers) {
        let path = format!("/v2/team/app/blobs/{digest}");
        assert_eq!(mirror.get_with(&path, &[("user-agent", "docker/29.1 go/go1.24")]).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_one_entry_with_its_requests() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer", b"another"]);
    let mirror = Mirror::build(&registry).config(|config| config.cache.prefetch = 0).start().await;
    pull(&mirror, &image).await;
    // The request that asks whether this is a registry belongs to no pull.
    entries(&mirror, "requests", 5).await;
    let first = entries(&mirror, "pulls", 1).await.remove(0);
    assert_eq!(first["image"], "fake.example/team/app:1");
    assert_eq!(
        (&first["operation"], &first["outcome"], &first["requests"]),
        (&"pull".into(), &"miss".into(), &4.into())
    );
    assert_eq!((&first["access"], &first["failure"]), (&"shared".into(), &Value::Null));
    assert!(first["user_agent"].as_str().unwrap().starts_with("docker/29.1"), "{first}");
    assert_eq!(first["sent"], first["upstream_bytes"]);
    let id = first["id"].as_str().unwrap();
    let requests = entries(&mirror, &format!("requests?id={id}"), 4).await;
    assert_eq!(requests.iter().filter(|request| request["operation"] == "blob").count(), 3);
    let manifest = requests.last().unwrap();
    assert_eq!(
        (&manifest["id"], &manifest["pull"], &manifest["path"]),
        (&id.into(), &id.into(), &"/v2/team/app/manifests/1".into())
    );
    assert_eq!(
        (&manifest["status"], &manifest["complete"], &manifest["ns"]),
        (&200.into(), &true.into(), &Value::Null)
    );

    // The same again, and one that fails.
    pull(&mirror, &image).await;
    registry.fault(When::any(), Fault::status(500));
    mirror.get("/v2/team/gone/manifests/2").await;
    let pulls = entries(&mirror, "pulls", 3).await;
    assert_eq!((&pulls[0]["outcome"], &pulls[0]["failure"]), (&"error".into(), &"upstream_unavailable".into()));
    assert!(pulls[0]["cause"].as_str().unwrap().contains("500"), "{}", pulls[0]);
    assert_eq!((&pulls[1]["outcome"], &pulls[1]["upstream_bytes"]), (&"hit".into(), &0.into()));
    for (filter, count) in [
        ("errors", 1),
        ("image=fake.example/team/app:1", 2),
        ("image=fake.example/team/*", 3),
        ("client=127.0.0.0/8", 3),
        ("client=192.0.2.1", 0),
        ("slower=1h", 0),
        ("limit=2", 2),
    ] {
        assert_eq!(entries(&mirror, &format!("pulls?{filter}"), count).await.len(), count, "{filter}");
    }
    let sums = document(&mirror, "status").await["sums"].clone();
    assert_eq!(
        (&sums["day"]["pulls"], &sums["day"]["hits"], &sums["hour"]["errors"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(sums["since_start"]["sent_bytes"], 2 * first["sent"].as_u64().unwrap());
    assert_eq!((&sums["hour"]["received_bytes"], &sums["hour"]["saved_bytes"]), (&first["sent"], &first["sent"]));
    let page = document(&mirror, "pulls?limit=2").await;
    let rest = format!("pulls?limit=2&after={}", page["next"].as_str().unwrap());
    assert_eq!(entries(&mirror, &rest, 1).await[0]["id"], id);
    for query in ["errors=maybe", "image=fake.example", "client=x", "id=1", "limit=0", "after=1", "user=x"] {
        assert!(document(&mirror, &format!("requests?{query}")).await["error"].is_string(), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_that_clients_miss_are_told_by_their_names() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for path in ["nvcr.example:443/team/app/manifests/1", "team/app/manifests/1?ns=nvcr.example:443"] {
        assert_eq!(mirror.get(&format!("/v2/{path}")).await.status, 404, "{path}");
    }
    // docker and containerd begin with this.
    assert_eq!(mirror.head("/v2/team/app/manifests/1?ns=nvcr.example:443").await.status, 404);
    // What a scanner asks for is no error of a pull.
    assert_eq!(mirror.get("/wp-login.php").await.status, 404);
    entries(&mirror, "requests", 4).await;
    for pull in entries(&mirror, "pulls", 3).await {
        assert_eq!(
            (&pull["image"], &pull["operation"], &pull["failure"]),
            (&"nvcr.example:443/team/app:1".into(), &"pull".into(), &"unconfigured_upstream".into())
        );
    }
    assert_eq!(entries(&mirror, "requests?errors", 3).await.len(), 3);
    let status = document(&mirror, "status").await;
    assert_eq!(status["sums"]["hour"]["errors"], 3);
    let missing = &status["unconfigured"];
    assert_eq!((missing.as_array().unwrap().len(), &missing[0]["name"]), (1, &"nvcr.example:443".into()));
    assert_eq!(missing[0]["requests"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_by_a_host_that_is_not_allowed_is_an_error() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    // A proxy in front of forebay keeps the name that clients use.
    for path in ["/v2/team/app/manifests/1", "/"] {
        assert_eq!(mirror.get_with(path, &[("host", "mirror.corp.example")]).await.status, 421, "{path}");
    }
    entries(&mirror, "requests", 2).await;
    let pull = entries(&mirror, "pulls", 1).await.remove(0);
    assert_eq!((&pull["outcome"], &pull["failure"]), (&"error".into(), &"foreign_host".into()), "{pull}");
    assert_eq!(document(&mirror, "status").await["sums"]["hour"]["errors"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_name_in_a_refused_request_is_not_shown() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"shared.example\"\nurls = [\"{0}\"]\ndefault = true\n\
         [[upstream]]\nname = \"private.example\"\nurls = [\"{0}\"]\naccess = \"client\"\n",
        registry.url()
    ))
    .start()
    .await;
    // A digest that is none, a host that is not allowed, and a circle.
    let secret = "/v2/private.example/team/secret/manifests/";
    assert_eq!(mirror.get(&format!("{secret}sha256:abc")).await.status, 400);
    assert_eq!(mirror.get_with(&format!("{secret}1"), &[("host", "evil.example")]).await.status, 421);
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    let shown = entries(&mirror, "requests", 1).await;
    assert_eq!(shown[0]["path"], "/v2/team/app/manifests/1");
    let socket = mirror.config().admin.socket.clone().unwrap();
    until("all requests are shown to the socket", async || {
        super::control::ask(&socket, "GET", "/api/v1/requests").await.1.matches("\"path\"").count() == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_socket_shows_requests_of_clients_with_grants() {
    let registry = FakeRegistry::start().await;
    let users = vec![("ann".to_owned(), "ann-pa55".to_owned())];
    registry.require(Auth::Bearer(Bearer { anonymous: false, users, ..Bearer::default() }));
    registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::parse(&format!(
        "[[upstream]]\nname = \"private.example\"\nurls = [\"{}\"]\ndefault = true\naccess = \"client\"\n",
        registry.url()
    ))
    .start()
    .await;
    let credentials = basic("ann", "ann-pa55");
    let path = "/v2/team/app/manifests/1?password=query-pa55";
    assert_eq!(mirror.get_with(path, &[("authorization", &credentials)]).await.status, 200);
    assert_eq!(mirror.get(path).await.status, 401);
    let socket = mirror.config().admin.socket.clone().unwrap();
    let text = until("both requests", async || {
        let (_, text) = super::control::ask(&socket, "GET", "/api/v1/requests").await;
        (text.matches("\"path\"").count() == 2).then_some(text)
    })
    .await;
    for secret in ["ann-pa55", "query-pa55", &credentials["Basic ".len()..], "token-"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let requests: Value = serde_json::from_str(&text).unwrap();
    let of_ann = &requests["requests"][1];
    assert_eq!((&of_ann["access"], &of_ann["user"]), (&"client".into(), &"ann".into()));
    // A challenge is no error, and what is not for everybody is not on the listener.
    assert_eq!((&requests["requests"][0]["status"], &requests["requests"][0]["error"]), (&401.into(), &false.into()));
    assert!(entries(&mirror, "requests", 0).await.is_empty() && entries(&mirror, "pulls", 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_learn_of_each_request_as_it_ends() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    let url = format!("http://{}/api/v1/events?image=fake.example/team/app:1", mirror.app().admin_addr());
    let mut events = client().get(url).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    mirror.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await;
    mirror.get("/v2/team/app/manifests/1").await;
    let chunk = soon("the event", events.chunk()).await.unwrap().unwrap();
    let text = std::str::from_utf8(&chunk).unwrap();
    let data = text.strip_prefix("event: request\ndata: ").unwrap_or_else(|| panic!("{text}"));
    let request: Value = serde_json::from_str(data.trim_end()).unwrap();
    assert_eq!((&request["operation"], &request["image"]), (&"manifest".into(), &"fake.example/team/app:1".into()));
}
