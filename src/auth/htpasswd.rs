//! The htpasswd file: one `user:bcrypt` a line, as `htpasswd -B` writes it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bcrypt::HashParts;
use sha2::{Digest as _, Sha256};

use crate::small_file;

/// The highest bcrypt cost: 2^16 rounds take some seconds. A higher cost is a mistake with which any client could stop
/// all others.
const MAX_COST: u32 = 16;

/// bcrypt ignores the rest of a longer password, in bytes.
pub(super) const MAX_PASSWORD: usize = 72;

/// The longest file, in bytes; some 50 000 users.
pub(super) const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why the htpasswd file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {problem}", path.display())]
    Line { path: PathBuf, line: usize, problem: Problem },
    #[error("{user:?} is no user of {}", path.display())]
    UnknownPushUser { user: Arc<str>, path: PathBuf },
}

/// What is wrong with a line. The line itself is a secret, and is not printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the file begins with a byte order mark: write it as UTF-8 without one")]
    ByteOrderMark,
    #[error("this is not `user:hash`")]
    NotAPair,
    #[error("the hash is not bcrypt: `forebay user add` writes such lines, and so does `htpasswd -B`")]
    NotBcrypt,
    #[error("the bcrypt cost is above 16: every request would take seconds")]
    TooCostly,
    #[error("this user is there already")]
    Twice,
}

/// The users of the file.
#[derive(Default)]
pub(super) struct Users {
    /// The hash of the file: equal if nothing changed.
    fingerprint: [u8; 32],
    hashes: HashMap<Arc<str>, String>,
    /// The highest cost in the file: the time for each wrong password.
    highest: Option<u32>,
}

impl Users {
    pub(super) fn load(path: &Path) -> Result<Users, Error> {
        Users::load_with_text(path).map(|(users, _)| users)
    }

    /// The users, and the text of the file.
    pub(super) fn load_with_text(path: &Path) -> Result<(Users, String), Error> {
        let text =
            small_file::read_text(path, MAX_FILE).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let users = Users::parse(&text);
        let users = users.map_err(|(line, problem)| Error::Line { path: path.to_owned(), line, problem })?;
        Ok((Users { fingerprint: Sha256::digest(&text).into(), ..users }, text))
    }

    pub(super) fn contains(&self, user: &str) -> bool {
        self.hashes.contains_key(user)
    }

    /// The bcrypt cost of a user's hash.
    pub(super) fn cost(&self, user: &str) -> Option<u32> {
        self.hashes.get(user).and_then(|hash| cost_of(hash))
    }

    pub(super) fn count(&self) -> usize {
        self.hashes.len()
    }

    /// A hash of the file.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    pub(super) fn parse(text: &str) -> Result<Users, (usize, Problem)> {
        let mut users = Users::default();
        if text.starts_with('\u{feff}') {
            return Err((1, Problem::ByteOrderMark));
        }
        for (number, line) in text.lines().enumerate() {
            let fail = |problem| (number + 1, problem);
            let Some(entry) = entry(line) else { continue };
            let (user, hash) = entry.ok_or(fail(Problem::NotAPair))?;
            let cost = cost_of(hash).ok_or(fail(Problem::NotBcrypt))?;
            if cost > MAX_COST {
                return Err(fail(Problem::TooCostly));
            }
            if users.hashes.insert(user.into(), hash.to_owned()).is_some() {
                return Err(fail(Problem::Twice));
            }
            users.highest = users.highest.max(Some(cost));
        }
        Ok(users)
    }

    /// Takes tens of milliseconds of CPU. Each wrong password takes the same number of rounds, whether there is such a
    /// user or not, and whatever the cost of the user's hash.
    pub(super) fn verify(&self, user: &str, password: &[u8]) -> Option<Arc<str>> {
        if !could_be_password(password) {
            return None;
        }
        let known = self.hashes.get_key_value(user);
        if let Some((user, hash)) = known
            && bcrypt::verify(password, hash).is_ok_and(|right| right)
        {
            return Some(user.clone());
        }
        let spent = known.and_then(|(_, hash)| cost_of(hash));
        for cost in self.highest.into_iter().flat_map(|highest| missing_costs(spent, highest)) {
            // Only the time matters; the function takes no empty password.
            let _ = bcrypt::bcrypt(cost, [0; 16], b"any");
        }
        None
    }
}

fn cost_of(hash: &str) -> Option<u32> {
    hash.parse::<HashParts>().ok().map(|hash| hash.get_cost())
}

/// The user and the hash of a line, which has no colon if that is `None`; no entry: the line is empty or a comment.
pub(super) fn entry(line: &str) -> Option<Option<(&str, &str)>> {
    let line = line.trim();
    (!line.is_empty() && !line.starts_with('#')).then(|| line.split_once(':'))
}

/// Whether bcrypt distinguishes a password from every other: it cuts longer ones, and repeats the password with a NUL
/// behind it, so that a password with a NUL inside equals another.
fn could_be_password(password: &[u8]) -> bool {
    password.len() <= MAX_PASSWORD && !password.contains(&0)
}

/// The costs of the hashes to compute, after one of cost `spent`, so that all take as long as one of cost `highest`:
/// 2^s + 2^s + 2^(s+1) + … + 2^(h-1) = 2^h.
fn missing_costs(spent: Option<u32>, highest: u32) -> std::ops::Range<u32> {
    spent.map_or(highest..highest + 1, |spent| spent..highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `htpasswd -nbB -C 4 ann secret`
    fn line(user: &str, password: &str) -> String {
        let hash = bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoY);
        format!("{user}:{hash}\n")
    }

    #[test]
    fn comments_and_empty_lines_are_no_users() {
        let users = Users::parse(&format!("# staff\n\n{}  \n{}", line("ann", "a"), line("bob", "b"))).unwrap();
        assert_eq!(users.verify("ann", b"a").as_deref(), Some("ann"));
        assert_eq!(users.verify("bob", b"b").as_deref(), Some("bob"));
        assert_eq!(users.verify("ann", b"b"), None);
        assert_eq!(users.verify("ann", b""), None);
        assert_eq!(users.verify("eve", b"a"), None);
        assert_eq!(users.verify("", b""), None);
        assert_eq!(Users::parse("").unwrap().verify("ann", b"a"), None);
    }

    #[test]
    fn each_wrong_password_takes_the_same_number_of_rounds() {
        for highest in 4..=MAX_COST {
            for spent in (4..=highest).map(Some).chain([None]) {
                let rounds = spent.map_or(0, |cost| 1u64 << cost);
                let missing: u64 = missing_costs(spent, highest).map(|cost| 1 << cost).sum();
                assert_eq!(rounds + missing, 1 << highest, "{spent:?} {highest}");
            }
        }
        let bob = bcrypt::hash_with_result("b", 6).unwrap().format_for_version(bcrypt::Version::TwoY);
        let users = Users::parse(&format!("{}bob:{bob}", line("ann", "a"))).unwrap();
        assert_eq!(users.highest, Some(6));
        assert_eq!(
            (users.verify("ann", b"a").as_deref(), users.verify("bob", b"b").as_deref()),
            (Some("ann"), Some("bob"))
        );
        assert_eq!(
            (users.verify("ann", b"b"), users.verify("bob", b"a"), users.verify("eve", b"a")),
            (None, None, None)
        );
    }

    #[test]
    fn a_password_that_bcrypt_would_cut_is_wrong() {
        let longest = "p".repeat(MAX_PASSWORD);
        let users = Users::parse(&format!("{}{}", line("ann", &longest), line("bob", "b"))).unwrap();
        assert_eq!(users.verify("ann", longest.as_bytes()).as_deref(), Some("ann"));
        for (user, password) in
            [("ann", format!("{longest}p")), ("ann", format!("{longest}\0")), ("bob", "b\0b".into())]
        {
            assert_eq!(users.verify(user, password.as_bytes()), None, "{user} {password:?}");
        }
    }

    #[test]
    fn a_malformed_line_is_an_error() {
        let ann = line("ann", "a");
        let costly = ann.replace("$04$", "$17$");
        assert!(Users::parse(&ann.replace("$04$", "$16$")).is_ok());
        for (text, expected) in [
            ("ann".to_owned(), (1, Problem::NotAPair)),
            (format!("{ann}eve:plain"), (2, Problem::NotBcrypt)),
            ("eve:$apr1$x$y".to_owned(), (1, Problem::NotBcrypt)),
            ("eve:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), (1, Problem::NotBcrypt)),
            (format!("\n\n{costly}"), (3, Problem::TooCostly)),
            (format!("{ann}{ann}"), (2, Problem::Twice)),
            (format!("\u{feff}{ann}"), (1, Problem::ByteOrderMark)),
        ] {
            assert_eq!(Users::parse(&text).err(), Some(expected), "{text}");
        }
    }
}
