//! Pushes, mounts and deletes, which forebay forwards to the upstream.
//!
//! In the order of a request: which clients may push (`policy`); the request to the upstream (`request`), with the
//! client's body as a stream; what the response means for the caches (`change`); the response's URL for the client
//! (`location`). The state of an upload is sealed into its URL ([`Seal`]) and kept nowhere else: the upload continues
//! after a restart, and at another instance with the same key.
//!
//! forebay also captures the content of a blob for the cache (`capture`), as far as that costs the push nothing, so
//! that the next pull is a hit. The capture is committed only if the upstream has accepted the blob and if the content
//! has the digest that the client named.

mod capture_body;
mod change;
mod config;
mod deletions;
#[cfg(test)]
mod fixture;
mod location;
mod policy;
mod request;
mod session;
mod session_seal;

use std::net::IpAddr;

use http::{HeaderName, Method, Uri, request::Parts};

use self::{
    capture_body::UploadCapture,
    change::{Change, End},
};
pub(crate) use self::{
    config::Config,
    deletions::{Deleted, Deletion, Deletions},
    policy::Policy,
    session_seal::{KeyError, Seal},
};
use crate::{
    auth::Grants,
    cache::{BlobCache, Lists, ManifestCache},
    error::Error,
    oci::{Digest, Operation, Repository, Tag, query},
    route::Write,
    upstream::{UploadBody, Upstream, WriteResponse},
};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A client's request for a change.
#[derive(Clone, Copy)]
pub(crate) struct Push<'a> {
    pub write: &'a Write,
    /// As the client sent it.
    pub head: &'a Parts,
    pub upstream: &'a Upstream,
    /// As the upstream spells it.
    pub repository: &'a Repository,
    /// The value of `ns=`, which the URLs in the response repeat.
    pub namespace: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
}

/// All that forebay caches of upstreams and that a change may affect. Cheap handles.
#[derive(Clone)]
pub(crate) struct Caches {
    pub manifests: ManifestCache,
    pub lists: Lists,
    pub blobs: BlobCache,
    pub deletions: Deletions,
    pub grants: Grants,
}

/// Forwards the change and returns the upstream's response; its `location` leads the client to forebay again.
///
/// # Errors
/// The request is not valid, forebay could not send it to the upstream, or the upstream requests credentials from the
/// client.
pub(crate) async fn forward(
    push: Push<'_>,
    content: Option<UploadBody>,
    seal: &Seal,
    caches: &Caches,
) -> Result<WriteResponse, Error> {
    let (request, capture) = request::of(push, seal)?;
    let capture = UploadCapture::of(push, capture, caches.blobs.captures());
    let content = content.map(|content| capture.observe(content));
    let change = Change::of(push, caches);
    let mut response = match push.upstream.write(request, content).await {
        Ok(response) => response,
        Err(error) => {
            // The upstream may have made the change all the same, if forebay sent the request.
            let was_sent = error.kind.is_outage() && !error.is_before_sending();
            change.end(if was_sent { End::Unknown } else { End::NotMade }).await;
            return Err(Error::of_upstream(Operation::Push, error));
        }
    };
    // An object that is already deleted is forgotten as well: the response to an earlier deletion may have been lost.
    let is_gone = push.head.method == Method::DELETE && response.is_not_found();
    let end = match response.is_success() {
        true => End::Made { created: response.is_created(), digest: pushed_digest(&response) },
        false if is_gone => End::Missing,
        false => End::NotMade,
    };
    change.end(end).await;
    let capture = capture.end(push, &response, caches.blobs.captures()).await;
    response.location = location::of(push, &response, seal, capture);
    Ok(response)
}

/// The digest that the upstream gives what was pushed.
fn pushed_digest(response: &WriteResponse) -> Option<Digest> {
    response.headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// The tags that a manifest gets in addition to the reference in the path.
pub(crate) fn tags(uri: &Uri) -> Vec<Tag> {
    query::pairs_of(uri).filter(|(key, _)| key == "tag").filter_map(|(_, tag)| tag.parse().ok()).collect()
}

/// The digest of the blob that a request creates: of the upload that it ends, or of the blob that it mounts.
fn created_by(uri: &Uri) -> Option<Digest> {
    query::pairs_of(uri).find_map(|(key, value)| matches!(&*key, "digest" | "mount").then(|| value.parse().ok())?)
}
