//! The part of the internet that a test needs, behind a proxy: registries by their real names.
//!
//! forebay runs with `HTTPS_PROXY` and `HTTP_PROXY` set to it, and is configured as an operator would: the names, the
//! realms and the redirects are the real ones. TLS ends here, under a CA of the test's own; each registry is a
//! [`Dialect`]. A registry refuses what the real one refuses; what none of them would notice, such as a password that
//! is sent to the wrong host, [`Internet::assert_secrets_kept`] finds. A host without an owner is answered with 502.

pub mod dialect;
mod proxy;
mod realm;
pub mod registries;
mod registry;
mod writes;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use url::Url;

pub use self::registry::TAG;
use self::{dialect::Dialect, registry::Registry};
use crate::users::basic;

use super::{fake_registry::Image, test_ca::TestCa};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `https://host` or `https://host:port`.
    pub origin: String,
    pub method: Method,
    pub path_and_query: String,
    pub headers: HeaderMap,
    /// A form.
    pub body: String,
    /// What is pushed.
    pub content: Bytes,
}

impl Seen {
    pub fn url(&self) -> String {
        format!("{}{}", self.origin, self.path_and_query)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The values of a parameter of the query, or of the form in the body.
    pub fn parameter(&self, name: &str) -> Vec<String> {
        let query = self.path_and_query.split_once('?').map_or("", |(_, query)| query);
        let text = if self.body.is_empty() { query } else { &self.body };
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// What a registry answers.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// The Content-Length, of which `body` may fall short.
    len: usize,
}

impl Answer {
    fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self { status, headers: vec![], len: body.len(), body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The hosts of some registries; they end with this value.
pub struct Internet {
    shared: Arc<Shared>,
    ca: TestCa,
    pub proxy: String,
    running: JoinHandle<()>,
}

struct Shared {
    registries: Mutex<Vec<Registry>>,
    seen: Mutex<Vec<Seen>>,
    tls: TlsAcceptor,
}

impl Internet {
    pub async fn of(dialects: &[Dialect]) -> Self {
        let ca = TestCa::new();
        let hosts: Vec<String> = dialects.iter().flat_map(hosts).collect();
        let tls = TlsAcceptor::from(ca.server(&hosts.iter().map(String::as_str).collect::<Vec<_>>()));
        let registries = (0..).zip(dialects).map(|(index, dialect)| Registry::new(*dialect, index * 100)).collect();
        let shared = Arc::new(Shared { registries: Mutex::new(registries), seen: Mutex::default(), tls });
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", tcp.local_addr().unwrap());
        let running = tokio::spawn(proxy::accept(tcp, shared.clone()));
        Self { shared, ca, proxy, running }
    }

    pub fn ca(&self) -> std::path::PathBuf {
        self.ca.path()
    }

    /// The image of a repository of this registry.
    pub fn image(&self, dialect: &Dialect, repository: &str) -> Image {
        self.with(dialect, |registry| registry.images[repository].clone())
    }

    /// Digest, media type and bytes of the manifest that a repository has under a reference.
    pub fn manifest(&self, dialect: &Dialect, repository: &str, reference: &str) -> Option<(String, String, Bytes)> {
        self.with(dialect, |registry| registry.content.manifest(repository, reference))
    }

    /// The tags of a repository.
    pub fn tags(&self, dialect: &Dialect, repository: &str) -> Vec<String> {
        self.with(dialect, |registry| registry.content.tags(repository).into_iter().map(str::to_owned).collect())
    }

    pub fn blob(&self, dialect: &Dialect, repository: &str, digest: &str) -> Bytes {
        self.with(dialect, |registry| registry.blob(repository, digest))
    }

    /// No token that this registry's realm gave is good any more.
    pub fn revoke_tokens(&self, dialect: &Dialect) {
        self.with(dialect, Registry::revoke);
    }

    /// All users have this password from now on, and no token is good any more.
    pub fn change_passwords(&self, dialect: &Dialect, password: &'static str) {
        self.with(dialect, |registry| {
            registry.change_passwords(password);
            registry.revoke();
        });
    }

    /// The same when the next part of an upload comes, before anything of it is taken.
    pub fn revoke_tokens_at_next_part(&self, dialect: &Dialect) {
        self.with(dialect, |registry| registry.revokes_at_next_part = true);
    }

    /// The next blob that this registry's redirects lead to breaks off half-way.
    pub fn cut_next_blob(&self, dialect: &Dialect) {
        self.with(dialect, |registry| registry.cut_next_blob = true);
    }

    /// What a GET of one of this registry's URLs is answered with. It is not among what was seen.
    pub fn ask(&self, dialect: &Dialect, url: &str, authorization: Option<String>) -> Answer {
        let url = Url::parse(url).unwrap();
        let authorization = authorization.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap()));
        let seen = Seen {
            origin: url.origin().ascii_serialization(),
            method: Method::GET,
            path_and_query: url[url::Position::BeforePath..].to_owned(),
            headers: authorization.collect(),
            body: String::new(),
            content: Bytes::new(),
        };
        self.with(dialect, |registry| registry.answer(&seen))
    }

    /// The same for a client that this user of the registry runs, by way of the realm where there is one.
    pub fn direct(&self, dialect: &Dialect, user: Option<(&str, &str)>, repository: &str, rest: &str) -> Answer {
        let url = format!("{}/v2/{repository}/{rest}", dialect.url);
        let scope = format!("repository:{repository}:pull");
        self.dance(dialect, user, &url, Some(&scope))
    }

    /// What `docker login` is told.
    pub fn login(&self, dialect: &Dialect, user: (&str, &str)) -> Answer {
        self.dance(dialect, Some(user), &format!("{}/v2/", dialect.url), None)
    }

    fn dance(&self, dialect: &Dialect, user: Option<(&str, &str)>, url: &str, scope: Option<&str>) -> Answer {
        let basic = user.map(|(name, password)| basic(name, password));
        let Some(realm) = dialect.realm else { return self.ask(dialect, url, basic) };
        let mut realm_url = Url::parse(realm.url).unwrap();
        realm_url.query_pairs_mut().extend_pairs(scope.map(|scope| ("scope", scope)));
        realm_url.query_pairs_mut().extend_pairs(realm.service.map(|service| ("service", service)));
        let answer = self.ask(dialect, realm_url.as_str(), basic);
        if answer.status != 200 {
            return answer;
        }
        let token: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        self.ask(dialect, url, Some(format!("Bearer {}", token[realm.fields[0]].as_str().unwrap())))
    }

    fn with<T>(&self, dialect: &Dialect, act: impl FnOnce(&mut Registry) -> T) -> T {
        act(self.shared.registries().iter_mut().find(|registry| registry.dialect.name == dialect.name).unwrap())
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn count(&self, is: impl Fn(&Seen) -> bool) -> usize {
        self.seen().iter().filter(|seen| is(seen)).count()
    }

    /// No host got what is not meant for it, and no client requested more than to read.
    pub fn assert_secrets_kept(&self) {
        self.assert_asked_for(&["pull", "metadata_read"]);
    }

    /// The same where a client pushes and deletes.
    pub fn assert_secrets_kept_by_writer(&self) {
        self.assert_asked_for(&["pull", "push", "delete"]);
    }

    fn assert_asked_for(&self, expected: &[&str]) {
        let registries = self.shared.registries();
        for seen in self.seen() {
            let url = seen.url();
            let is_realm =
                |dialect: &Dialect| dialect.realm.is_some_and(|realm| url.split('?').next() == Some(realm.url));
            let is_registry = |dialect: &Dialect| seen.origin == dialect.url;
            let owner = registries.iter().map(|registry| registry.dialect);
            let owners: Vec<Dialect> = owner.filter(|dialect| is_realm(dialect) || is_registry(dialect)).collect();
            if let Some(shown) = seen.header("authorization") {
                let may = owners.iter().any(|dialect| {
                    let password = shown.starts_with("Basic ");
                    if !password {
                        !is_realm(dialect)
                    } else {
                        (is_realm(dialect) || dialect.takes_passwords) && realm::is_of(dialect, shown)
                    }
                });
                assert!(may, "{url} was shown {}", shown.split(' ').next().unwrap());
            }
            for name in ["cookie", "referer"] {
                assert_eq!(seen.header(name), None, "{url}");
            }
            for secret in owners.iter().flat_map(|dialect| dialect.users).map(|(_, password)| password) {
                assert!(!seen.path_and_query.contains(secret), "{url} has a password in it");
            }
            for scope in seen.parameter("scope").iter().flat_map(|scope| scope.split(' ')) {
                let actions = scope.rsplit(':').next().unwrap();
                assert!(actions.split(',').all(|action| expected.contains(&action)), "{scope}");
            }
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Shared {
    fn registries(&self) -> MutexGuard<'_, Vec<Registry>> {
        self.registries.lock().unwrap()
    }

    async fn serve(&self, origin: String, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, incoming) = request.into_parts();
        // Of a client that left in the middle nothing is kept.
        let Ok(collected) = incoming.collect().await else { return Response::new(Full::default()) };
        let content = collected.to_bytes();
        let path_and_query = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let kind = parts.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_owned());
        let is_form = kind.is_some_and(|kind| kind.starts_with(b"application/x-www-form-urlencoded"));
        let body = if is_form { String::from_utf8_lossy(&content).into_owned() } else { String::new() };
        let seen = Seen { origin, method: parts.method, path_and_query, headers: parts.headers, body, content };
        self.seen.lock().unwrap().push(seen.clone());
        let host = host(&seen.origin);
        let mut registries = self.registries();
        let owner = registries.iter_mut().find(|registry| hosts(&registry.dialect).contains(&host));
        let answer = owner.map_or_else(|| Answer::new(502, "no such host"), |owner| owner.answer(&seen));
        let mut response = Response::builder().status(answer.status).header("content-length", answer.len);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(answer.body)).unwrap()
    }
}

/// The hosts that belong to a registry, with those that its challenges name.
fn hosts(dialect: &Dialect) -> Vec<String> {
    let redirects = [dialect.manifests, dialect.blobs].into_iter().flatten().map(|redirect| redirect.location);
    let challenges = dialect.bad_challenges.into_iter().flatten().filter_map(|challenge| challenge.split('"').nth(1));
    let named = challenges.filter(|realm| realm.starts_with("https:"));
    let urls = [dialect.url].into_iter().chain(dialect.realm.map(|realm| realm.url)).chain(redirects).chain(named);
    urls.filter(|url| !url.starts_with('/')).map(host).collect()
}

fn host(url: &str) -> String {
    Url::parse(&url.replace(['{', '}'], "")).unwrap().host_str().unwrap().to_owned()
}
