//! Passwords over clear HTTP from another machine are refused, not even asked for, and never passed on; over TLS, on this
//! machine, and where the operator wants it so, they are taken. In a network where this machine has another address.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use forebay_test_support::{
    real::{
        certificate::Authority,
        daemon::Daemon,
        forebay::command,
        image::{Blob, Format, Image},
        network::{ELSEWHERE, Network},
        podman::Podman,
        program, registry,
    },
    until::until,
};

/// At the registry, in their own name.
const ANN: &str = "ann:hers: with a colon";
/// At forebay, for what the registry gives to forebay itself.
const CAROL: &str = "carol:hers as well";
const ROBOT: &str = "robot:forebay's own";

const WHAT_TO_DO: &str = "use https, or have the operator set access.allow_clear_login = true";

/// A network with a registry and a forebay before it, at this machine's loopback and at [`ELSEWHERE`].
struct World {
    // Before the network and the folder.
    forebay: Daemon,
    registry: Daemon,
    network: Network,
    folder: TempDir,
    image: Image,
}

/// The head and the body of an answer.
struct Answer {
    status: u16,
    text: String,
}

impl World {
    /// `tls`: whether forebay speaks it as well; `access`: more keys of that section.
    async fn new(tls: bool, access: &str) -> World {
        World::with(tls, &format!("htpasswd = \"users\"\n{access}")).await
    }

    /// The same; `access` is all of that section.
    async fn with(tls: bool, access: &str) -> World {
        let network = Network::new().await;
        let folder = TempDir::with_prefix("forebay-clear-").expect("a folder can be made");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file can be written");
        let hash = |user: &str| {
            let (name, password) = user.split_once(':').expect("a name and a password");
            format!("{name}:{}\n", bcrypt::hash(password, 4).expect("a password can be hashed"))
        };
        write("registry-users", &(hash(ANN) + &hash(ROBOT)));
        let auth = json!({ "htpasswd": { "realm": "private", "path": folder.path().join("registry-users") } });
        registry::configure(folder.path(), 6000, json!({}), auth);
        let image = Image::new(Format::Oci, 88, &[500]);
        for blob in image.layers.iter().chain([&image.config]) {
            registry::store(folder.path(), "ann/app", blob);
        }
        let mut serve = network.command(&program::find("docker-registry", "docker-registry"));
        serve.arg("serve").arg(folder.path().join("config.yml"));
        let mut registry = Daemon::spawn("docker-registry", serve, &folder.path().join("registry.log"));
        network.until_answering(&mut registry, "http://127.0.0.1:6000/").await;

        let authority = Authority::new();
        write("ca.crt", &authority.pem());
        let keys = authority.issue(folder.path(), &[ELSEWHERE, "127.0.0.1"]);
        let tls = if tls {
            format!("[server.tls]\ncertificate = {:?}\nkey = {:?}\n", keys.certificate, keys.key)
        } else {
            String::new()
        };
        write("users", &hash(CAROL));
        write("password", ROBOT.split_once(':').expect("a password").1);
        let upstreams = "[[upstream]]\nname = \"private.example\"\nurls = [\"http://127.0.0.1:6000\"]\ndefault = true\n\
             access = \"client\"\npush = true\n\
             [[upstream]]\nname = \"shared.example\"\nurls = [\"http://127.0.0.1:6000\"]\nusername = \"robot\"\n\
             password_file = \"password\"\npush = true\n";
        write(
            "forebay.toml",
            &format!(
                "[server]\nlisten = [\"127.0.0.1:5000\", \"{ELSEWHERE}:5000\"]\n{tls}[admin]\nlisten = \"127.0.0.1:5001\"\n\
                 [access]\n{access}\n{upstreams}"
            ),
        );
        let binary = command();
        let mut serve = network.command(binary.get_program().as_ref());
        serve.args(["serve", "--config"]).arg(folder.path().join("forebay.toml"));
        serve.arg("--cache-dir").arg(folder.path().join("cache"));
        serve.env("HOME", folder.path()).env("STATE_DIRECTORY", folder.path().join("state"));
        serve.env_remove("FOREBAY_LOG").env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        let mut forebay = Daemon::spawn("forebay", serve, &folder.path().join("forebay.log"));
        network.until_answering(&mut forebay, "http://127.0.0.1:5001/readyz").await;
        World { forebay, registry, network, folder, image }
    }

    async fn curl(&self, url: &str, user: Option<&str>, more: &[&str]) -> Answer {
        let ca = self.folder.path().join("ca.crt").display().to_string();
        let mut arguments = vec!["--cacert", &ca];
        arguments.extend(user.into_iter().flat_map(|user| ["--basic", "--user", user]));
        arguments.extend(more);
        arguments.push(url);
        let text = String::from_utf8_lossy(&self.network.curl(&arguments).await.ok()).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a head has a status");
        Answer { status, text }
    }

    fn layer(&self) -> &Blob {
        &self.image.layers[0]
    }

    /// Passwords are asked for and taken at this URL: the registry's word counts, and that of our own file.
    async fn assert_taken_at(&self, base: &str) {
        let base_url = format!("{base}/v2/");
        let nobody = self.curl(&base_url, None, &[]).await;
        assert_eq!(nobody.status, 401, "{base}: {}", nobody.text);
        assert!(nobody.challenges(), "{base}: {}", nobody.text);
        let manifest = self.folder.path().join("manifest.json");
        fs::write(&manifest, &self.image.manifest.blob.bytes).expect("a file can be written");
        let (manifest, kind) =
            (format!("@{}", manifest.display()), format!("Content-Type: {}", self.image.manifest.media_type));
        let put = ["--request", "PUT", "--data-binary", &manifest, "--header", &kind];
        let layer = &self.layer().digest;
        for (user, path, more, status) in [
            (ANN, "/v2/".to_owned(), &[][..], 200),
            ("ann:wrong", "/v2/".to_owned(), &[], 401),
            (CAROL, "/v2/".to_owned(), &[], 401),
            (ANN, format!("/v2/ann/app/blobs/{layer}"), &["--head"], 200),
            ("ann:wrong", format!("/v2/ann/app/blobs/{layer}"), &[], 401),
            (ANN, "/v2/ann/app/manifests/1".to_owned(), &put, 201),
            (CAROL, format!("/v2/shared.example/ann/app/blobs/{layer}"), &["--head"], 200),
            ("carol:wrong", format!("/v2/shared.example/ann/app/blobs/{layer}"), &["--head"], 401),
            (ANN, format!("/v2/shared.example/ann/app/blobs/{layer}"), &["--head"], 401),
            (CAROL, "/v2/shared.example/ann/app/manifests/2".to_owned(), &put, 201),
        ] {
            let answer = self.curl(&format!("{base}{path}"), Some(user), more).await;
            assert_eq!(answer.status, status, "{base}{path} as {user}: {}", answer.text);
        }
    }

    /// They are neither at this one. The paths are of a repository that no other test names.
    async fn assert_refused_at(&self, base: &str) {
        let layer = &self.layer().digest;
        let put = ["--request", "PUT", "--data-binary", "{}"];
        let (private, shared) = ("/v2/refused/app", "/v2/shared.example/refused/app");
        for user in [ANN, "ann:wrong", CAROL, "carol:wrong"] {
            for (path, more) in [
                ("/v2/".to_owned(), &[][..]),
                (format!("{private}/blobs/{layer}"), &[]),
                (format!("{private}/manifests/1"), &[]),
                (format!("{private}/tags/list"), &[]),
                (format!("{private}/manifests/1"), &put),
                (format!("{shared}/blobs/{layer}"), &[]),
                (format!("{shared}/manifests/1"), &put),
            ] {
                let answer = self.curl(&format!("{base}{path}"), Some(user), more).await;
                assert_eq!(answer.status, 403, "{base}{path} as {user}: {}", answer.text);
                assert!(answer.text.contains("DENIED") && answer.text.contains(WHAT_TO_DO), "{}", answer.text);
                assert!(!answer.challenges(), "{}", answer.text);
            }
        }
        // Nor does a challenge invite a client to send some.
        for (path, more) in [
            ("/v2/", &[][..]),
            (&*format!("/v2/ann/app/blobs/{layer}"), &[]),
            ("/v2/ann/app/tags/list", &[]),
            ("/v2/ann/app/manifests/1", &put),
            ("/v2/shared.example/ann/app/manifests/1", &put),
        ] {
            let answer = self.curl(&format!("{base}{path}"), None, more).await;
            assert_eq!(answer.status, 403, "{base}{path}: {}", answer.text);
            assert!(!answer.challenges(), "{base}{path}: {}", answer.text);
            assert!(answer.text.contains(WHAT_TO_DO), "{base}{path}: {}", answer.text);
        }
    }
}

impl Answer {
    fn challenges(&self) -> bool {
        self.text.to_ascii_lowercase().contains("www-authenticate")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_from_elsewhere_is_taken_over_tls_only() {
    let world = World::new(true, "").await;
    let elsewhere = format!("http://{ELSEWHERE}:5000");
    world.assert_refused_at(&elsewhere).await;
    world.assert_taken_at("http://127.0.0.1:5000").await;
    world.assert_taken_at(&format!("https://{ELSEWHERE}:5000")).await;
    // Not either once what they say was taken at another address.
    world.assert_refused_at(&elsewhere).await;

    until("the registry has logged what was passed on", async || {
        world.registry.log().contains("/v2/ann/app/manifests/2").then_some(())
    })
    .await;
    assert!(!world.registry.log().contains("refused/app"), "{}", world.registry.log());
    for password in [ANN, CAROL, ROBOT].map(|user| user.split_once(':').expect("a password").1) {
        assert!(!world.forebay.log().contains(password), "{}", world.forebay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_http_from_elsewhere_is_refused_unless_allowed() {
    let user = Podman::new("");
    let inspect = ["inspect", "--raw", "--tls-verify=false", "--creds", ANN];
    let reference = format!("docker://{ELSEWHERE}:5000/ann/app:1");
    let inspect: Vec<&str> = inspect.into_iter().chain([&*reference]).collect();

    let strict = World::new(false, "").await;
    let said = user.skopeo_in(&strict.network, &inspect).await.failed();
    // It shows no more of what it is told than the status.
    assert!(said.contains("403"), "{said}");
    drop(strict);

    let lenient = World::new(false, "allow_clear_login = true").await;
    lenient.assert_taken_at(&format!("http://{ELSEWHERE}:5000")).await;
    let raw = user.skopeo_in(&lenient.network, &inspect).await.ok();
    assert_eq!(raw, lenient.image.manifest.blob.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_users_clear_credentials_are_ignored() {
    let world = World::with(false, "").await;
    let elsewhere = format!("http://{ELSEWHERE}:5000");
    let blob = format!("{elsewhere}/v2/shared.example/ann/app/blobs/{}", world.layer().digest);
    for user in [None, Some(ANN), Some("ann:wrong"), Some(CAROL)] {
        for url in [&format!("{elsewhere}/v2/?ns=shared.example"), &blob] {
            let answer = world.curl(url, user, &["--head"]).await;
            assert_eq!(answer.status, 200, "{url} as {user:?}: {}", answer.text);
        }
        // Where the upstream would judge them they do not go in clear.
        let private = world.curl(&format!("{elsewhere}/v2/ann/app/manifests/1"), user, &[]).await;
        assert_eq!(private.status, 403, "{user:?}: {}", private.text);
        assert!(private.text.contains(WHAT_TO_DO), "{}", private.text);
    }
    assert_eq!(world.forebay.log().matches("shows credentials").count(), 1, "{}", world.forebay.log());
}
