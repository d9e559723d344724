//! Where an upload goes on, at the upstream and here: what is sealed into its URL.

use super::Seal;
use crate::oci::Repository;

/// An upload under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The path and query that the upstream named.
    pub target: String,
    pub kept: Kept,
}

/// What is kept here of what was sent for an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing was sent yet, so that all of it can be kept.
    Begun,
    /// All of it, by the tee of this number, which may be another process's.
    By(u64),
    /// Not all of it, so that the rest is of no use either.
    Nothing,
}

/// How [`Kept::Begun`] is written, where another has its number.
const BEGUN: &str = "new";

impl Session {
    pub(super) fn seal(&self, upstream: &str, repository: &Repository, seal: &Seal) -> Option<String> {
        seal.seal(upstream, repository, &self.to_text())
    }

    /// `None` when it was not sealed with this key for this repository.
    pub(super) fn open(upstream: &str, repository: &Repository, sealed: &str, seal: &Seal) -> Option<Self> {
        seal.open(upstream, repository, sealed).map(Self::from_text)
    }

    /// What is kept, a blank, and the target, which begins with a slash; of which nothing is kept, the target alone.
    fn to_text(&self) -> String {
        let target = &self.target;
        match self.kept {
            Kept::Begun => format!("{BEGUN} {target}"),
            Kept::By(number) => format!("{number} {target}"),
            Kept::Nothing => target.clone(),
        }
    }

    fn from_text(text: String) -> Self {
        let marked = text.split_once(' ').and_then(|(kept, target)| {
            let kept = if kept == BEGUN { Kept::Begun } else { Kept::By(kept.parse().ok()?) };
            Some(Self { target: target.to_owned(), kept })
        });
        marked.unwrap_or(Self { target: text, kept: Kept::Nothing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_comes_back_as_it_was_and_one_of_an_earlier_version_goes_on() {
        let seal = Seal::for_test();
        let repository = "team/app".parse().unwrap();
        for target in ["/u/1?_state=a%2Fb", "/new/1", "/7", "/7 /8"] {
            for kept in [Kept::Begun, Kept::By(0), Kept::By(7), Kept::By(u64::MAX), Kept::Nothing] {
                let session = Session { target: target.to_owned(), kept };
                let sealed = session.seal("hub", &repository, &seal).unwrap();
                assert_eq!(Session::open("hub", &repository, &sealed, &seal), Some(session));
                assert_eq!(Session::open("other", &repository, &sealed, &seal), None);
            }
            let earlier = seal.seal("hub", &repository, target).unwrap();
            let opened = Session::open("hub", &repository, &earlier, &seal);
            assert_eq!(opened, Some(Session { target: target.to_owned(), kept: Kept::Nothing }));
        }
    }
}
