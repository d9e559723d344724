//! The mirror under test: the real [`App`] on ports of its own, over a cache directory of its own.
//!
//! ```ignore
//! let registry = FakeRegistry::start().await;
//! let mirror = Mirror::of(&registry).await;                       // one upstream, `fake.example`, the default
//! let mirror = Mirror::build(&registry).max_size(1 << 20).start().await;
//! let mirror = Mirror::build(&registry).config(|config| config.cache.tag_ttl = Duration::ZERO).start().await;
//! let mirror = Mirror::parse(r#"[[upstream]] …"#).start().await;  // everything but addresses and directory
//!
//! let answer = mirror.get("/v2/team/app/blobs/sha256:…").await;   // whole, else the test fails
//! assert_eq!((answer.status, answer.header("cache-status")), (200, Some("forebay; hit")));
//! let broken = mirror.try_get("/v2/…").await;                     // Err when the body broke
//! mirror.request(Method::HEAD, "/v2/…", &[("range", "bytes=5-")]).await;
//! mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
//! mirror.restart().await;                                         // drained, then started on the same directory
//! ```

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use forebay::{
    app::{App, Error, Inherited},
    config::{Config, Overrides},
};
use http::{HeaderMap, Method};

use super::{fake_registry::FakeRegistry, until::until};

/// The name of the upstream that [`Mirror::of`] configures.
pub const UPSTREAM: &str = "fake.example";

/// What tests call a mirror, beside its address.
const NAMES: [&str; 3] = ["mirror.lan", "whatever.lan", "x"];

/// A mirror to be started.
pub struct Builder {
    config: Config,
    directory: tempfile::TempDir,
}

impl Builder {
    /// Changes what the file would say.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// The directory of the files that the configuration names.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn max_size(self, bytes: u64) -> Self {
        self.config(|config| config.cache.max_size = bytes)
    }

    pub async fn start(self) -> Mirror {
        self.start_at(None).await
    }

    /// Starts it on a socket that listens already.
    pub async fn start_on(self, listener: std::net::TcpListener) -> Mirror {
        self.start_at(Some(listener)).await
    }

    async fn start_at(self, listener: Option<std::net::TcpListener>) -> Mirror {
        let inherited = Inherited { registry: listener.into_iter().collect(), admin: None };
        let app = App::start(self.config.clone(), inherited).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        Mirror { app: Some(app), config: self.config, client: client.build().unwrap(), _directory: self.directory }
    }
}

/// An answer, with all of its body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header as text; of several of that name the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The code of an OCI error body.
    pub fn error_code(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        json["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// A running mirror.
pub struct Mirror {
    /// Present but while it is restarted, and once it is drained.
    app: Option<App>,
    config: Config,
    client: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl Mirror {
    /// A mirror of this registry alone, which is the default upstream.
    pub async fn of(registry: &FakeRegistry) -> Self {
        Self::build(registry).start().await
    }

    /// The same, to be changed before it starts.
    pub fn build(registry: &FakeRegistry) -> Builder {
        Self::parse(&format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n", registry.url()))
    }

    /// A mirror whose configuration file says this; addresses and cache directory are the test's. Files are
    /// relative to the directory above the cache's.
    pub fn parse(text: &str) -> Builder {
        let directory = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let overrides = Overrides {
            listen: vec![any],
            admin: Some(any),
            cache_dir: Some(directory.path().join("cache")),
            max_size: None,
        };
        let mut config = Config::parse(text, &directory.path().join("forebay.toml"), overrides).unwrap();
        // A test machine's disk may be fuller than the default wants.
        config.cache.min_free = 0;
        // Who reads slowly is ended for others where a test is about that.
        config.cache.reader_window = Duration::from_secs(3600);
        config.server.allowed_hosts = NAMES.map(|name| name.parse().unwrap()).into();
        config.state_directory = Some(directory.path().join("state"));
        // Not the machine's, for which all tests would compete.
        config.admin.socket = Some(directory.path().join("control.sock"));
        Builder { config, directory }
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.app().local_addrs()[0]
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.config.cache.directory.clone()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// GETs a path, and fails the test when the answer is not whole.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[]).await
    }

    pub async fn head(&self, path: &str) -> Answer {
        self.request(Method::HEAD, path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, path, headers).await
    }

    pub async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.try_request(method, path, headers).await.unwrap()
    }

    /// GETs a path; an error when the answer breaks.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.try_request(Method::GET, path, &[]).await
    }

    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, reqwest::Error> {
        let request = self.client.request(method, format!("{}{path}", self.url()));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    /// Sends content; `path` may be a Location of an answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        content: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.client.request(method, format!("{}{path}", self.url())).body(content);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap() }
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.app().admin_addr());
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// The sum of a metric over all of its lines that have these labels; 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics().await;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric is so.
    pub async fn until_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        until(&format!("{name}{labels:?} is {value}"), async || self.metric(name, labels).await == value).await;
    }

    /// What a command prints that asks this mirror: its exit code, standard output and standard error.
    pub async fn command(&self, program: &str, arguments: &[&str]) -> (Option<i32>, Vec<u8>, String) {
        let socket = self.config.admin.socket.as_ref().unwrap();
        let mut command = tokio::process::Command::new(program);
        let output = command.args(arguments).arg("--control").arg(socket).kill_on_drop(true).output().await.unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    }

    /// Ends it; its directory stays as long as this value.
    pub async fn drain(&mut self) {
        self.app.take().unwrap().drain().await;
    }

    /// Starts it (again) on the same directory, on new ports.
    pub async fn start(&mut self) {
        assert!(self.app.is_none(), "it is running");
        self.app = Some(App::start(self.config.clone(), Inherited::default()).await.unwrap());
    }

    pub async fn restart(&mut self) {
        self.drain().await;
        self.start().await;
    }

    /// Ends it, and starts it with another configuration on the same directory.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        self.drain().await;
        self.start_with(change).await;
    }

    /// Restarts it with an `admin.token_file` that has this token; the path of the file.
    pub async fn restart_with_token(&mut self, token: &str) -> PathBuf {
        let file = self.cache_dir().with_file_name("admin.token");
        std::fs::write(&file, token).unwrap();
        self.restart_with(|config| config.admin.token_file = Some(file.clone())).await;
        file
    }

    /// Starts it again with another configuration.
    pub async fn start_with(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.start().await;
    }

    /// Another mirror on the same directory, which must not be.
    pub async fn second(&self) -> Result<App, Error> {
        App::start(self.config.clone(), Inherited::default()).await
    }
}
