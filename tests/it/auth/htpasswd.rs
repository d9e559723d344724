//! Access to pulls, with a file that `htpasswd` itself writes.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use forebay::{
    auth::{AccessControl, Anonymous, Config, Identity, PasswordAttempts, Refusal},
    peer::TrustedNetworks,
};
use forebay_test_support::users;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use http::HeaderValue;

struct Htpasswd {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Htpasswd {
    /// As an operator makes it; apache's htpasswd writes `$2y$`.
    fn with(cost: u32, users: &[(&str, &str)]) -> Htpasswd {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        std::fs::write(&path, "# staff\n\n").unwrap();
        for (user, password) in users {
            let status = Command::new("htpasswd")
                .args(["-bB", "-C", &cost.to_string()])
                .arg(&path)
                .args([user, password])
                .output()
                .expect("htpasswd (Debian package `apache2-utils`) is needed")
                .status;
            assert!(status.success());
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("$2y$"));
        Htpasswd { path, _directory: directory }
    }

    fn config(&self, anonymous: Anonymous) -> Config {
        Config { anonymous, htpasswd: Some(self.path.clone()), ..Config::default() }
    }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    HeaderValue::try_from(users::basic(user, password)).unwrap()
}

#[tokio::test]
async fn only_listed_users_may_pull() {
    let file = Htpasswd::with(4, &[("ann", "secret"), ("bob", "pä:ss")]);
    let no_file = |anonymous| Config { anonymous, ..Config::default() };
    let (ann, bob) = (Identity::User("ann".into()), Identity::User("bob".into()));
    let bearer = HeaderValue::from_static("Bearer abc");
    let cases = [
        (no_file(Anonymous::Pull), None, false, Ok(Identity::Anonymous)),
        (no_file(Anonymous::Pull), None, true, Ok(Identity::Certificate)),
        // Where there is nothing to check credentials against, they are as good as none.
        (no_file(Anonymous::Pull), Some(basic("ann", "secret")), false, Ok(Identity::Anonymous)),
        (no_file(Anonymous::Pull), Some(basic("ann", "secret")), true, Ok(Identity::Certificate)),
        (no_file(Anonymous::Pull), Some(bearer.clone()), false, Ok(Identity::Anonymous)),
        (no_file(Anonymous::None), None, false, Err(Refusal::Missing)),
        (no_file(Anonymous::None), None, true, Ok(Identity::Certificate)),
        (no_file(Anonymous::None), Some(basic("ann", "secret")), false, Err(Refusal::Missing)),
        (no_file(Anonymous::None), Some(basic("ann", "secret")), true, Ok(Identity::Certificate)),
        (file.config(Anonymous::Pull), None, false, Ok(Identity::Anonymous)),
        (file.config(Anonymous::Pull), Some(basic("ann", "secret")), false, Ok(ann.clone())),
        (file.config(Anonymous::Pull), Some(basic("bob", "pä:ss")), false, Ok(bob)),
        (file.config(Anonymous::Pull), Some(basic("ann", "Secret")), false, Err(Refusal::Wrong)),
        (file.config(Anonymous::Pull), Some(basic("eve", "secret")), false, Err(Refusal::Wrong)),
        (file.config(Anonymous::Pull), Some(basic("ann", "")), true, Err(Refusal::Wrong)),
        (file.config(Anonymous::Pull), Some(bearer.clone()), false, Err(Refusal::Malformed)),
        (file.config(Anonymous::None), None, false, Err(Refusal::Missing)),
        (file.config(Anonymous::None), Some(basic("ann", "secret")), false, Ok(ann)),
        (file.config(Anonymous::None), Some(basic("ann", "wrong")), true, Err(Refusal::Wrong)),
        (file.config(Anonymous::None), None, true, Ok(Identity::Certificate)),
        (file.config(Anonymous::None), Some(bearer), true, Err(Refusal::Malformed)),
    ];
    for (config, authorization, certificate, expected) in cases {
        let access = AccessControl::load(&config).unwrap();
        // Twice: the second time the cache may answer, and must say the same.
        for _ in 0..2 {
            let result = check(&access, authorization.as_ref(), certificate).await;
            assert_eq!(result, expected, "{config:?} {authorization:?} {certificate}");
        }
    }
}

#[tokio::test]
async fn a_reload_takes_new_users_in_and_removed_ones_out() {
    let file = Htpasswd::with(4, &[("ann", "secret")]);
    let access = AccessControl::load(&file.config(Anonymous::None)).unwrap();
    let ann = basic("ann", "secret");
    assert!(check(&access, Some(&ann), false).await.is_ok());
    let other = Htpasswd::with(4, &[("bob", "secret")]);
    std::fs::copy(&other.path, &file.path).unwrap();
    assert!(check(&access, Some(&ann), false).await.is_ok());
    let access = AccessControl::load(&file.config(Anonymous::None)).unwrap();
    assert_eq!(check(&access, Some(&ann), false).await, Err(Refusal::Wrong));
    assert!(check(&access, Some(&basic("bob", "secret")), false).await.is_ok());
    // An error says where the mistake is.
    std::fs::write(&file.path, "# staff\nann:secret\n").unwrap();
    let error = AccessControl::load(&file.config(Anonymous::None)).err().unwrap().to_string();
    assert!(error.starts_with(&format!("{}:2: ", file.path.display())) && error.contains("htpasswd -B"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert!(check(&access, Some(&basic("bob", "secret")), false).await.is_ok());
}

#[tokio::test]
async fn a_pull_of_many_requests_costs_one_verification() {
    let file = Htpasswd::with(11, &[("ann", "secret")]);
    let access = AccessControl::load(&file.config(Anonymous::None)).unwrap();
    let ann = basic("ann", "secret");
    let first = elapsed(check(&access, Some(&ann), false)).await;
    let many = elapsed(async {
        for _ in 0..100 {
            check(&access, Some(&ann), false).await.unwrap();
        }
    })
    .await;
    assert!(many < first, "100 requests took {many:?}, the first one {first:?}");
}

#[tokio::test]
async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let file = Htpasswd::with(10, &[("ann", "secret")]);
    let access = AccessControl::load(&file.config(Anonymous::None)).unwrap();
    let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        known = known.min(elapsed(check(&access, Some(&basic("ann", "wrong")), false)).await);
        unknown = unknown.min(elapsed(check(&access, Some(&basic("eve", "wrong")), false)).await);
    }
    assert!(unknown * 3 > known && known * 3 > unknown, "{known:?} and {unknown:?}");
}

#[tokio::test]
async fn a_flood_of_passwords_does_not_refuse_the_next_client() {
    // So costly that none is done before all have asked; each from an address and for an account of its own.
    let tries = PasswordAttempts::new(TrustedNetworks::default());
    let file = Htpasswd::with(12, &[("ann", "secret")]);
    let access = AccessControl::load(&file.config(Anonymous::Pull)).unwrap();
    let guesses: Vec<_> = (0..100).map(|n| basic(&n.to_string(), "wrong")).collect();
    let mut crowd: FuturesUnordered<_> = guesses
        .iter()
        .zip(0..)
        .map(|(guess, n)| access.check(&tries, [192, 0, 2, n].into(), Some(guess), false))
        .collect();
    // Two are verified, 64 wait.
    for _ in 0..100 - 2 - 64 {
        assert_eq!(crowd.next().await, Some(Err(Refusal::Busy)));
    }
    // A request without a password does not wait; nor do the places of the flood outlive it.
    assert_eq!(check(&access, None, false).await, Ok(Identity::Anonymous));
    drop(crowd);
    assert!(check(&access, Some(&basic("ann", "secret")), false).await.is_ok());
}

#[tokio::test]
async fn right_logins_at_once_leave_the_guesses_of_the_address() {
    let file = Htpasswd::with(4, &[("ann", "secret")]);
    let (tries, peer) = (PasswordAttempts::new(TrustedNetworks::default()), [192, 0, 2, 1].into());
    let access = AccessControl::load(&file.config(Anonymous::None)).unwrap();
    let right = basic("ann", "secret");
    let logins = (0..20).map(|_| access.check(&tries, peer, Some(&right), false));
    assert!(join_all(logins).await.iter().all(Result::is_ok));
    for n in 0..19 {
        let wrong = basic("ann", &format!("guess {n}"));
        assert_eq!(access.check(&tries, peer, Some(&wrong), false).await, Err(Refusal::Wrong), "{n}");
    }
}

/// All that wait for a turn are turned away unjudged.
#[tokio::test]
async fn a_login_that_is_turned_away_counts_as_no_guess() {
    let tries = PasswordAttempts::new(TrustedNetworks::default());
    // One is as slow as a crowd.
    let file = Htpasswd::with(12, &[("ann", "secret")]);
    let access = AccessControl::load(&file.config(Anonymous::None)).unwrap();
    let crowd_guesses: Vec<_> = (0..66).map(|n| basic(&n.to_string(), "wrong")).collect();
    let mut crowd: FuturesUnordered<_> = crowd_guesses
        .iter()
        .zip(0..)
        .map(|(guess, n)| access.check(&tries, [198, 51, 100, n].into(), Some(guess), false))
        .collect();
    assert!(futures_util::poll!(crowd.next()).is_pending());
    let (peer, ann) = ([192, 0, 2, 1].into(), basic("ann", "secret"));
    for n in 0..100 {
        assert_eq!(access.check(&tries, peer, Some(&ann), false).await, Err(Refusal::Busy), "{n}");
    }
    drop(crowd);
    assert!(access.check(&tries, peer, Some(&ann), false).await.is_ok());
}

async fn check(
    access: &AccessControl,
    authorization: Option<&HeaderValue>,
    certificate: bool,
) -> Result<Identity, Refusal> {
    let tries = PasswordAttempts::new(TrustedNetworks::default());
    access.check(&tries, [192, 0, 2, 1].into(), authorization, certificate).await
}

async fn elapsed<F: Future>(future: F) -> Duration {
    let began = Instant::now();
    let _ = future.await;
    began.elapsed()
}
