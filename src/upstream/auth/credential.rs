//! Where an upstream's credentials come from: a password file, a docker `config.json`, a helper.
//!
//! What must hold: no secret is ever printed; a helper is bounded in time and output. Nothing is
//! read before it is needed, and what was read is forgotten after a minute or as soon as it is
//! refused, so that a rotated password works without a restart. What was refused is not shown again for a while,
//! unless it differs ([`super::credential_trial`]). Who may see a credential is not decided here.

use std::{collections::HashMap, fmt, io, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use moka::future::Cache;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use super::{
    super::{
        Config, CredentialSource,
        error::{Error, ErrorKind, SetupError},
    },
    credential_helper::{self, HELPER_TIMEOUT},
    credential_trial::{CredentialTrial, TrialTurn},
};
use crate::{oci::Repository, small_file};

/// How long what was read is used without reading it again.
const REREAD_AFTER: Duration = Duration::from_secs(60);
/// How often a source that may run a program is asked while what it gave is refused.
const HELPER_PAUSE: Duration = Duration::from_secs(10);
/// The longest docker `config.json`, in bytes.
const MAX_DOCKER_CONFIG: u64 = 1024 * 1024;
/// The longest password file, in bytes.
const MAX_PASSWORD_FILE: u64 = 64 * 1024;
/// Of UTF-8 and of both kinds of UTF-16.
const BYTE_ORDER_MARKS: [&[u8]; 3] = [&[0xef, 0xbb, 0xbf], &[0xff, 0xfe], &[0xfe, 0xff]];
/// The key that `docker login` files Docker Hub under.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// What a helper says, with a failure, when it merely has nothing; docker's own helpers agree on it.
const HELPER_HAS_NONE: &str = "credentials not found";

/// Text that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::upstream) struct Secret(String);

impl Secret {
    pub(in crate::upstream) fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The text itself; to be called only where it goes on the wire.
    pub(in crate::upstream) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// What proves to the upstream who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Credential {
    Password {
        username: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, as some registries give out at `docker login`.
    IdentityToken {
        username: String,
        token: Secret,
    },
}

/// A credential, and whether it was read just now or is remembered from before.
#[derive(Debug)]
pub(in crate::upstream) struct Loaded {
    /// `None`: the source has no credential for this upstream, who is asked anonymously.
    pub credential: Option<Arc<Credential>>,
    pub fresh: bool,
    /// To be held until the upstream has answered to the credential.
    pub turn: Option<TrialTurn>,
}

/// The credentials of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Credentials {
    upstream: Arc<str>,
    source: CredentialSource,
    /// Names under which a docker `config.json` may file this upstream.
    keys: Vec<String>,
    /// One entry: concurrent askers share one read, or one run of the helper.
    remembered: Cache<(), Option<Arc<Credential>>>,
    trial: CredentialTrial,
    /// What was read last.
    latest: Mutex<Option<Arc<Credential>>>,
    /// When a source that may run a program was last asked again for what is refused.
    asked_again: Mutex<Option<Instant>>,
}

impl Credentials {
    pub(in crate::upstream) fn new(config: &Config) -> Result<Self, SetupError> {
        if let CredentialSource::Helper(helper) = &config.credential
            && !is_helper_name(helper)
        {
            return Err(SetupError::Helper { upstream: config.name.clone(), helper: helper.clone() });
        }
        Ok(Self {
            upstream: config.name.clone(),
            source: config.credential.clone(),
            keys: keys(config),
            remembered: Cache::builder().max_capacity(1).time_to_live(REREAD_AFTER).build(),
            trial: CredentialTrial::new(),
            latest: Mutex::default(),
            asked_again: Mutex::default(),
        })
    }

    /// Whether there is nothing configured.
    pub(in crate::upstream) fn is_anonymous(&self) -> bool {
        self.source == CredentialSource::Anonymous
    }

    /// The credential to show in a request for this repository, read if it is not remembered.
    ///
    /// A file or helper that fails is an outage: the upstream was not asked, so it refused nobody.
    ///
    /// # Errors
    /// `OurCredentials` when it was refused not long ago.
    pub(in crate::upstream) async fn load(&self, repository: Option<&Repository>) -> Result<Loaded, Error> {
        if self.is_anonymous() {
            return Ok(Loaded { credential: None, fresh: true, turn: None });
        }
        let (credential, fresh) = self.current().await?;
        let Some(shown) = &credential else { return Ok(Loaded { credential, fresh, turn: None }) };
        self.check_pause(shown, repository).await?;
        let turn = self.trial.turn(shown).await;
        if matches!(turn, Ok(None)) {
            return Ok(Loaded { credential, fresh, turn: None });
        }
        // While this one waited, it may have been refused, and another one read.
        let (credential, again) = self.current().await?;
        if let Some(shown) = &credential {
            self.check_pause(shown, repository).await?;
        }
        let turn = turn.map_err(|kind| {
            let why = "another request shows forebay's own credentials, and has no answer yet";
            Error::new(kind, format!("upstream {}: {why}", self.upstream))
        })?;
        Ok(Loaded { credential, fresh: fresh || again, turn })
    }

    async fn check_pause(&self, shown: &Credential, repository: Option<&Repository>) -> Result<(), Error> {
        let Some(left) = self.trial.withheld(shown, repository) else { return Ok(()) };
        if self.may_ask_again() {
            self.forget().await;
        }
        let why = format!(
            "upstream {} refuses forebay's own credentials: they are shown again in {} s, or when they have changed",
            self.upstream,
            left.as_secs() + 1
        );
        Err(Error::new(ErrorKind::OurCredentials, why))
    }

    /// The user name in it, as far as that is known without reading it: that of what was read last, which may be in use for longer
    /// than it is remembered.
    pub(in crate::upstream) fn account(&self) -> Option<String> {
        if let CredentialSource::Password { username, .. } = &self.source {
            return Some(username.clone());
        }
        let latest = self.latest.lock().clone();
        match &*latest? {
            Credential::Password { username, .. } | Credential::IdentityToken { username, .. } => {
                Some(username.clone())
            }
        }
    }

    /// Whether the source has a credential for this upstream.
    pub(in crate::upstream) async fn has_one(&self) -> Result<bool, Error> {
        Ok(self.current().await?.0.is_some())
    }

    /// What the source has, and whether it was read just now.
    async fn current(&self) -> Result<(Option<Arc<Credential>>, bool), Error> {
        let entry = self.remembered.entry(()).or_try_insert_with(self.read()).await;
        let entry = entry.map_err(|error| (*error).clone())?;
        let fresh = entry.is_fresh();
        Ok((entry.into_value(), fresh))
    }

    /// Whether the source is asked again before the minute is over. A file is, each time; what may run a program is not.
    fn may_ask_again(&self) -> bool {
        if matches!(self.source, CredentialSource::Password { .. }) {
            return true;
        }
        let now = Instant::now();
        let mut asked = self.asked_again.lock();
        let may = asked.is_none_or(|asked| now.duration_since(asked) >= HELPER_PAUSE);
        if may {
            *asked = Some(now);
        }
        may
    }

    /// It was refused; `at`: by nothing but this repository. What is remembered is read again next time. Whether that is news; `None`
    /// where another one was read since.
    pub(in crate::upstream) async fn refused(
        &self,
        credential: &Arc<Credential>,
        at: Option<&Repository>,
    ) -> Option<bool> {
        let is_latest = |latest: &Option<Arc<Credential>>| latest.as_ref().is_none_or(|latest| latest == credential);
        if !is_latest(&self.latest.lock()) {
            return None;
        }
        let is_news = self.trial.refused(credential, at);
        if self.may_ask_again() {
            self.forget().await;
        }
        Some(is_news)
    }

    /// Whether it is not to be shown for now.
    pub(in crate::upstream) fn is_withheld(&self, credential: &Credential) -> bool {
        self.trial.withheld(credential, None).is_some()
    }

    /// Whether this one was taken when one was last shown.
    pub(in crate::upstream) fn is_taken(&self, credential: &Credential) -> bool {
        self.trial.is_taken(credential)
    }

    /// What was shown was taken. Whether the one before was refused.
    pub(in crate::upstream) fn taken(&self, credential: &Arc<Credential>) -> bool {
        self.trial.taken(credential)
    }

    async fn forget(&self) {
        self.remembered.invalidate(&()).await;
    }

    async fn read(&self) -> Result<Option<Arc<Credential>>, Error> {
        let credential = match &self.source {
            CredentialSource::Anonymous => None,
            CredentialSource::Password { username, password_file } => {
                let password = self.off_thread("password file", password_file, read_password).await?;
                Some(Credential::Password { username: username.clone(), password })
            }
            CredentialSource::Helper(helper) => self.ask_helper(helper, helper_key(&self.upstream)).await?,
            CredentialSource::DockerConfig(path) => {
                let read = |path: &Path| small_file::read_text(path, MAX_DOCKER_CONFIG);
                let text = self.off_thread("docker config.json", path, read).await?;
                self.look_up(&text).await?
            }
        };
        let credential = credential.map(Arc::new);
        self.latest.lock().clone_from(&credential);
        Ok(credential)
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        what: &str,
        path: &Path,
        read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let owned = path.to_owned();
        let content = tokio::task::spawn_blocking(move || read(&owned)).await.unwrap_or_else(|end| Err(end.into()));
        content.map_err(|error| self.cannot(&format!("read the {what} {}", path.display()), error))
    }

    /// Looks at the file that the credentials come from, if any. Blocks on it.
    pub(in crate::upstream) fn check(&self) -> Result<(), SetupError> {
        let (path, read) = match &self.source {
            CredentialSource::Anonymous | CredentialSource::Helper(_) => return Ok(()),
            CredentialSource::Password { password_file, .. } => (password_file, read_password(password_file).map(drop)),
            CredentialSource::DockerConfig(path) => {
                let parsed = small_file::read_text(path, MAX_DOCKER_CONFIG)
                    .and_then(|text| parse_docker_config(&text).map(drop).map_err(io::Error::from));
                (path, parsed)
            }
        };
        read.map_err(|source| SetupError::Credentials { upstream: self.upstream.clone(), path: path.clone(), source })
    }

    async fn look_up(&self, text: &str) -> Result<Option<Credential>, Error> {
        let config = parse_docker_config(text).map_err(|error| self.cannot("parse the docker config.json", error))?;
        // The order of docker itself: a helper of this registry, the default store, the file.
        if let Some((key, helper)) = self.keys.iter().find_map(|key| config.cred_helpers.get_key_value(key))
            && let Some(helper) = helper.as_deref().filter(|helper| !helper.is_empty())
        {
            return self.ask_helper(helper, key).await;
        }
        let auth = self.keys.iter().find_map(|key| {
            let exact = config.auths.get(key);
            exact.or_else(|| config.auths.iter().find(|(name, _)| filed_host(name) == key).map(|(_, auth)| auth))
        });
        if let Some(credential) = auth.and_then(|auth| auth.as_ref()?.credential()) {
            return Ok(Some(credential));
        }
        if config.creds_store.is_empty() {
            return Ok(None);
        }
        self.ask_helper(&config.creds_store, helper_key(&self.upstream)).await
    }

    /// Runs `docker-credential-<helper> get`, as docker does.
    ///
    /// Source: github.com/docker/docker-credential-helpers, "Development".
    async fn ask_helper(&self, helper: &str, key: &str) -> Result<Option<Credential>, Error> {
        if !is_helper_name(helper) {
            let why = format!("the docker config.json of upstream {} names a credential helper badly", self.upstream);
            return Err(Error::new(ErrorKind::Unavailable, why));
        }
        let program = format!("docker-credential-{helper}");
        let run = tokio::time::timeout(HELPER_TIMEOUT, credential_helper::run(&program, key));
        let (success, output) = match run.await {
            Ok(Ok(ran)) => ran,
            Ok(Err(error)) => return Err(self.cannot(&format!("run {program}"), error)),
            Err(elapsed) => return Err(self.cannot(&format!("wait for {program}"), elapsed)),
        };
        if !success {
            // The output of a failed helper is not logged: it may hold what it should not.
            if String::from_utf8_lossy(&output).contains(HELPER_HAS_NONE) {
                return Ok(None);
            }
            return Err(Error::new(ErrorKind::Unavailable, format!("upstream {}: {program} failed", self.upstream)));
        }
        let answer: HelperAnswer = serde_json::from_slice(&output)
            .map_err(|error| self.cannot(&format!("read the answer of {program}"), error))?;
        Ok(answer.credential())
    }

    fn cannot(&self, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::new(ErrorKind::Unavailable, format!("upstream {}: cannot {what}", self.upstream)).caused_by(source)
    }
}

/// The relevant part of a docker `config.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct DockerConfig {
    #[serde(deserialize_with = "or_absent")]
    auths: HashMap<String, Option<Auth>>,
    #[serde(deserialize_with = "or_absent")]
    creds_store: String,
    #[serde(deserialize_with = "or_absent")]
    cred_helpers: HashMap<String, Option<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    /// base64 of `username:password`.
    #[serde(deserialize_with = "or_absent")]
    auth: String,
    #[serde(deserialize_with = "or_absent")]
    username: String,
    #[serde(deserialize_with = "or_absent")]
    password: String,
    #[serde(deserialize_with = "or_absent")]
    identitytoken: String,
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(&self.auth).unwrap_or_default();
        let pair = String::from_utf8(decoded).unwrap_or_default();
        let (username, password) = pair.split_once(':').unwrap_or((&self.username, &self.password));
        // Some versions of docker padded the password with NUL.
        let password = password.trim_end_matches('\0');
        if !self.identitytoken.is_empty() {
            let token = Secret::new(self.identitytoken.clone());
            return Some(Credential::IdentityToken { username: username.to_owned(), token });
        }
        (!username.is_empty())
            .then(|| Credential::Password { username: username.to_owned(), password: Secret::new(password.to_owned()) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(deserialize_with = "or_absent")]
    username: String,
    #[serde(deserialize_with = "or_absent")]
    secret: String,
}

impl HelperAnswer {
    fn credential(self) -> Option<Credential> {
        let secret = Secret::new(self.secret);
        match self.username.as_str() {
            "<token>" => Some(Credential::IdentityToken { username: String::new(), token: secret }),
            // An empty answer is how some helpers say that they have nothing.
            "" => None,
            _ => Some(Credential::Password { username: self.username, password: secret }),
        }
    }
}

/// The password in a file, without the line end behind it.
fn read_password(path: &Path) -> io::Result<Secret> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let content = small_file::read(path, MAX_PASSWORD_FILE)?;
    if BYTE_ORDER_MARKS.iter().any(|mark| content.starts_with(mark)) {
        return Err(invalid("it begins with a byte order mark: write it as UTF-8 without one"));
    }
    let text = String::from_utf8(content).map_err(|_| invalid("it is not UTF-8 text"))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(invalid("it is empty"));
    }
    Ok(Secret::new(password.to_owned()))
}

fn parse_docker_config(text: &str) -> serde_json::Result<DockerConfig> {
    serde_json::from_str(text)
}

/// What is `null` is absent.
fn or_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// A helper's name becomes a program's: it must not become a path.
fn is_helper_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// What a helper is asked for: the upstream's name, and for Docker Hub docker's own name of it.
fn helper_key(upstream: &str) -> &str {
    if upstream == "docker.io" { DOCKER_HUB_KEY } else { upstream }
}

fn keys(config: &Config) -> Vec<String> {
    let mut keys = vec![helper_key(&config.name).to_owned(), config.name.to_string()];
    keys.extend(config.aliases.iter().map(ToString::to_string));
    keys.extend(config.urls.iter().filter_map(|url| match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => Some(format!("{host}:{port}")),
        (Some(host), None) => Some(host.to_owned()),
        (None, _) => None,
    }));
    keys
}

/// The host of a key in `auths`, which may be a URL of the first registry API.
fn filed_host(key: &str) -> &str {
    let Some(rest) = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) else {
        // A path without a scheme is podman's: credentials of a part of a registry, not of all of it.
        return key.trim_end_matches('/');
    };
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, urls: &[&str], credential: CredentialSource) -> Config {
        Config { credential, ..Config::at(name, urls) }
    }

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { username: username.to_owned(), password: Secret::new(password.to_owned()) })
    }

    async fn looked_up(name: &str, url: &str, json: &str) -> Option<Credential> {
        let credentials = Credentials::new(&config(name, &[url], CredentialSource::Anonymous)).unwrap();
        credentials.look_up(json).await.unwrap()
    }

    #[tokio::test]
    async fn docker_config_files() {
        // "me:se:cret" in base64, with and without padding.
        for (name, url, json, expected) in [
            (
                "ghcr.io",
                "https://ghcr.io",
                r#"{"auths":{"ghcr.io":{"auth":"bWU6c2U6Y3JldA=="}}}"#,
                password("me", "se:cret"),
            ),
            (
                "ghcr.io",
                "https://ghcr.io",
                r#"{"auths":{"ghcr.io":{"auth":"bWU6c2U6Y3JldA"}}}"#,
                password("me", "se:cret"),
            ),
            (
                "ghcr.io",
                "https://ghcr.io",
                r#"{"auths":{"https://ghcr.io/v2/":{"auth":"bWU6cHc="}}}"#,
                password("me", "pw"),
            ),
            (
                "h",
                "https://harbor.lan:8443",
                r#"{"auths":{"harbor.lan:8443":{"auth":"bWU6cHc="}}}"#,
                password("me", "pw"),
            ),
            // "me:pw", padded with NUL.
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{"auth":"bWU6cHcAAAA="}}}"#, password("me", "pw")),
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{"username":"me","password":"pw!"}}}"#, password("me", "pw!")),
            ("h", "https://harbor.lan:8443", r#"{"auths":{"harbor.lan":{"auth":"bWU6cHc="}}}"#, None),
            ("quay.io", "https://quay.io", r#"{"auths":{"quay.io/team":{"auth":"bWU6cHc="}}}"#, None),
            ("ccr.io", "https://ccr.io", r#"{"auths":{"hkccr.io":{"auth":"bWU6cHc="}}}"#, None),
            (
                "docker.io",
                "https://registry-1.docker.io",
                r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cHc="}},"HttpHeaders":{"a":"b"}}"#,
                password("me", "pw"),
            ),
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{"username":"me","password":"pw"}}}"#, password("me", "pw")),
            (
                "a.azurecr.io",
                "https://a.azurecr.io",
                r#"{"auths":{"a.azurecr.io":{"auth":"MDAwMDo=","identitytoken":"long"}}}"#,
                Some(Credential::IdentityToken { username: "0000".into(), token: Secret::new("long".into()) }),
            ),
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{}}}"#, None),
            ("a.io", "https://a.io", "{}", None),
        ] {
            assert_eq!(looked_up(name, url, json).await, expected, "{json}");
        }
    }

    #[tokio::test]
    async fn a_password_file_is_read_again_when_it_was_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "first word \r\n").unwrap();
        let source = CredentialSource::Password { username: "me".into(), password_file: path.clone() };
        let credentials = Credentials::new(&config("a.io", &["https://a.io"], source)).unwrap();
        let read = async || {
            let loaded = credentials.load(None).await.unwrap();
            (loaded.credential.as_deref().cloned(), loaded.fresh)
        };
        assert_eq!(read().await, (password("me", "first word "), true));
        std::fs::write(&path, "second").unwrap();
        assert_eq!(read().await, (password("me", "first word "), false));
        credentials.forget().await;
        assert_eq!(read().await, (password("me", "second"), true));
    }

    #[tokio::test]
    async fn a_source_that_fails_is_an_outage_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let source = CredentialSource::DockerConfig(path.clone());
        let credentials = Credentials::new(&config("a.io", &["https://a.io"], source)).unwrap();
        assert_eq!(credentials.load(None).await.unwrap_err().kind, ErrorKind::Unavailable);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(credentials.load(None).await.unwrap_err().kind, ErrorKind::Unavailable);
        std::fs::write(&path, r#"{"auths":{"a.io":{"auth":"bWU6cHc="}}}"#).unwrap();
        assert_eq!(credentials.load(None).await.unwrap().credential.as_deref().cloned(), password("me", "pw"));
        // The name is kept out of what clients are told for as long as a token of it may be in use.
        credentials.forget().await;
        assert_eq!(credentials.account().as_deref(), Some("me"));
    }

    #[tokio::test]
    async fn null_in_a_docker_config_is_absent() {
        let pair = r#"{"auth":"bWU6cHc=","username":null,"password":null,"identitytoken":null}"#;
        for (json, expected) in [
            (r#"{"auths":null,"credsStore":null,"credHelpers":null}"#.to_owned(), None),
            (r#"{"auths":{"a.io":null}}"#.to_owned(), None),
            (r#"{"auths":{"a.io":{"auth":null,"username":"me","password":"pw"}}}"#.to_owned(), password("me", "pw")),
            (format!(r#"{{"auths":{{"a.io":{pair},"b.io":null}},"credsStore":null}}"#), password("me", "pw")),
            (format!(r#"{{"auths":{{"a.io":{pair}}},"credHelpers":{{"a.io":null}}}}"#), password("me", "pw")),
        ] {
            assert_eq!(looked_up("a.io", "https://a.io", &json).await, expected, "{json}");
        }
        for answer in [r#"{"Username":null,"Secret":null}"#, r#"{"Username":"","Secret":""}"#] {
            assert!(serde_json::from_str::<HelperAnswer>(answer).unwrap().credential().is_none(), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_file_that_holds_no_password_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.password");
        let source = CredentialSource::Password { username: "me".to_owned(), password_file: path.clone() };
        let credentials = Credentials::new(&config("a.io", &["https://a.io"], source)).unwrap();
        let longest = vec![b'p'; 64 * 1024];
        for (content, why) in [
            (&b""[..], Some("empty")),
            (b"\r\n\n", Some("empty")),
            (b"\xef\xbb\xbfpw", Some("byte order mark")),
            (b"\xff\xfep\0w\0", Some("byte order mark")),
            (b"\xfe\xff\0p\0w", Some("byte order mark")),
            (b"p\xffw", Some("not UTF-8")),
            (&[&*longest, b"p"].concat(), Some("longer than 65536 bytes")),
            (&longest, None),
            (b"pw\n", None),
        ] {
            std::fs::write(&path, content).unwrap();
            credentials.forget().await;
            let checked = credentials.check().map_err(|error| crate::error_chain::ErrorChain(&error).to_string());
            let loaded =
                credentials.load(None).await.map_err(|error| crate::error_chain::ErrorChain(&error).to_string());
            match why {
                None => assert!(checked.is_ok() && loaded.is_ok(), "{checked:?} {loaded:?}"),
                Some(why) => {
                    for said in [checked.unwrap_err(), loaded.unwrap_err()] {
                        assert!(said.contains(why) && said.contains("hub.password"), "{said}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_helpers_name_is_no_path() {
        for helper in ["../evil", "/bin/sh", "", "a b", "a;b"] {
            let source = CredentialSource::Helper(helper.into());
            assert!(Credentials::new(&config("a.io", &["https://a.io"], source)).is_err(), "{helper}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let credential = password("me", "hunter2").unwrap();
        assert_eq!(format!("{credential:?}"), r#"Password { username: "me", password: [REDACTED] }"#);
    }
}
