//! The registries that people use, each spoken to by its real name and in its own dialect.
//!
//! Each file describes one as a [`Dialect`], the habits that were seen at it, and pulls from it through the real program
//! with the configuration that an operator would write. What the registries are known to do is told in the files; what
//! nobody wrote down, such as some of the error bodies, is what distribution says.

pub mod acr;
pub mod aliyun;
pub mod docker_hub;
pub mod ecr;
pub mod ghcr;
pub mod google;
pub mod harbor;
pub mod kubernetes;
pub mod nvcr;
pub mod push;
pub mod qingcloud;
pub mod quay;
pub mod tencent;

use http::Method;

use forebay_test_support::{
    internet::{
        Answer as Answered, Internet, Seen, TAG,
        dialect::{Dialect, Realm, Redirect, Refusal},
    },
    mirror::Answer,
    program::Program,
    users::basic,
};

/// Whose credentials decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// forebay's own.
    Shared,
    /// Those that the client shows with each request.
    Client,
}

const MODES: [Mode; 2] = [Mode::Shared, Mode::Client];

const ALL: [&Dialect; 19] = [
    &acr::ACR,
    &aliyun::ALIYUN,
    &docker_hub::HUB,
    &ecr::ECR,
    &ghcr::GHCR,
    &google::GOOGLE,
    &harbor::HARBOR,
    &harbor::BEHIND_BALANCER,
    &harbor::CLEAR,
    &harbor::PROXY,
    &kubernetes::KUBERNETES,
    &nvcr::NVCR,
    &qingcloud::TOKENS,
    &qingcloud::PASSWORDS,
    &quay::QUAY,
    &quay::IN_LINES,
    &quay::WITH_A_STRANGER,
    &tencent::CCR,
    &tencent::HKCCR,
];

/// What a client is told that does not get an image: status and code.
type Refused = (u16, String);

/// The real program, on the internet that a test has made.
struct Forebay<'a> {
    program: Program,
    internet: &'a Internet,
    client: reqwest::Client,
    /// What the client shows.
    authorization: Option<String>,
}

impl<'a> Forebay<'a> {
    /// With these registries, each with more lines for its section.
    async fn with(internet: &'a Internet, registries: &[(&Dialect, &str)]) -> Self {
        Self::start(internet, registries, None).await
    }

    /// The same, with a user of its own where there is one.
    async fn start(internet: &'a Internet, registries: &[(&Dialect, &str)], user: Option<(&str, &str)>) -> Self {
        Self::start_in(internet, "", registries, user).await
    }

    /// The same, with more lines for its cache.
    async fn start_in(
        internet: &'a Internet,
        cache: &str,
        registries: &[(&Dialect, &str)],
        user: Option<(&str, &str)>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let section = |(dialect, more): &(&Dialect, &str)| {
            let Dialect { name, configuration, .. } = dialect;
            format!("[[upstream]]\nname = \"{name}\"\nca = {:?}\n{configuration}\n{more}\n", internet.ca())
        };
        let text: String = registries.iter().map(section).collect();
        let access = if user.is_some() { "[access]\nhtpasswd = \"htpasswd\"\n" } else { "" };
        if let Some((name, password)) = user {
            let line = format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
            std::fs::write(directory.path().join("htpasswd"), line).unwrap();
        }
        std::fs::write(
            directory.path().join("forebay.toml"),
            format!("[cache]\nmin_free = 0\n{cache}\n{access}{text}"),
        )
        .unwrap();
        for (dialect, _) in registries {
            for (index, (_, password)) in dialect.users.iter().enumerate() {
                std::fs::write(directory.path().join(password_file(dialect, index)), password).unwrap();
            }
        }
        std::fs::write(directory.path().join("wrong"), "wrong").unwrap();
        let environment = [("HTTPS_PROXY", &*internet.proxy), ("HTTP_PROXY", &internet.proxy)];
        let program = Program::serve_with(directory, "forebay=debug", &environment).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { program, internet, client, authorization: None }
    }

    /// With one registry, and the credentials where the mode wants them.
    async fn as_user(internet: &'a Internet, dialect: &Dialect, mode: Mode, user: Option<(&str, &str)>) -> Self {
        let more = match (mode, user) {
            (Mode::Shared, Some((name, password))) => credentials(dialect, name, password),
            (Mode::Shared, None) => String::new(),
            (Mode::Client, _) => "access = \"client\"".to_owned(),
        };
        let user = user.filter(|_| mode == Mode::Client);
        let authorization = user.map(|(name, password)| basic(name, password));
        Self { authorization, ..Self::with(internet, &[(dialect, &more)]).await }
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, &[], "").await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        content: impl Into<reqwest::Body>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.program.registry);
        let request = self.client.request(method, url).body(content);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = self.authorization.iter().fold(request, |request, shown| request.header("authorization", shown));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).await
    }

    /// What `docker login` asks.
    async fn log_in(&self, dialect: &Dialect) -> Result<(), Refused> {
        ok(self.get(&format!("/v2/?ns={}", dialect.name)).await).map(drop)
    }

    /// Pulls as containerd does, and compares every byte with what the registry has.
    async fn pull(&self, dialect: &Dialect, repository: &str) -> Result<(), Refused> {
        let (image, ns) = (self.internet.image(dialect, repository), format!("?ns={}", dialect.name));
        let manifest = |reference: &str| format!("/v2/{repository}/manifests/{reference}{ns}");
        let head = self.ask(Method::HEAD, &manifest(TAG)).await;
        if head.status == 200 {
            assert_eq!(head.header("docker-content-digest"), Some(image.manifest.as_str()));
        }
        for reference in [TAG, image.manifest.as_str()] {
            assert_eq!(ok(self.get(&manifest(reference)).await)?.body, image.manifest_bytes);
        }
        for digest in image.layers.iter().chain([&image.config]) {
            let path = format!("/v2/{repository}/blobs/{digest}{ns}");
            let blob = self.internet.blob(dialect, repository, digest.as_str());
            let head = self.ask(Method::HEAD, &path).await;
            let len = blob.len().to_string();
            assert_eq!((head.status, head.header("content-length")), (200, Some(&*len)), "{}", self.program.log());
            assert_eq!(ok(self.get(&path).await)?.body, blob);
        }
        self.internet.assert_secrets_kept();
        Ok(())
    }
}

fn ok(answer: Answer) -> Result<Answer, Refused> {
    if answer.status == 401 {
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm=\"forebay\""));
    }
    if answer.status == 200 { Ok(answer) } else { Err((answer.status, answer.error_code())) }
}

/// What the registry tells a client that it refuses: the code that it names, or what its status says.
fn refused_directly(answer: &Answered) -> Refused {
    let json = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
    let usual = match answer.status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        other => panic!("a refusal with {other}"),
    };
    (answer.status, json["errors"][0]["code"].as_str().unwrap_or(usual).to_owned())
}

/// The lines that give forebay these credentials, with the file that [`Forebay::with`] has made.
fn credentials(dialect: &Dialect, name: &str, password: &str) -> String {
    let index = dialect.users.iter().position(|known| *known == (name, password));
    let file = index.map_or("wrong".to_owned(), |index| password_file(dialect, index));
    format!("username = '{name}'\npassword_file = {file:?}")
}

/// Those of the registry's first user.
fn credentials_of(dialect: &Dialect) -> String {
    let (name, password) = dialect.users[0];
    credentials(dialect, name, password)
}

/// The file with the password of the registry's user of this number.
fn password_file(dialect: &Dialect, index: usize) -> String {
    format!("{}-{index}", dialect.name)
}

/// Public images need no credentials, private ones do.
async fn pulls_what_is_public(dialect: &Dialect) {
    for mode in MODES {
        let internet = Internet::of(&[*dialect]).await;
        let forebay = Forebay::as_user(&internet, dialect, mode, None).await;
        for repository in dialect.public {
            assert_eq!(forebay.pull(dialect, repository).await, Ok(()), "{mode:?}: {}", forebay.program.log());
        }
        for repository in dialect.private {
            let refused = forebay.pull(dialect, repository).await;
            let expected = expected(&internet, dialect, mode, None, repository);
            assert_eq!(refused, Err(expected), "{mode:?}: {}", forebay.program.log());
        }
    }
}

/// Each user pulls everything.
async fn pulls_what_is_private(dialect: &Dialect) {
    for mode in MODES {
        for user in dialect.users {
            let internet = Internet::of(&[*dialect]).await;
            let forebay = Forebay::as_user(&internet, dialect, mode, Some(*user)).await;
            assert_eq!(internet.login(dialect, *user).status, 200);
            assert_eq!(forebay.log_in(dialect).await, Ok(()), "{mode:?}: {}", forebay.program.log());
            for repository in dialect.private.iter().chain(dialect.public) {
                assert_eq!(forebay.pull(dialect, repository).await, Ok(()), "{mode:?}: {}", forebay.program.log());
            }
        }
    }
}

/// A wrong password gets no content; a client that sends it gets the registry's refusal.
async fn refuses_a_wrong_password(dialect: &Dialect) {
    for mode in MODES {
        let internet = Internet::of(&[*dialect]).await;
        let wrong = Some((dialect.users[0].0, "wrong"));
        let forebay = Forebay::as_user(&internet, dialect, mode, wrong).await;
        if mode == Mode::Client {
            let refused = refused_directly(&internet.login(dialect, (dialect.users[0].0, "wrong")));
            assert_eq!(forebay.log_in(dialect).await, Err(refused), "{}", forebay.program.log());
        }
        for repository in dialect.private.iter().chain(dialect.public) {
            let refused = forebay.pull(dialect, repository).await;
            let expected = expected(&internet, dialect, mode, wrong, repository);
            assert_eq!(refused, Err(expected), "{mode:?}: {}", forebay.program.log());
        }
        internet.assert_secrets_kept();
    }
}

/// What is cached goes on while forebay's password is refused, which is shown a few times in all, until there is a newer one.
async fn outlives_its_password(dialect: &Dialect) {
    let internet = Internet::of(&[*dialect]).await;
    let registries = [(dialect, &*credentials_of(dialect))];
    let forebay = Forebay::start_in(&internet, "tag_ttl = \"0\"", &registries, None).await;
    let repository = dialect.private[0];
    let [tag, tags] = ["manifests/1", "tags/list"].map(|rest| format!("/v2/{repository}/{rest}?ns={}", dialect.name));
    let (image, list) = (forebay.get(&tag).await, forebay.get(&tags).await);
    assert_eq!((image.status, list.status), (200, 200), "{}", forebay.program.log());
    let (_, old) = dialect.users[0];
    let old = basic(dialect.users[0].0, old);
    let shown = || internet.count(|seen| seen.header("authorization") == Some(&old));
    let before = shown();
    let ok = format!("forebay_upstream_credentials_ok{{upstream=\"{}\"}}", dialect.name);
    internet.change_passwords(dialect, "newer");
    for _ in 0..20 {
        for (path, cached) in [(&tag, &image), (&tags, &list)] {
            for method in [Method::GET, Method::HEAD] {
                let stale = forebay.ask(method.clone(), path).await;
                assert_eq!(stale.status, 200, "{method} {path}: {}", forebay.program.log());
                assert!(method == Method::HEAD || stale.body == cached.body, "{path}");
            }
        }
        let refused = forebay.get(&format!("/v2/{repository}/manifests/2?ns={}", dialect.name)).await;
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("the credentials of this mirror, which are not yours"), "{}", refused.text());
    }
    // The pause is ten seconds at first, should the test take as long.
    assert!((1..=6).contains(&(shown() - before)), "{}: {}", shown() - before, forebay.program.log());
    assert!(forebay.program.metrics().await.contains(&format!("{ok} 0")));
    let said = forebay.program.log().matches("the upstream refuses forebay's own credentials: what is cached").count();
    // Once a minute, should the test take as long.
    assert!((1..=5).contains(&said), "{said}: {}", forebay.program.log());

    std::fs::write(forebay.program.directory().join(password_file(dialect, 0)), "newer").unwrap();
    let missing = forebay.get(&format!("/v2/{repository}/manifests/2?ns={}", dialect.name)).await;
    assert_eq!(missing.status, 404, "{}", forebay.program.log());
    assert!(forebay.program.metrics().await.contains(&format!("{ok} 1")));
    internet.assert_secrets_kept();
}

/// What a client is told that asks in vain: of forebay's own credentials nothing; of the client's what the registry says.
fn expected(
    internet: &Internet,
    dialect: &Dialect,
    mode: Mode,
    user: Option<(&str, &str)>,
    repository: &str,
) -> Refused {
    match mode {
        // A wrong password of forebay's own is not the client's login.
        Mode::Shared if user.is_some() => (403, "UNAVAILABLE".to_owned()),
        Mode::Shared => (403, "DENIED".to_owned()),
        Mode::Client => refused_directly(&internet.direct(dialect, user, repository, "manifests/1")),
    }
}

/// The hosts that were asked, each once.
fn hosts(internet: &Internet) -> Vec<String> {
    let mut hosts: Vec<String> = internet.seen().into_iter().map(|seen| seen.origin).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// A stand-in that takes each request would prove nothing.
#[tokio::test]
async fn the_stand_ins_refuse_what_the_registries_refuse() {
    for dialect in ALL {
        let internet = Internet::of(&[*dialect]).await;
        let name = dialect.url;
        let blob = |repository: &str| format!("blobs/{}", internet.image(dialect, repository).layers[0]);
        let asked = |user, repository: &str| internet.direct(dialect, user, repository, &blob(repository));
        let given = |answer: &Answered| answer.status == 200 || answer.header("location").is_some();
        for repository in dialect.public.iter().chain(dialect.private) {
            let url = format!("{}/v2/{repository}/{}", dialect.url, blob(repository));
            let open = dialect.challenges.is_empty();
            assert_eq!(given(&internet.ask(dialect, &url, None)), open, "{name}");
            assert_eq!(given(&asked(None, repository)), dialect.public.contains(repository), "{name}");
            for user in dialect.users {
                assert!(given(&asked(Some(*user), repository)), "{name}");
                assert!(!given(&asked(Some((user.0, "wrong")), repository)), "{name}");
            }
            for wrong in ["Bearer wrong", "Basic wrong", "wrong"] {
                assert_eq!(given(&internet.ask(dialect, &url, Some(wrong.into()))), open, "{name}");
            }
            let Some(redirect) = dialect.blobs else { continue };
            let answer = asked(dialect.users.first().copied(), repository);
            let location = url::Url::parse(&url).unwrap().join(answer.header("location").unwrap()).unwrap();
            let target = |authorization: Option<&str>| {
                internet.ask(dialect, location.as_str(), authorization.map(str::to_owned)).status
            };
            if let Some(Refusal(status, _)) = redirect.authorization {
                assert_eq!(target(Some("Bearer token")), status, "{name}");
            }
            let mut changed = location.clone();
            changed.set_path(&format!("{}x", location.path()));
            assert_eq!(internet.ask(dialect, changed.as_str(), None).status, redirect.expired.0, "{name}");
            assert_eq!(target(None), 200, "{name}");
            let once = redirect.location.contains("{signature}");
            assert_eq!(target(None), if once { redirect.expired.0 } else { 200 }, "{name}");
        }
    }
}
