//! The requests of one pull or push, and what they come to (pure).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::FinishedRequest;
use crate::{
    cache::Outcome,
    oci::{Operation, Reference, is_referrers_tag},
    request_id::RequestId,
    rule::Subject,
};

/// Requests of one client for one repository in one go, or a single request that belongs to none.
#[derive(Debug)]
pub(crate) struct Pull {
    newest: Arc<FinishedRequest>,
    /// The newest first.
    older: Vec<Arc<FinishedRequest>>,
}

/// Groups requests, of which the newest are first, into pulls, of which those with the newest requests are first.
pub(super) fn group(requests: Vec<Arc<FinishedRequest>>) -> Vec<Pull> {
    let mut places: HashMap<u64, usize> = HashMap::new();
    let mut pulls: Vec<Pull> = Vec::new();
    for request in requests {
        let place = match request.pull {
            Some(number) => *places.entry(number).or_insert(pulls.len()),
            None => pulls.len(),
        };
        match pulls.get_mut(place) {
            Some(pull) => pull.older.push(request),
            None => pulls.push(Pull { newest: request, older: Vec::new() }),
        }
    }
    pulls
}

impl Pull {
    pub(crate) fn newest(&self) -> &FinishedRequest {
        &self.newest
    }

    /// The newest first.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &FinishedRequest> {
        std::iter::once(&self.newest).chain(&self.older).map(|request| &**request)
    }

    pub(crate) fn len(&self) -> usize {
        1 + self.older.len()
    }

    pub(crate) fn id(&self) -> RequestId {
        self.newest.pull_id().unwrap_or(self.newest.id)
    }

    /// Whether it is more than a client's question whether this is a registry.
    pub(super) fn is_worth_a_line(&self) -> bool {
        self.newest.pull.is_some() || self.newest.is_error()
    }

    /// From the head of its first request to the end of its last response.
    pub(crate) fn duration(&self) -> Duration {
        let first = self.requests().map(|request| request.started).min().unwrap_or(self.newest.started);
        self.newest.ended().saturating_duration_since(first)
    }

    /// Bytes of bodies that the client got.
    pub(crate) fn sent(&self) -> u64 {
        self.requests().fold(0, |sum, request| sum.saturating_add(request.sent))
    }

    /// Bytes of blobs that the client was sent to the object store for.
    pub(crate) fn redirected(&self) -> u64 {
        self.requests().fold(0, |sum, request| sum.saturating_add(request.redirected.unwrap_or_default()))
    }

    /// Bytes of bodies that upstreams sent for it, until its requests were over.
    pub(crate) fn received(&self) -> u64 {
        self.requests().fold(0, |sum, request| sum.saturating_add(request.received.unwrap_or_default()))
    }

    /// `push`, `pull`, or the operation of what is neither.
    pub(crate) fn operation(&self) -> &'static str {
        let has = |wanted: Operation| self.requests().any(|request| request.operation == wanted);
        match has(Operation::Push) {
            true => "push",
            false if has(Operation::Manifest) || has(Operation::Blob) => "pull",
            false => self.newest.operation.as_str(),
        }
    }

    /// The name that was pulled; else what comes nearest to it.
    pub(crate) fn image(&self) -> Option<Subject> {
        let of_manifest = |request: &&FinishedRequest| request.operation != Operation::Blob;
        let of_tag = |request: &&FinishedRequest| match &request.reference {
            Some(Reference::Tag(tag)) => !is_referrers_tag(tag),
            Some(Reference::Digest(_)) | None => false,
        };
        let named = self.requests().find(|request| request.is_pull && of_tag(request));
        // containerd requests the manifest by the digest that a HEAD of the tag told.
        let named = named.or_else(|| self.requests().find(of_tag));
        let named = named.or_else(|| self.requests().find(|request| request.is_pull));
        let named = named.or_else(|| self.requests().filter(of_manifest).find(|request| request.reference.is_some()));
        named.unwrap_or(&self.newest).subject()
    }

    /// The request that failed last, unless its client got the same afterwards.
    pub(crate) fn failed(&self) -> Option<&FinishedRequest> {
        let mut got = HashSet::new();
        self.requests().find(|request| {
            if request.failure.is_none() {
                got.insert((&request.method, request.path()));
            }
            request.is_error() && !got.contains(&(&request.method, request.path()))
        })
    }

    /// The outcome of the response that took most. If all blobs came out of the cache, the registry was asked for no more than
    /// what the image is.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.failed().is_some() {
            return Outcome::Error;
        }
        let content = || self.requests().filter(|request| request.has_content() && request.failure.is_none());
        let has_blobs = content().any(|request| request.operation == Operation::Blob);
        let outcome = |request: &FinishedRequest| match request.outcome {
            Outcome::Miss | Outcome::Joined if has_blobs && request.operation == Operation::Manifest => {
                Outcome::Revalidated
            }
            outcome => outcome,
        };
        let effort = |outcome: &Outcome| match outcome {
            Outcome::Bypass => 0,
            Outcome::Hit => 1,
            Outcome::Revalidated => 2,
            Outcome::Redirected => 3,
            Outcome::Joined => 4,
            Outcome::Miss => 5,
            Outcome::Stale => 6,
            Outcome::Error => 7,
        };
        content().map(outcome).max_by_key(effort).unwrap_or(self.newest.outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn digest(letter: &str) -> String {
        format!("sha256:{}", letter.repeat(64))
    }

    /// A pull of requests, the newest first.
    fn pull(requests: impl IntoIterator<Item = FinishedRequest>) -> Pull {
        let requests = requests.into_iter().map(|request| Arc::new(FinishedRequest { pull: Some(1), ..request }));
        let mut pulls = group(requests.collect());
        assert_eq!(pulls.len(), 1);
        pulls.remove(0)
    }

    fn tag() -> FinishedRequest {
        FinishedRequest::of_test(1, Instant::now())
    }

    #[test]
    fn a_pull_is_named_after_what_the_client_named() {
        let manifest = |reference: &str| tag().about(Operation::Manifest, reference);
        let pulled = |reference: &str| FinishedRequest { is_pull: true, ..manifest(reference) };
        let blob = || tag().about(Operation::Blob, &digest("b"));
        let of_repository = |operation| FinishedRequest { reference: None, ..tag().about(operation, "1") };
        for (requests, expected) in [
            (vec![blob(), manifest(&digest("a")), tag()], "docker.io/library/app:1".to_owned()),
            (vec![blob(), manifest(&digest("a"))], format!("docker.io/library/app@{}", digest("a"))),
            // containerd: HEAD of the tag, and the rest by digest; then signatures.
            (
                vec![manifest(&digest("a").replace(':', "-")), pulled(&digest("a")), manifest("2")],
                "docker.io/library/app:2".to_owned(),
            ),
            // An index by its digest, and one of its manifests.
            (vec![manifest(&digest("a")), pulled(&digest("c"))], format!("docker.io/library/app@{}", digest("c"))),
            (vec![blob()], format!("docker.io/library/app@{}", digest("b"))),
            (vec![of_repository(Operation::Tags)], "docker.io/library/app".to_owned()),
            (vec![manifest("3"), of_repository(Operation::Push)], "docker.io/library/app:3".to_owned()),
        ] {
            assert_eq!(pull(requests).image().unwrap().as_str(), expected);
        }
    }

    #[test]
    fn the_outcome_is_that_of_the_hardest_response() {
        let blob = |outcome| FinishedRequest { outcome, ..tag().about(Operation::Blob, &digest("b")) };
        let manifest = |outcome| FinishedRequest { outcome, ..tag() };
        let failed = || tag().failed(502, "upstream_unavailable");
        for (requests, expected) in [
            (vec![tag()], Outcome::Hit),
            (vec![blob(Outcome::Miss), tag()], Outcome::Miss),
            (vec![blob(Outcome::Joined), blob(Outcome::Miss)], Outcome::Miss),
            // Another image had the layers already.
            (vec![blob(Outcome::Hit), manifest(Outcome::Miss)], Outcome::Revalidated),
            (vec![blob(Outcome::Hit), manifest(Outcome::Stale)], Outcome::Stale),
            (vec![blob(Outcome::Redirected), blob(Outcome::Hit), manifest(Outcome::Hit)], Outcome::Redirected),
            (vec![blob(Outcome::Redirected), blob(Outcome::Miss)], Outcome::Miss),
            (vec![blob(Outcome::Joined), manifest(Outcome::Miss)], Outcome::Joined),
            (vec![manifest(Outcome::Miss)], Outcome::Miss),
            (vec![blob(Outcome::Hit), blob(Outcome::Stale), blob(Outcome::Miss)], Outcome::Stale),
            (vec![blob(Outcome::Miss), failed()], Outcome::Error),
            // The client tried again.
            (vec![tag(), blob(Outcome::Miss), failed()], Outcome::Miss),
            (vec![failed(), tag()], Outcome::Error),
            // It looked for a signature.
            (
                vec![
                    tag().about(Operation::Manifest, &digest("a").replace(':', "-")).failed(404, "manifest_unknown"),
                    tag(),
                ],
                Outcome::Hit,
            ),
        ] {
            let pull = pull(requests);
            assert_eq!(pull.outcome(), expected, "{pull:?}");
            assert_eq!(pull.failed().is_some(), expected == Outcome::Error);
        }
    }

    #[test]
    fn a_group_is_a_push_or_a_pull() {
        for (requests, expected) in [
            (vec![tag()], "pull"),
            (vec![tag().about(Operation::Push, "1"), tag()], "push"),
            (vec![tag().about(Operation::Tags, "1")], "tags"),
        ] {
            assert_eq!(pull(requests).operation(), expected);
        }
    }
}
