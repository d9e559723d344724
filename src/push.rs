//! What changes something is passed on to the upstream: uploads, manifests, deletions.
//!
//! In the order of a request: who may (`permit`); what the upstream is asked (`outbound`), with the client's body as
//! a stream; what its answer means for what is cached here; the answer as the client has to read it (`location`).
//! Where an upload goes on is in its URL, sealed ([`Seal`]): nothing that it needs is remembered here, so that it goes on
//! after a restart, and at another instance with the same key.
//!
//! What is sent as a blob is kept beside being passed on (`tee`), as far as that costs the push nothing: whoever pulls it
//! next finds it here. Only what the upstream has taken, and what has the digest that it was named by, is.

mod capture;
mod change;
mod config;
mod deletions;
mod location;
mod permit;
mod request;
mod session;
mod session_seal;

use http::{HeaderMap, Method, Uri};

use self::{
    capture::UploadCapture,
    change::{Change, End},
};
pub(crate) use self::{
    config::Config,
    deletions::{Deleted, Deletion, Deletions},
    permit::Terms,
    session_seal::{KeyError, Seal},
};
use crate::{
    auth::Grants,
    cache::{BlobCache, Lists, ManifestCache},
    error::Error,
    oci::{Digest, Operation, Repository, Tag},
    route::Write,
    upstream::{UploadBody, Upstream, WriteResponse},
};

/// A change that a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Push<'a> {
    pub write: &'a Write,
    pub method: &'a Method,
    /// As the client sent it.
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// The upstream's.
    pub repository: &'a Repository,
    /// `ns=`, which has to be said again where the client is led.
    pub namespace: Option<&'a str>,
}

/// What has to know of a change, or of what it brings.
#[derive(Clone, Copy)]
pub(crate) struct Caches<'a> {
    pub manifests: &'a ManifestCache,
    pub lists: &'a Lists,
    pub gone: &'a Deletions,
    pub proofs: &'a Grants,
    pub blobs: &'a BlobCache,
}

/// The upstream's answer; `location` is as the client has to ask us.
///
/// # Errors
/// The upstream could not be asked, or challenges its client; and the upstream's own error.
pub(crate) async fn pass(
    push: Push<'_>,
    content: Option<UploadBody>,
    upstream: &Upstream,
    seal: &Seal,
    caches: Caches<'_>,
) -> Result<WriteResponse, Error> {
    let (asked, kept) = request::of(push, upstream.name(), seal)?;
    let tap = UploadCapture::of(push, kept, content.is_some(), upstream, caches.blobs.captures());
    let content = content.map(|content| tap.put_on(content));
    let change = Change::of(push, upstream, caches);
    let mut written = match upstream.write(asked, content).await {
        Ok(written) => written,
        Err(error) => {
            // It may have been made all the same, if it was sent.
            let was_sent = error.kind.is_outage() && !error.is_before_sending();
            change.ended(if was_sent { End::Unknown } else { End::NotMade }).await;
            return Err(Error::of_upstream(Operation::Push, error));
        }
    };
    // What is not there any more is forgotten as well: an earlier answer to the same may have been lost.
    let is_gone = *push.method == Method::DELETE && written.is_not_found();
    let was_made = written.is_success() || is_gone;
    change.ended(if was_made { End::Made { created: written.is_created() } } else { End::NotMade }).await;
    let kept = tap.take_off(push, &written, upstream, caches.blobs.captures()).await;
    written.location = location::of(push, &written, upstream.name(), seal, kept);
    Ok(written)
}

/// The tags that a manifest is to have beside the reference in the path.
fn tags(uri: &Uri) -> Vec<Tag> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == "tag").filter_map(|(_, tag)| tag.parse().ok()).collect()
}

/// The digest of the blob that a request makes: of the content it ends, or of what it mounts.
fn created_by(uri: &Uri) -> Option<Digest> {
    let mut pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.find_map(|(key, value)| matches!(&*key, "digest" | "mount").then(|| value.parse().ok())?)
}
