//! Images that an upstream grants to some clients: without the token nothing tells that they are there, and no endpoint hands
//! them out, pulls them, or gives their names to other content.

use bytes::Bytes;
use forebay_test_support::{
    blob,
    fake_registry::{FakeRegistry, Fault, Gate, Image, When},
    layout::{archive, image_files},
    mirror::Mirror,
    until::{bounded, until},
    wire,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    super::control::ask,
    endpoints::{ALL, Need},
};
use forebay_test_support::control;

const NAME: &str = "private.example/hidden/thing:1";
/// What no answer may have in it.
const WORD: &str = "hidden/thing";

/// A mirror that has an image of an upstream with `access = "client"`.
struct Hidden {
    mirror: Mirror,
    image: Image,
    private: FakeRegistry,
    shared: FakeRegistry,
}

impl Hidden {
    async fn new() -> Self {
        let (private, shared) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let image = private.add_image("hidden/thing", "1", &[b"what is not for all"]);
        shared.add_image("team/app", "1", &[b"what is for all"]);
        let upstream = |name: &str, registry: &FakeRegistry, keys: &str| {
            format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n{keys}\n", registry.url())
        };
        let text = upstream("fake.example", &shared, "default = true")
            + &upstream("private.example", &private, "access = \"client\"");
        let mirror = Mirror::parse(&text).start().await;
        let this = Self { mirror, image, private, shared };
        this.pull().await;
        assert_eq!(this.mirror.get("/v2/team/app/manifests/1").await.status, 200);
        until("both are in the inventory", async || {
            let images = control::get(&this.mirror, "images").await;
            images["images"].as_array().is_some_and(|images| images.len() == 2)
        })
        .await;
        this
    }

    async fn pull(&self) {
        for path in ["manifests/1".to_owned(), format!("manifests/{}", self.image.manifest)] {
            assert_eq!(self.mirror.get(&format!("/v2/hidden/thing/{path}?ns=private.example")).await.status, 200);
        }
        for digest in self.image.layers.iter().chain([&self.image.config]) {
            let path = format!("/v2/hidden/thing/blobs/{digest}?ns=private.example");
            assert_eq!(self.mirror.get(&path).await.status, 200);
        }
    }

    /// The status and the text of an answer of the admin listener, without a token.
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = wire::exchange(self.mirror.app().admin_addr(), &format!("GET {path}"), &[]).await;
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_nothing_tells_of_private_images() {
    let hidden = Hidden::new().await;
    let pinned = control::post(&hidden.mirror, "images/pin", json!({ "match": "private.example/hidden/*" })).await;
    assert_eq!(pinned.0, 200);
    // One is in flight, and one has failed.
    let gate = Gate::new();
    let late = hidden.private.add_blob("hidden/thing", "a blob that comes late");
    hidden.private.fault(When::blob(&late), Fault::HoldHead(gate.clone()));
    let path = format!("/v2/hidden/thing/blobs/{late}?ns=private.example");
    let fetched = async {
        let answer = hidden.mirror.get(&path).await;
        assert_eq!(answer.status, 200);
    };
    let asked = async {
        gate.reached().await;
        assert_eq!(hidden.mirror.get("/v2/hidden/thing/manifests/none?ns=private.example").await.status, 404);
        let requests = control::get(&hidden.mirror, "requests").await;
        let id = requests["requests"].as_array().unwrap().iter().find(|request| request.to_string().contains(WORD));
        let id = id.expect("the socket tells of it")["id"].as_str().unwrap().to_owned();
        let digest = hidden.image.manifest.as_str();
        for endpoint in ALL.iter().filter(|endpoint| endpoint.need == Need::Read && !endpoint.path.contains('{')) {
            if endpoint.path == "events" {
                continue;
            }
            let (status, text) = hidden.get(&format!("/api/v1/{}", endpoint.path)).await;
            assert!(status == 200 && !text.contains(WORD) && !text.contains(digest), "{}: {text}", endpoint.path);
        }
        for query in [
            "images?match=*",
            "images?match=private.example/*",
            "images?match=private.example/hidden/thing:1",
            "images?match=*@*",
            "images?sort=name&limit=1000",
            "images?sort=size&after=0,clients,private.example/a:1",
            "images?match=clients/*",
            "requests?errors",
            "requests?image=private.example/hidden/*",
            "requests?image=private.example/*",
            &format!("requests?id={id}"),
            "requests?client=127.0.0.1",
            "pulls?image=private.example/hidden/*",
            &format!("pulls?id={id}"),
        ] {
            let (status, text) = hidden.get(&format!("/api/v1/{query}")).await;
            assert!(status == 200 && !text.contains(WORD) && !text.contains(digest), "{query}: {text}");
            let document: Value = serde_json::from_str(&text).unwrap();
            for list in ["images", "requests", "pulls"] {
                let of_private = |entry: &&Value| entry["upstream"] == "private.example";
                assert_eq!(document[list].as_array().into_iter().flatten().find(of_private), None, "{query}");
            }
        }
        // The name of an image that is here gets the answer of one that is not.
        for (here, not_here) in [
            (NAME.to_owned(), "private.example/absent/thing:1".to_owned()),
            (format!("{NAME}?access=client"), "private.example/absent/thing:1?access=client".to_owned()),
            (
                format!("private.example/hidden/thing@{}", hidden.image.manifest),
                format!("private.example/absent/thing@{}", hidden.image.manifest),
            ),
        ] {
            let (status, text) = hidden.get(&format!("/api/v1/images/{here}")).await;
            let (absent, expected) = hidden.get(&format!("/api/v1/images/{not_here}")).await;
            assert_eq!((status, text.replace("hidden", "absent")), (absent, expected));
            assert_eq!(status, 404);
        }
        for page in ["/", "/page/now", "/page/images", "/page/images?match=private.example%2F*"] {
            let (_, text) = hidden.get(page).await;
            assert!(!text.contains("hidden/") && !text.contains(digest), "{page}: {text}");
        }
        gate.open();
    };
    tokio::join!(fetched, asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_events_tell_of_no_private_request() {
    let hidden = Hidden::new().await;
    let mut events = TcpStream::connect(hidden.mirror.app().admin_addr()).await.unwrap();
    events.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    bounded(async {
        while !told.ends_with(b"\r\n\r\n") {
            told.push(events.read_u8().await.unwrap())
        }
    })
    .await;
    hidden.pull().await;
    assert_eq!(hidden.mirror.get("/v2/team/app/manifests/1").await.status, 200);
    // Events of requests are in the order of their ends, so those of the private ones would be here by then. Nothing is
    // downloaded: all of it is cached.
    let mut buffer = [0; 4096];
    bounded(async {
        while !String::from_utf8_lossy(&told).contains("team/app") {
            let len = events.read(&mut buffer).await.unwrap();
            assert!(len > 0);
            told.extend_from_slice(&buffer[..len]);
        }
    })
    .await;
    let told = String::from_utf8_lossy(&told);
    assert!(!told.contains(WORD), "{told}");
    for digest in hidden.image.layers.iter().chain([&hidden.image.config, &hidden.image.manifest]) {
        assert!(!told.contains(digest.as_str()), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_gets_no_private_image_out() {
    let hidden = Hidden::new().await;
    let socket = hidden.mirror.config().admin.socket.clone().unwrap();
    let before = (hidden.private.count(|_| true), hidden.shared.count(|_| true));
    let by_digest = format!("private.example/hidden/thing@{}", hidden.image.manifest);
    for name in [NAME, &by_digest] {
        let (status, body) = ask(&socket, "GET", &format!("/api/v1/export?name={name}")).await;
        assert!(status == "400" && body.contains("access = \\\"client\\\""), "{name}: {body}");
        let (status, body) = control::post(&hidden.mirror, "export", json!({ "images": [name] })).await;
        assert!(status == 400, "{name}: {body}");
    }
    // By the name of another upstream, nothing of it is here.
    let (status, body) = ask(&socket, "GET", "/api/v1/export?name=fake.example/hidden/thing:1").await;
    assert_eq!(status, "422", "{body}");
    let digest = format!("/api/v1/export?name=fake.example/hidden/thing@{}", hidden.image.manifest);
    assert_eq!(ask(&socket, "GET", &digest).await.0, "422");
    // The directory below which they are is no name.
    for name in ["clients/private.example/hidden/thing:1", "clients/hidden/thing:1", "../clients/hidden/thing:1"] {
        let (status, body) = ask(&socket, "GET", &format!("/api/v1/export?name={name}")).await;
        assert_eq!(status, "400", "{name}: {body}");
        let (status, body) = ask(&socket, "GET", &format!("/api/v1/images/{name}")).await;
        assert!(["400", "404"].contains(&&*status), "{name}: {body}");
        let (_, images) = ask(&socket, "DELETE", &format!("/api/v1/images?match={name}")).await;
        assert!(!images.contains("event: image"), "{name}: {images}");
    }
    // No upstream is asked about them in forebay's own name.
    let (_, refreshed) = control::ask(&hidden.mirror, "POST", "images/refresh", Some(json!({ "match": NAME }))).await;
    assert!(refreshed.contains(r#""result":"refused""#), "{refreshed}");
    let (_, warmed) = control::ask(&hidden.mirror, "POST", "warm", Some(json!({ "images": [NAME] }))).await;
    assert!(warmed.contains(r#""outcome":"failed""#), "{warmed}");
    assert_eq!(hidden.private.count(|_| true), before.0);
    assert_eq!(control::get(&hidden.mirror, "images").await["images"].as_array().unwrap().len(), 2);
    assert_eq!(hidden.mirror.get("/v2/hidden/thing/manifests/1?ns=private.example").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_makes_no_private_image() {
    let hidden = Hidden::new().await;
    let socket = hidden.mirror.config().admin.socket.clone().unwrap();
    let import = async |query: &str, files: &[(String, Bytes)]| {
        let archive = archive(files);
        let head = format!(
            "POST /api/v1/import{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            archive.len()
        );
        bounded(async {
            let mut client = tokio::net::UnixStream::connect(&socket).await.unwrap();
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&archive).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .await
    };
    for (query, name) in [
        ("", NAME),
        ("?as=private.example/hidden/thing:1", "fake.example/a/b:1"),
        ("", "clients/private.example/hidden/thing:1"),
        ("", "clients/hidden/thing:1"),
        ("?as=clients/hidden/thing:1", "fake.example/a/b:1"),
        ("", "../clients/hidden/thing:1"),
        ("", "fake.example/../clients/hidden/thing:1"),
    ] {
        let answer = import(query, &image_files(Some(name), &b"another layer"[..])).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{query} {name}: {answer}");
    }
    // A layer that is here for clients with a grant is missing for an archive.
    let layer = (hidden.private.blob("hidden/thing", &hidden.image.layers[0])).unwrap();
    let without = &image_files(Some("fake.example/a/b:1"), layer)[..4];
    let answer = import("", without).await;
    assert!(answer.starts_with("HTTP/1.1 422 ") && answer.contains("is missing"), "{answer}");
    let served = hidden.mirror.get("/v2/hidden/thing/manifests/1?ns=private.example").await;
    assert_eq!(served.header("docker-content-digest"), Some(hidden.image.manifest.as_str()));
    let path = blob::path(&hidden.image.layers[0]);
    assert_eq!(hidden.mirror.get(&path).await.status, 404);
}
