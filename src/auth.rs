//! Who asks, and whether they may.
//!
//! What must hold: where there are users, credentials that were sent and are wrong are refused, even where none are needed
//! (or `docker login` would succeed with any password); where there are none, credentials are ignored, since clients show
//! what an old login file, or a header in their configuration, has for this host; a wrong name costs the asker as much time as a wrong password; checking a
//! password (tens of milliseconds of CPU) happens off the async threads, few at once with a bounded queue before
//! it, and once per pull rather than once per request. How a refusal looks on the wire is left to the caller.

pub mod config;
mod failed_logins;
mod grants;
mod htpasswd;
pub(crate) mod htpasswd_reload;
mod password_attempts;
mod password_cache;
mod verification_queue;

use std::{
    net::IpAddr,
    sync::{Arc, Once},
    time::Duration,
};

use parking_lot::Mutex;

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

pub use self::{
    config::{ANY_CERTIFICATE, Anonymous, Config, PushUsers},
    grants::{Grant, Grants, Resource},
    htpasswd::Error,
    htpasswd_reload::watch,
    password_attempts::{AttemptFrom, PasswordAttempts},
};
use self::{
    htpasswd::Users, htpasswd_reload::ReloadCheck, password_cache::PasswordCache, verification_queue::VerificationQueue,
};
use crate::peer::TrustedNetworks;

/// The longest user name and password that an upstream is shown, in bytes; some passwords are whole key files.
const MAX_USER: usize = 256;
const MAX_PASSWORD: usize = 16 * 1024;

/// Somebody who may pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Anonymous,
    /// Named in the htpasswd file.
    User(Arc<str>),
    /// Named by themselves, at an upstream that decides by what they showed.
    Client(Arc<str>),
    /// Showed a certificate signed by the client CA.
    Certificate,
}

/// Why a client may not pull. The answer is 401, and asks for [`Refusal::CHALLENGE`]; when forebay is busy, or too many
/// passwords were wrong, it is 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("credentials are needed")]
    Missing,
    #[error("the credentials are not Basic ones")]
    Malformed,
    #[error("the user name or the password is wrong")]
    Wrong,
    /// Nothing is known about the credentials yet.
    #[error("too many passwords are being verified")]
    Busy,
    /// Nor will it be before this time is over.
    #[error("too many wrong passwords")]
    TooMany(Duration),
}

impl Refusal {
    /// The `WWW-Authenticate` that goes with it, RFC 7617 section 2.
    pub const CHALLENGE: &'static str = "Basic realm=\"forebay\"";
}

/// A cheap handle on the access rules of now.
#[derive(Clone)]
pub struct AccessControl(Arc<AccessControlInner>);

struct AccessControlInner {
    rules: ArcSwap<Rules>,
    turns: VerificationQueue,
    /// That credentials are ignored is told once.
    ignored: Once,
}

/// What one reading of the configuration and of the htpasswd file says.
struct Rules {
    config: Config,
    users: Option<Users>,
    /// Ends with the rules: a user who was removed is not remembered. Small and synchronous, never held over a wait.
    verified: Mutex<PasswordCache>,
}

impl AccessControl {
    /// # Errors
    /// When the htpasswd file cannot be read or has a line that is not understood.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let rules = ArcSwap::from_pointee(Rules::load(config)?);
        Ok(AccessControl::with(rules, TrustedNetworks::default()))
    }

    /// The same rules, where these networks are held to no share of the turns to have a password verified.
    #[must_use]
    pub fn trusting(self, trusted: TrustedNetworks) -> AccessControl {
        AccessControl::with(ArcSwap::from(self.0.rules.load_full()), trusted)
    }

    fn with(rules: ArcSwap<Rules>, trusted: TrustedNetworks) -> AccessControl {
        AccessControl(Arc::new(AccessControlInner {
            rules,
            turns: VerificationQueue::new(trusted),
            ignored: Once::new(),
        }))
    }

    /// Reads the htpasswd file again. Blocks on it.
    ///
    /// # Errors
    /// As [`AccessControl::load`]; the old rules are kept.
    pub fn reload(&self) -> Result<(), Error> {
        let config = self.0.rules.load().config.clone();
        self.replace(&config)
    }

    /// Takes the htpasswd file over when it is as it was at the look `before` and is not what is in force.
    fn look(&self, before: Option<[u8; 32]>) -> Result<ReloadCheck, Error> {
        let current = self.0.rules.load_full();
        let (Some(file), Some(users)) = (&current.config.htpasswd, &current.users) else {
            return Ok(ReloadCheck::Unchanged);
        };
        let rules = Rules::load(&current.config)?;
        match rules.users.as_ref().map(Users::fingerprint) {
            Some(now) if now == users.fingerprint() => Ok(ReloadCheck::Unchanged),
            Some(now) if before != Some(now) => Ok(ReloadCheck::Changing(now)),
            _ => {
                self.0.rules.store(Arc::new(rules));
                Ok(ReloadCheck::Changed(file.clone()))
            }
        }
    }

    /// Takes another configuration, and reads its htpasswd file.
    ///
    /// # Errors
    /// As [`AccessControl::load`]; the old rules are kept.
    pub fn replace(&self, config: &Config) -> Result<(), Error> {
        self.0.rules.store(Arc::new(Rules::load(config)?));
        Ok(())
    }

    /// Says who the client at `peer` is. `authorization` is the header as it came, which says nothing where there are no
    /// users; `client_certificate` whether the client showed one that the client CA signed.
    ///
    /// # Errors
    /// When the client may not pull.
    pub async fn check(
        &self,
        tries: &PasswordAttempts,
        peer: IpAddr,
        authorization: Option<&HeaderValue>,
        client_certificate: bool,
    ) -> Result<Identity, Refusal> {
        let Some(header) = authorization else { return self.check_without(client_certificate) };
        let rules = self.0.rules.load_full();
        if rules.users.is_none() {
            self.0.ignored.call_once(|| {
                tracing::info!(client = %peer, "a client shows credentials: they are ignored, since there is no access.htpasswd; this is told once");
            });
            return self.check_without(client_certificate);
        }
        let credentials = Credentials::parse(header).ok_or(Refusal::Malformed)?;
        self.verify(rules, credentials, tries, peer).await.map(Identity::User)
    }

    /// The same for a client that sent no credentials, which needs no waiting.
    ///
    /// # Errors
    /// When the client may not pull.
    pub fn check_without(&self, client_certificate: bool) -> Result<Identity, Refusal> {
        match self.0.rules.load().config.anonymous {
            _ if client_certificate => Ok(Identity::Certificate),
            Anonymous::Pull => Ok(Identity::Anonymous),
            Anonymous::None => Err(Refusal::Missing),
        }
    }

    /// Whether passwords are taken on a connection: not in clear, unless it does not leave this machine or the operator
    /// wants it so.
    pub fn takes_passwords(&self, tls: bool, peer: IpAddr) -> bool {
        tls || peer.to_canonical().is_loopback() || self.0.rules.load().config.allow_clear_login
    }

    /// Whether somebody may come who says nothing of themselves.
    pub fn is_open(&self) -> bool {
        self.0.rules.load().config.anonymous == Anonymous::Pull
    }

    /// Who alone may push, where that is configured.
    pub fn push_users(&self) -> Option<PushUsers> {
        self.0.rules.load().config.push_users.clone()
    }

    /// Whether there is anybody who could say who they are by a password.
    pub fn has_users(&self) -> bool {
        self.0.rules.load().users.is_some()
    }

    async fn verify(
        &self,
        rules: Arc<Rules>,
        credentials: Credentials,
        tries: &PasswordAttempts,
        peer: IpAddr,
    ) -> Result<Arc<str>, Refusal> {
        if let Some(user) = rules.remembered(&credentials) {
            return Ok(user);
        }
        // Before the queue, so that no address fills it with guesses.
        let is_known = || rules.remembered(&credentials).is_some();
        let tried = tries.begin(peer, "access.htpasswd", &credentials.user, is_known).await?;
        let turn = self.0.turns.wait(peer).await.ok_or(Refusal::Busy)?;
        // Another request of the same pull may have been before us in the queue.
        if let Some(user) = rules.remembered(&credentials) {
            return Ok(user);
        }
        let verification = tokio::task::spawn_blocking(move || {
            let user = rules.users.as_ref()?.verify(&credentials.user, &credentials.password);
            if let Some(user) = &user {
                rules.remember(&credentials, user.clone());
            }
            // Held until here, by the work and not by who asked for it: a client that leaves frees no core.
            drop(turn);
            tried.end(user.is_none());
            user
        });
        verification.await.ok().flatten().ok_or(Refusal::Wrong)
    }
}

/// Finds users who are named as those who may push and are not in the htpasswd file. They may not push, so this keeps
/// nothing from running. Blocks on the file.
///
/// # Errors
/// There is one, or the file cannot be read.
pub fn check_push_users(config: &Config) -> Result<(), Error> {
    let (Some(path), Some(push_users)) = (&config.htpasswd, &config.push_users) else { return Ok(()) };
    let users = Users::load(path)?;
    match push_users.users.iter().find(|user| !users.contains(user)) {
        Some(user) => Err(Error::UnknownPushUser { user: user.clone(), path: path.clone() }),
        None => Ok(()),
    }
}

impl Rules {
    fn load(config: &Config) -> Result<Rules, Error> {
        let users = config.htpasswd.as_deref().map(Users::load).transpose()?;
        Ok(Rules { config: config.clone(), users, verified: Mutex::new(PasswordCache::new()) })
    }

    fn remembered(&self, credentials: &Credentials) -> Option<Arc<str>> {
        let mut verified = self.verified.lock();
        verified.get(&credentials.user, &credentials.password)
    }

    fn remember(&self, credentials: &Credentials, user: Arc<str>) {
        let mut verified = self.verified.lock();
        verified.insert(&credentials.password, user);
    }
}

/// The user name and the password of Basic credentials, for an upstream to judge; `None` when they are no text, or too
/// long for anybody's.
pub fn basic(authorization: &HeaderValue) -> Option<(String, String)> {
    let Credentials { user, password } = Credentials::parse(authorization)?;
    let password = String::from_utf8(password).ok()?;
    (user.len() <= MAX_USER && password.len() <= MAX_PASSWORD).then_some((user, password))
}

/// What a client sent. It has no `Debug`, so that it is never logged.
struct Credentials {
    user: String,
    password: Vec<u8>,
}

impl Credentials {
    /// RFC 7617 section 2: `Basic`, in any case, and base64 of `user:password`.
    fn parse(header: &HeaderValue) -> Option<Credentials> {
        let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(rest.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
        Some(Credentials { user, password: decoded[colon + 1..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_over_tls_or_stay_on_the_machine_unless_the_operator_says_so() {
        for (tls, peer, allowed, takes) in [
            (true, "192.0.2.1", false, true),
            (false, "192.0.2.1", false, false),
            (false, "192.0.2.1", true, true),
            (false, "127.0.0.1", false, true),
            (false, "127.5.5.5", false, true),
            (false, "::1", false, true),
            (false, "::ffff:127.0.0.1", false, true),
            (false, "::ffff:192.0.2.1", false, false),
            (false, "fe80::1", false, false),
            (false, "0.0.0.0", false, false),
        ] {
            let config =
                Config { anonymous: Anonymous::Pull, htpasswd: None, push_users: None, allow_clear_login: allowed };
            let access = AccessControl::load(&config).unwrap();
            assert_eq!(access.takes_passwords(tls, peer.parse().unwrap()), takes, "{tls} {peer} {allowed}");
        }
    }

    fn with_file(path: &std::path::Path, users: &[&str]) -> Config {
        let push_users = users.iter().map(|user| Arc::from(*user)).collect();
        Config {
            anonymous: Anonymous::Pull,
            htpasswd: Some(path.to_owned()),
            push_users: Some(PushUsers { users: push_users, certificates: false }),
            allow_clear_login: false,
        }
    }

    #[test]
    fn a_user_who_may_push_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        std::fs::write(&path, format!("ann:{}\n", bcrypt::hash("pw", 4).unwrap())).unwrap();
        assert!(check_push_users(&with_file(&path, &["ann"])).is_ok());
        let unknown = check_push_users(&with_file(&path, &["ann", "bob"]));
        assert!(matches!(unknown, Err(Error::UnknownPushUser { user, .. }) if &*user == "bob"));
    }

    #[test]
    fn a_file_is_taken_over_once_it_is_the_same_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        let (ann, bob) = ["ann", "bob"].map(|user| format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap())).into();
        std::fs::write(&path, &ann).unwrap();
        let access = AccessControl::load(&with_file(&path, &[])).unwrap();
        assert!(matches!(access.look(None).unwrap(), ReloadCheck::Unchanged));
        std::fs::write(&path, [&*ann, &bob].concat()).unwrap();
        let ReloadCheck::Changing(half) = access.look(None).unwrap() else { panic!("it was not seen twice") };
        std::fs::write(&path, &bob).unwrap();
        let ReloadCheck::Changing(now) = access.look(Some(half)).unwrap() else { panic!("it was still written") };
        assert!(matches!(access.look(Some(now)).unwrap(), ReloadCheck::Changed(file) if file == path));
        assert!(matches!(access.look(None).unwrap(), ReloadCheck::Unchanged));
    }

    /// Nor is it a guess at one, however often it is shown.
    #[tokio::test]
    async fn where_there_are_no_users_a_password_is_ignored() {
        let config = Config { htpasswd: None, push_users: None, ..with_file("".as_ref(), &[]) };
        let (access, tries) =
            (AccessControl::load(&config).unwrap(), PasswordAttempts::new(TrustedNetworks::default()));
        let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode("ann:pw"))).unwrap();
        for _ in 0..200 {
            let peer = IpAddr::from([192, 0, 2, 1]);
            assert_eq!(access.check(&tries, peer, Some(&header), false).await, Ok(Identity::Anonymous));
        }
    }

    #[test]
    fn what_is_too_long_for_a_name_or_a_password_is_shown_to_nobody() {
        for (user, password, shown) in
            [(MAX_USER, MAX_PASSWORD, true), (MAX_USER + 1, 1, false), (1, MAX_PASSWORD + 1, false)]
        {
            let pair = STANDARD.encode(format!("{}:{}", "u".repeat(user), "p".repeat(password)));
            let header = HeaderValue::from_str(&format!("Basic {pair}")).unwrap();
            assert_eq!(basic(&header).is_some(), shown, "{user} {password}");
        }
    }

    #[test]
    fn basic_credentials_are_read_and_nothing_else_is() {
        let encode = |text: &str| STANDARD.encode(text);
        for (header, expected) in [
            (format!("Basic {}", encode("ann:secret")), Some(("ann", "secret"))),
            (format!("basic  {}", encode("ann:with:colons")), Some(("ann", "with:colons"))),
            (format!("BASIC {}", encode("ann:")), Some(("ann", ""))),
            (format!("Basic {}", encode(":secret")), Some(("", "secret"))),
            (format!("Basic {}", encode("no colon")), None),
            (format!("Bearer {}", encode("ann:secret")), None),
            ("Basic".to_owned(), None),
            ("Basic !!!".to_owned(), None),
            (String::new(), None),
        ] {
            let parsed = Credentials::parse(&HeaderValue::from_str(&header).unwrap());
            let parsed = parsed.as_ref().map(|c| (c.user.as_str(), std::str::from_utf8(&c.password).unwrap()));
            assert_eq!(parsed, expected, "{header}");
        }
        assert!(Credentials::parse(&HeaderValue::from_bytes(b"Basic \xff\xff").unwrap()).is_none());
    }
}
