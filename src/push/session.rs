//! The state of an upload, sealed into its URL: where the upload continues at the upstream, and its capture.

use super::Seal;
use crate::oci::Repository;

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The path and query that the upstream named.
    pub target: String,
    /// The number of the capture that has all content sent so far; it may belong to another process.
    pub capture: Option<u64>,
}

impl Session {
    pub(super) fn seal(&self, upstream: &str, repository: &Repository, seal: &Seal) -> Option<String> {
        seal.seal(upstream, repository, &self.to_text())
    }

    /// `None` if the state was not sealed with this key for this repository.
    pub(super) fn open(upstream: &str, repository: &Repository, sealed: &str, seal: &Seal) -> Option<Self> {
        seal.open(upstream, repository, sealed).map(Self::from_text)
    }

    /// The number of the capture, a blank, and the target, which begins with a slash; only the target if nothing is
    /// captured.
    fn to_text(&self) -> String {
        match self.capture {
            Some(number) => format!("{number} {}", self.target),
            None => self.target.clone(),
        }
    }

    /// Earlier versions wrote a word in place of the number of a capture that had not begun.
    fn from_text(text: String) -> Self {
        match text.split_once(' ') {
            Some((number, target)) if !text.starts_with('/') => {
                Self { target: target.to_owned(), capture: number.parse().ok() }
            }
            _ => Self { target: text, capture: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_uploads_come_back_also_of_earlier_versions() {
        let seal = Seal::for_test();
        let repository = "team/app".parse().unwrap();
        for target in ["/u/1?_state=a%2Fb", "/new/1", "/7", "/7 /8"] {
            for capture in [Some(0), Some(7), Some(u64::MAX), None] {
                let session = Session { target: target.to_owned(), capture };
                let sealed = session.seal("hub", &repository, &seal).unwrap();
                assert_eq!(Session::open("hub", &repository, &sealed, &seal), Some(session));
                assert_eq!(Session::open("other", &repository, &sealed, &seal), None);
            }
            for earlier in [target.to_owned(), format!("new {target}")] {
                let sealed = seal.seal("hub", &repository, &earlier).unwrap();
                let opened = Session::open("hub", &repository, &sealed, &seal);
                assert_eq!(opened, Some(Session { target: target.to_owned(), capture: None }));
            }
        }
    }
}
