//! The upstreams that clients asked for lately and that are not configured.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use super::FinishedRequest;

/// The failure of a request for an upstream that is not configured.
pub(crate) const UNCONFIGURED: &str = "unconfigured_upstream";

/// An upstream that is not configured, as clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unconfigured {
    pub name: String,
    pub requests: usize,
    /// When its latest request ended.
    pub last: SystemTime,
    /// The client of that request: address and port.
    pub peer: Arc<str>,
}

/// Those that these requests name, the newest first: the most requested one first. A name whose latest request was for an
/// upstream is configured by now.
pub(super) fn of<'a>(requests: impl Iterator<Item = &'a FinishedRequest>) -> Vec<Unconfigured> {
    let mut names: HashMap<String, Option<Unconfigured>> = HashMap::new();
    for request in requests {
        let Some(name) = request.namespace.as_deref() else { continue };
        let is_unconfigured = request.failure == Some(UNCONFIGURED);
        let first = || {
            let (name, last, peer) = (name.to_ascii_lowercase(), request.ended_at, request.peer.clone());
            is_unconfigured.then_some(Unconfigured { name, requests: 0, last, peer })
        };
        if let Some(found) = names.entry(name.to_ascii_lowercase()).or_insert_with(first)
            && is_unconfigured
        {
            found.requests += 1;
        }
    }
    let mut names: Vec<Unconfigured> = names.into_values().flatten().collect();
    names.sort_unstable_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    names
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn names_are_counted_until_they_are_configured() {
        let request = |name: Option<&str>, failure| FinishedRequest {
            namespace: name.map(str::to_owned),
            failure,
            ..FinishedRequest::of_test(1, Instant::now())
        };
        let requests = [
            request(Some("quay.io"), None),
            request(Some("nvcr.io"), Some(UNCONFIGURED)),
            request(None, Some("manifest_unknown")),
            request(Some("ghcr.io"), Some("manifest_unknown")),
            request(Some("NVCR.io"), Some(UNCONFIGURED)),
            request(Some("quay.io"), Some(UNCONFIGURED)),
            request(Some("b.example"), Some(UNCONFIGURED)),
            request(Some("a.example"), Some(UNCONFIGURED)),
        ];
        let found = of(requests.iter()).into_iter().map(|one| (one.name, one.requests)).collect::<Vec<_>>();
        let expected = [("nvcr.io", 2), ("a.example", 1), ("b.example", 1)];
        assert_eq!(found, expected.map(|(name, requests)| (name.to_owned(), requests)));
    }
}
