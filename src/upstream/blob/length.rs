//! How long a blob is, as its upstream tells.
//!
//! What must hold: a HEAD answers as a GET would. What is called a page, or an encoding, is the blob only where it has the blob's
//! digest; so all of it is read where it is short enough to be held in memory, and else taken for what it seems, as by a GET.

use std::time::Duration;

use http::header;

use super::super::{
    BlobRange, ContentNotes, Upstream,
    client::{number, redirect_walk::Followed},
    digest,
    error::{Error, ErrorKind},
    request::{Ask, in_time},
    response,
};
use crate::oci::{Digest, Repository};

/// What the head of a blob says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// In bytes.
    pub len: Option<u64>,
    /// As the upstream claims.
    pub digest: Option<Digest>,
    /// For how long it was kept before it was given.
    pub resident_time: Duration,
    pub notes: ContentNotes,
}

impl BlobHead {
    fn of(followed: &Followed, len: Option<u64>) -> Self {
        let headers = followed.response.headers();
        Self { len, digest: digest(headers), resident_time: followed.resident_time(), notes: ContentNotes::of(headers) }
    }
}

impl Upstream {
    /// Asks how long a blob is: by a GET of its first byte, where a HEAD does not tell. To a client that pushes, a blob that the
    /// registry would have to fetch is not there: a 404 to the HEAD is final where pushes are taken.
    pub async fn head_blob(&self, repository: &Repository, digest: &Digest) -> Result<BlobHead, Error> {
        self.head_blob_of(repository, digest, self.allows_push()).await
    }

    /// The same for a client that wants the blob: it is there if a GET says so, whatever is said to a HEAD.
    pub async fn head_blob_to_get(&self, repository: &Repository, digest: &Digest) -> Result<BlobHead, Error> {
        self.head_blob_of(repository, digest, false).await
    }

    async fn head_blob_of(
        &self,
        repository: &Repository,
        digest: &Digest,
        is_404_final: bool,
    ) -> Result<BlobHead, Error> {
        // A proxy project of Harbor says 404 to the HEAD of a blob that it would fetch for a GET, an ingress to the HEAD of
        // anything; others know no HEAD.
        let is_final = |kind| kind == ErrorKind::NotFound && is_404_final;
        let is_empty = Digest::of(digest.algorithm(), b"") == *digest;
        // That it is not there, and that it has no first byte, is no matter of the Range.
        let is_of_the_blob = |kind| match kind {
            ErrorKind::NotFound => true,
            ErrorKind::RangeNotSatisfiable { total: Some(0) } => is_empty,
            _ => false,
        };
        // A page that names the digest is none.
        let is_doubtful = |followed: &Followed| {
            let headers = followed.response.headers();
            let is_page = response::is_html(headers) && self::digest(headers).as_ref() != Some(digest);
            is_page || response::is_encoded(headers)
        };
        let may_be_len = |len: &u64| *len > 0 || is_empty;
        let len_told = |followed: &Followed| {
            response::announced_len(followed).filter(|_| !is_doubtful(followed)).filter(may_be_len)
        };
        let ask = |method, range| self.asked(Ask { any_type: true, ..Ask::blob(method, repository, digest, range) });
        let head = &ask(http::Method::HEAD, BlobRange::default())?;
        let first_byte = &ask(http::Method::GET, BlobRange { first: 0, last: Some(0) })?;
        let whole = &ask(http::Method::GET, BlobRange::default())?;
        let told = self
            .shared
            .each_endpoint(head.is_quiet(), |endpoint| async move {
                let by_whole = async {
                    let (followed, front) = self.shared.ask_judged(&endpoint, whole, digest).await?;
                    // What is not judged is left where it is.
                    match front {
                        Some(front) => {
                            let told = BlobHead::of(&followed, front.len);
                            let proven = front.is_whole.then(|| digest.clone());
                            Ok(BlobHead { digest: proven.or(told.digest), ..told })
                        }
                        None => {
                            let len = match followed.is_part() {
                                true => response::announced_len(&followed),
                                false => number(followed.response.headers(), &header::CONTENT_LENGTH),
                            };
                            Ok(BlobHead::of(&followed, len.filter(may_be_len)))
                        }
                    }
                };
                let by_get = async {
                    match self.shared.ask(&endpoint, first_byte).await {
                        // A part does not tell the whole, and an encoding not the content.
                        Ok(part) if (part.is_part() || is_doubtful(&part)) && len_told(&part).is_none() => {}
                        Err(error) if error.may_be_of_the_range() && !is_of_the_blob(error.kind) => {}
                        answer => return answer.map(|told| BlobHead::of(&told, len_told(&told))),
                    }
                    by_whole.await
                };
                let asking = async {
                    match self.shared.ask(&endpoint, head).await {
                        Err(error)
                            if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unsupported)
                                && !is_final(error.kind) =>
                        {
                            by_get.await
                        }
                        Ok(head) if is_doubtful(&head) => by_get.await,
                        // It is there, whether or not its length can be had in another way.
                        Ok(head) if len_told(&head).is_none() => match by_get.await {
                            Err(error) if error.kind.is_outage() => Ok(BlobHead::of(&head, None)),
                            answer => answer,
                        },
                        answer => answer.map(|told| BlobHead::of(&told, len_told(&told))),
                    }
                };
                match in_time(&endpoint, asking).await {
                    // The one blob that has no first byte.
                    Err(error) if is_empty && error.kind == (ErrorKind::RangeNotSatisfiable { total: Some(0) }) => {
                        Ok(BlobHead {
                            len: Some(0),
                            digest: None,
                            resident_time: Duration::ZERO,
                            notes: ContentNotes::default(),
                        })
                    }
                    answer => answer,
                }
            })
            .await?;
        Ok(BlobHead { notes: self.shared.without_private(told.notes, &head.scope).await, ..told })
    }
}
