//! The upstreams that clients asked for lately and that are not configured.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use super::FinishedRequest;

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
    let mut names: HashMap<String, Unconfigured> = HashMap::new();
    // As they came, and in lower case.
    let (mut configured, mut in_lower_case) = (HashSet::new(), HashSet::new());
    for request in requests {
        let Some(name) = request.unconfigured.as_deref() else {
            let named = request.upstream.as_deref().map(|upstream| [Some(upstream), request.namespace.as_deref()]);
            for name in named.into_iter().flatten().flatten() {
                if configured.insert(name) {
                    in_lower_case.insert(name.to_ascii_lowercase());
                }
            }
            continue;
        };
        let name = name.to_ascii_lowercase();
        if let Some(found) = names.get_mut(&name) {
            found.requests += 1;
        } else if !in_lower_case.contains(&name) {
            let (last, peer) = (request.ended_at, request.peer.clone());
            names.insert(name.clone(), Unconfigured { name, requests: 1, last, peer });
        }
    }
    let mut names: Vec<Unconfigured> = names.into_values().collect();
    names.sort_unstable_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    names
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn names_are_counted_until_they_are_configured() {
        let of_test = || FinishedRequest::of_test(1, Instant::now());
        let served = |upstream: &str, namespace: Option<&str>| FinishedRequest {
            upstream: Some(upstream.into()),
            namespace: namespace.map(str::to_owned),
            ..of_test()
        };
        let unknown = |name: &str| FinishedRequest { upstream: None, unconfigured: Some(name.into()), ..of_test() };
        let requests = [
            served("quay.io", None),
            unknown("nvcr.io"),
            served("docker.io", Some("Hub.example")),
            served("ghcr.io", None).failed(404, "manifest_unknown"),
            unknown("NVCR.io"),
            unknown("quay.io"),
            unknown("hub.example"),
            unknown("b.example"),
            unknown("a.example"),
            // It was configured before.
            served("a.example", None),
            FinishedRequest { upstream: None, ..of_test().failed(400, "invalid_name") },
        ];
        let found = of(requests.iter()).into_iter().map(|one| (one.name, one.requests)).collect::<Vec<_>>();
        let expected = [("nvcr.io", 2), ("a.example", 1), ("b.example", 1)];
        assert_eq!(found, expected.map(|(name, requests)| (name.to_owned(), requests)));
    }
}
