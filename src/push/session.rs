//! The state of an upload, sealed into its URL: where the upload continues at the upstream, and what is captured of it.

use super::Seal;
use crate::oci::Repository;

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The path and query that the upstream named.
    pub target: String,
    pub captured: Captured,
}

/// How much of an upload's content is captured for the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Captured {
    /// No content was sent yet: all of it can be captured.
    Begun,
    /// All content sent so far, in the capture of this number, which may belong to another process.
    By(u64),
    /// Less than the content sent so far, so capturing the rest is useless.
    Nothing,
}

/// How [`Captured::Begun`] is written in place of a number.
const BEGUN: &str = "new";

impl Session {
    pub(super) fn seal(&self, upstream: &str, repository: &Repository, seal: &Seal) -> Option<String> {
        seal.seal(upstream, repository, &self.to_text())
    }

    /// `None` if the state was not sealed with this key for this repository.
    pub(super) fn open(upstream: &str, repository: &Repository, sealed: &str, seal: &Seal) -> Option<Self> {
        seal.open(upstream, repository, sealed).map(Self::from_text)
    }

    /// What is captured, a blank, and the target, which begins with a slash; only the target if nothing is captured.
    fn to_text(&self) -> String {
        let target = &self.target;
        match self.captured {
            Captured::Begun => format!("{BEGUN} {target}"),
            Captured::By(number) => format!("{number} {target}"),
            Captured::Nothing => target.clone(),
        }
    }

    fn from_text(text: String) -> Self {
        let marked = text.split_once(' ').and_then(|(captured, target)| {
            let captured = if captured == BEGUN { Captured::Begun } else { Captured::By(captured.parse().ok()?) };
            Some(Self { target: target.to_owned(), captured })
        });
        marked.unwrap_or(Self { target: text, captured: Captured::Nothing })
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
            for captured in
                [Captured::Begun, Captured::By(0), Captured::By(7), Captured::By(u64::MAX), Captured::Nothing]
            {
                let session = Session { target: target.to_owned(), captured };
                let sealed = session.seal("hub", &repository, &seal).unwrap();
                assert_eq!(Session::open("hub", &repository, &sealed, &seal), Some(session));
                assert_eq!(Session::open("other", &repository, &sealed, &seal), None);
            }
            let earlier = seal.seal("hub", &repository, target).unwrap();
            let opened = Session::open("hub", &repository, &earlier, &seal);
            assert_eq!(opened, Some(Session { target: target.to_owned(), captured: Captured::Nothing }));
        }
    }
}
