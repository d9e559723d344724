//! The credential of one upstream, read from its source: a password file, a docker `config.json`, a credential helper.
//!
//! What must hold: forebay reads a source only when it needs the credential. It reads the source again after a minute,
//! or as soon as the upstream refuses the credential, so that a rotated password works without a restart. forebay does
//! not send a refused credential again for a while, unless it has changed ([`super::credential_trial`]).
//! [`super::realm`] decides which realm may see a credential.

use std::{io, path::Path, sync::Arc, time::Duration};

use moka::future::Cache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    super::{
        Config, CredentialSource,
        error::{Error, ErrorKind},
        failure_cause::FailureCause,
        setup_error::SetupError,
    },
    credential::Credential,
    credential_helper::{self, HELPER_TIMEOUT},
    credential_trial::{CredentialTrial, TrialTurn},
    docker_config::{self, DockerConfig, Entry},
    password_file,
};
use crate::oci::Repository;

/// How long a credential is used before it is read again.
const REREAD_AFTER: Duration = Duration::from_secs(60);
/// How often forebay reads a source that may run a program again while the upstream refuses its credential.
const HELPER_PAUSE: Duration = Duration::from_secs(10);

/// A credential that a request may send.
#[derive(Debug)]
pub(in crate::upstream) struct Loaded {
    /// `None`: the source has no credential for this upstream, so requests are anonymous.
    pub credential: Option<Arc<Credential>>,
    /// Whether it was read just now.
    pub is_fresh: bool,
    /// Held until the upstream has responded to the credential.
    pub turn: Option<TrialTurn>,
}

/// Reads and caches the credential of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct CredentialProvider {
    upstream: Arc<str>,
    source: CredentialSource,
    /// The keys under which a docker `config.json` may have an entry for this upstream.
    keys: Vec<String>,
    /// One entry: concurrent requests share one read, or one run of the helper.
    cached: Cache<(), Option<Arc<Credential>>>,
    trial: CredentialTrial,
    /// The credential that was read last.
    latest: Mutex<Option<Arc<Credential>>>,
    /// When forebay last read a source that may run a program again because of a refusal.
    reread_at: Mutex<Option<Instant>>,
}

impl CredentialProvider {
    pub(in crate::upstream) fn new(config: &Config) -> Result<Self, SetupError> {
        if let CredentialSource::Helper(helper) = &config.credential
            && !credential_helper::is_name(helper)
        {
            return Err(SetupError::Helper { upstream: config.name.clone(), helper: helper.clone() });
        }
        Ok(Self {
            upstream: config.name.clone(),
            source: config.credential.clone(),
            keys: docker_config::keys(config),
            cached: Cache::builder().max_capacity(1).time_to_live(REREAD_AFTER).build(),
            trial: CredentialTrial::new(),
            latest: Mutex::default(),
            reread_at: Mutex::default(),
        })
    }

    /// Whether no source is configured.
    pub(in crate::upstream) fn is_anonymous(&self) -> bool {
        self.source == CredentialSource::Anonymous
    }

    /// The credential to send in a request for this repository.
    ///
    /// # Errors
    /// `OurCredentials` if the upstream refused the credential not long ago. A file or helper that fails is an outage:
    /// the upstream has refused nothing.
    pub(in crate::upstream) async fn load(&self, repository: Option<&Repository>) -> Result<Loaded, Error> {
        if self.is_anonymous() {
            return Ok(Loaded { credential: None, is_fresh: true, turn: None });
        }
        let (credential, is_fresh) = self.current().await?;
        let Some(sent) = &credential else { return Ok(Loaded { credential, is_fresh, turn: None }) };
        self.check_pause(sent, repository).await?;
        let turn = self.trial.turn(sent).await;
        if matches!(turn, Ok(None)) {
            return Ok(Loaded { credential, is_fresh, turn: None });
        }
        // During the wait for the turn, the upstream may have refused the credential, and another one may have been
        // read.
        let (credential, is_fresh_now) = self.current().await?;
        if let Some(sent) = &credential {
            self.check_pause(sent, repository).await?;
        }
        let turn = turn.map_err(|kind| {
            let why = "another request has sent forebay's own credentials, and has no response yet";
            Error::new(kind, format!("upstream {}: {why}", self.upstream))
        })?;
        Ok(Loaded { credential, is_fresh: is_fresh || is_fresh_now, turn })
    }

    async fn check_pause(&self, credential: &Credential, repository: Option<&Repository>) -> Result<(), Error> {
        let Some(left) = self.trial.withheld(credential, repository) else { return Ok(()) };
        if self.may_reread() {
            self.invalidate().await;
        }
        let why = format!(
            "upstream {} refuses forebay's own credentials: they are sent again in {} s, or when they have changed",
            self.upstream,
            left.as_secs() + 1
        );
        Err(Error::new(ErrorKind::OurCredentials, why))
    }

    /// The user name that the configuration has.
    pub(in crate::upstream) fn configured_username(&self) -> Option<&str> {
        match &self.source {
            CredentialSource::Password { username, .. } => Some(username),
            CredentialSource::Anonymous | CredentialSource::Helper(_) | CredentialSource::DockerConfig(_) => None,
        }
    }

    /// The user name, if it is known without reading the source. It belongs to the last credential read: requests may
    /// use that credential for longer than it is cached.
    pub(in crate::upstream) fn username(&self) -> Option<String> {
        if let Some(username) = self.configured_username() {
            return Some(username.to_owned());
        }
        self.latest.lock().as_ref().map(|credential| credential.username().to_owned())
    }

    /// Where the credential is: a file, or the program that has it.
    pub(in crate::upstream) fn place(&self) -> Option<String> {
        match &self.source {
            CredentialSource::Anonymous => None,
            CredentialSource::Password { password_file: path, .. } | CredentialSource::DockerConfig(path) => {
                Some(path.display().to_string())
            }
            CredentialSource::Helper(name) => Some(format!("docker-credential-{name}")),
        }
    }

    /// Whether the source has a credential for this upstream.
    pub(in crate::upstream) async fn has_credential(&self) -> Result<bool, Error> {
        Ok(self.current().await?.0.is_some())
    }

    /// The credential of the source, and whether it was read just now.
    async fn current(&self) -> Result<(Option<Arc<Credential>>, bool), Error> {
        let entry = self.cached.entry(()).or_try_insert_with(self.read()).await;
        let entry = entry.map_err(|error| (*error).clone())?;
        let is_fresh = entry.is_fresh();
        Ok((entry.into_value(), is_fresh))
    }

    /// Whether forebay may read the source again now because of a refusal. It reads a password file each time, but runs
    /// a program less often.
    fn may_reread(&self) -> bool {
        if matches!(self.source, CredentialSource::Password { .. }) {
            return true;
        }
        let now = Instant::now();
        let mut reread_at = self.reread_at.lock();
        let may = reread_at.is_none_or(|at| now.duration_since(at) >= HELPER_PAUSE);
        if may {
            *reread_at = Some(now);
        }
        may
    }

    /// Notes that the upstream refused the credential; `at`: in a request for this repository, and no other response
    /// tells whether the credential is right. Returns whether that counts: not if another credential has been read
    /// since.
    pub(in crate::upstream) async fn note_refused(
        &self,
        credential: &Arc<Credential>,
        at: Option<&Repository>,
    ) -> bool {
        let is_latest = |latest: &Option<Arc<Credential>>| latest.as_ref().is_none_or(|latest| latest == credential);
        if !is_latest(&self.latest.lock()) {
            return false;
        }
        self.trial.note_refused(credential, at);
        if self.may_reread() {
            self.invalidate().await;
        }
        true
    }

    /// Whether the credential must not be sent for now.
    pub(in crate::upstream) fn is_withheld(&self, credential: &Credential) -> bool {
        self.trial.withheld(credential, None).is_some()
    }

    /// Whether the upstream accepted the credential when one was last sent.
    pub(in crate::upstream) fn is_accepted(&self, credential: &Credential) -> bool {
        self.trial.is_accepted(credential)
    }

    /// Notes that the upstream accepted the credential. Returns whether the upstream refused the previous one.
    pub(in crate::upstream) fn note_accepted(&self, credential: &Arc<Credential>) -> bool {
        self.trial.note_accepted(credential)
    }

    async fn invalidate(&self) {
        self.cached.invalidate(&()).await;
    }

    async fn read(&self) -> Result<Option<Arc<Credential>>, Error> {
        let credential = match &self.source {
            CredentialSource::Anonymous => None,
            CredentialSource::Password { username, password_file } => {
                let password = self.read_file("password file", password_file, password_file::read).await?;
                Some(Credential::Password { username: username.clone(), password })
            }
            CredentialSource::Helper(helper) => {
                self.run_helper(helper, docker_config::helper_key(&self.upstream)).await?
            }
            CredentialSource::DockerConfig(path) => {
                let config = self.read_file("docker config.json", path, DockerConfig::read).await?;
                match config.find(&self.keys) {
                    Entry::Missing => None,
                    Entry::Credential(credential) => Some(credential),
                    Entry::Helper { helper, key } => self.run_helper(helper, key).await?,
                }
            }
        };
        let credential = credential.map(Arc::new);
        self.latest.lock().clone_from(&credential);
        Ok(credential)
    }

    /// Reads a file off the threads that serve.
    async fn read_file<T: Send + 'static>(
        &self,
        what: &str,
        path: &Path,
        read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let owned = path.to_owned();
        let content = tokio::task::spawn_blocking(move || read(&owned)).await.unwrap_or_else(|end| Err(end.into()));
        content.map_err(|error| self.cannot(&format!("read the {what} {}", path.display()), error))
    }

    /// Checks the file that the credential comes from, if any. Blocks.
    pub(in crate::upstream) fn check(&self) -> Result<(), SetupError> {
        let (path, read) = match &self.source {
            CredentialSource::Anonymous | CredentialSource::Helper(_) => return Ok(()),
            CredentialSource::Password { password_file, .. } => {
                (password_file, password_file::read(password_file).map(drop))
            }
            CredentialSource::DockerConfig(path) => (path, DockerConfig::read(path).map(drop)),
        };
        read.map_err(|source| SetupError::Credentials { upstream: self.upstream.clone(), path: path.clone(), source })
    }

    async fn run_helper(&self, helper: &str, key: &str) -> Result<Option<Credential>, Error> {
        if !credential_helper::is_name(helper) {
            let why = format!("the docker config.json of upstream {} has an invalid helper name", self.upstream);
            return Err(Error::new(ErrorKind::Unavailable, why).with_cause(FailureCause::Credentials));
        }
        let program = format!("docker-credential-{helper}");
        let run = tokio::time::timeout(HELPER_TIMEOUT, credential_helper::run(&program, key));
        let output = match run.await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(self.cannot(&format!("run {program}"), error)),
            Err(elapsed) => return Err(self.cannot(&format!("wait for {program}"), elapsed)),
        };
        if output.is_not_found() {
            return Ok(None);
        }
        if !output.is_success() {
            // The output is not logged: it may contain a secret.
            let why = format!("upstream {}: {program} failed", self.upstream);
            return Err(Error::new(ErrorKind::Unavailable, why).with_cause(FailureCause::Credentials));
        }
        output.credential().map_err(|error| self.cannot(&format!("read the output of {program}"), error))
    }

    fn cannot(&self, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        let why = format!("upstream {}: cannot {what}", self.upstream);
        Error::new(ErrorKind::Unavailable, why).with_cause(FailureCause::Credentials).caused_by(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error_chain::ErrorChain, upstream::auth::credential::Secret};

    fn provider(credential: CredentialSource) -> CredentialProvider {
        let config = Config { credential, ..Config::at("a.io", &["https://a.io"]) };
        CredentialProvider::new(&config).unwrap()
    }

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { username: username.to_owned(), password: Secret::new(password.to_owned()) })
    }

    #[tokio::test]
    async fn a_password_file_is_read_again_after_a_refusal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "first").unwrap();
        let provider = provider(CredentialSource::Password { username: "me".into(), password_file: path.clone() });
        let read = async || {
            let loaded = provider.load(None).await.unwrap();
            (loaded.credential.as_deref().cloned(), loaded.is_fresh)
        };
        assert_eq!(read().await, (password("me", "first"), true));
        std::fs::write(&path, "second").unwrap();
        assert_eq!(read().await, (password("me", "first"), false));
        provider.invalidate().await;
        assert_eq!(read().await, (password("me", "second"), true));
    }

    #[tokio::test]
    async fn a_source_that_fails_is_an_outage_and_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let provider = provider(CredentialSource::DockerConfig(path.clone()));
        assert_eq!(provider.load(None).await.unwrap_err().kind, ErrorKind::Unavailable);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(provider.load(None).await.unwrap_err().kind, ErrorKind::Unavailable);
        std::fs::write(&path, r#"{"auths":{"a.io":{"auth":"bWU6cHc="}}}"#).unwrap();
        assert_eq!(provider.load(None).await.unwrap().credential.as_deref().cloned(), password("me", "pw"));
        // The name stays hidden from clients as long as a token of this user may be in use.
        provider.invalidate().await;
        assert_eq!(provider.username().as_deref(), Some("me"));
    }

    #[tokio::test]
    async fn a_bad_password_file_is_named_at_the_start_and_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.password");
        std::fs::write(&path, "").unwrap();
        let provider = provider(CredentialSource::Password { username: "me".into(), password_file: path.clone() });
        let checked = provider.check().map_err(|error| ErrorChain(&error).to_string());
        let loaded = provider.load(None).await.map_err(|error| ErrorChain(&error).to_string());
        for told in [checked.unwrap_err(), loaded.unwrap_err()] {
            assert!(told.contains("empty") && told.contains("hub.password"), "{told}");
        }
    }

    #[test]
    fn an_invalid_helper_name_is_refused_at_the_start() {
        let config = Config { credential: CredentialSource::Helper("../evil".into()), ..Config::at("a.io", &[]) };
        assert!(CredentialProvider::new(&config).is_err());
    }
}
