//! The rules of one reading of the configuration and of the htpasswd file.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;

use super::{
    basic::Credentials,
    config::Config,
    htpasswd::{Error, Users},
    password_cache::PasswordCache,
};
use crate::file_watch::Changed;

/// Who may pull and who may push.
pub(super) struct Rules {
    pub(super) config: Config,
    pub(super) users: Option<Users>,
    /// The cache ends with the rules, so that a removed user is not remembered. The lock is never held across a wait.
    verified: Mutex<PasswordCache>,
}

impl Rules {
    /// Blocks on the htpasswd file.
    pub(super) fn load(config: &Config) -> Result<Rules, Error> {
        let users = config.htpasswd.as_deref().map(Users::load).transpose()?;
        Ok(Rules { config: config.clone(), users, verified: Mutex::new(PasswordCache::new()) })
    }

    /// Reads the htpasswd file again; `None` if it is the one in use. Blocks.
    pub(super) fn load_changed(&self) -> Result<Option<Changed<Rules>>, Error> {
        let Some(users) = &self.users else { return Ok(None) };
        let rules = Rules::load(&self.config)?;
        let fingerprint = rules.users.as_ref().map(Users::fingerprint).filter(|now| *now != users.fingerprint());
        Ok(fingerprint.map(|fingerprint| Changed { fingerprint, content: rules }))
    }

    /// The user, if this password was verified lately.
    pub(super) fn remembered(&self, credentials: &Credentials) -> Option<Arc<str>> {
        self.verified.lock().get(&credentials.user, &credentials.password)
    }

    /// Verifies a password, and remembers a right one. Takes tens of milliseconds of CPU.
    pub(super) fn verify(&self, credentials: &Credentials) -> Option<Arc<str>> {
        let user = self.users.as_ref()?.verify(&credentials.user, &credentials.password)?;
        self.verified.lock().insert(&credentials.password, user.clone());
        Some(user)
    }
}

/// Finds users in `push_users` who are not in the htpasswd file. They may not push; nothing else depends on them.
/// Blocks on the file.
///
/// # Errors
/// There is such a user, or the file cannot be read.
pub(crate) fn check_push_users(config: &Config) -> Result<(), Error> {
    let (Some(path), Some(push_users)) = (&config.htpasswd, &config.push_users) else { return Ok(()) };
    let users = Users::load(path)?;
    match push_users.users.iter().find(|user| !users.contains(user)) {
        Some(user) => Err(Error::UnknownPushUser { user: user.clone(), path: path.clone() }),
        None => Ok(()),
    }
}

/// How many users the htpasswd file has. Blocks on it.
///
/// # Errors
/// The file cannot be read or understood.
pub(crate) fn count_users(path: &Path) -> Result<usize, Error> {
    Users::load(path).map(|users| users.count())
}

#[cfg(test)]
mod tests {
    use super::{
        super::config::{Anonymous, PushUsers},
        *,
    };

    fn with_file(path: &std::path::Path, users: &[&str]) -> Config {
        let push_users = users.iter().map(|user| Arc::from(*user)).collect();
        Config {
            anonymous: Anonymous::Pull,
            htpasswd: Some(path.to_owned()),
            push_users: Some(PushUsers { users: push_users, certificates: false }),
            ..Config::default()
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
    fn an_htpasswd_file_with_other_content_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        let (ann, bob) = ["ann", "bob"].map(|user| format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap())).into();
        std::fs::write(&path, &ann).unwrap();
        let rules = Rules::load(&with_file(&path, &[])).unwrap();
        assert!(rules.load_changed().unwrap().is_none());
        std::fs::write(&path, [&*ann, &bob].concat()).unwrap();
        let both = rules.load_changed().unwrap().unwrap();
        std::fs::write(&path, &bob).unwrap();
        let changed = rules.load_changed().unwrap().unwrap();
        assert_ne!(changed.fingerprint, both.fingerprint);
        assert!(changed.content.load_changed().unwrap().is_none());
        assert!(changed.content.users.unwrap().contains("bob"));
        std::fs::remove_file(&path).unwrap();
        assert!(rules.load_changed().is_err());
    }
}
