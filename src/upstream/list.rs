//! Lists of an upstream: tags, repositories, referrers. They are forwarded as they are.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    Upstream,
    error::Error,
    read_request::{IsList, ReadRequest},
    response::{document::Document, warning::ContentNotes},
};
use crate::oci::{Accept, Operation, Repository};

/// The headers of a list that clients get.
const FORWARDED: [HeaderName; 3] = [header::CONTENT_TYPE, header::LINK, HeaderName::from_static("oci-filters-applied")];

/// A response that is forwarded as it is.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// Content-Type, Link, OCI-Filters-Applied, and warnings for clients.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How long the response was kept before it was used.
    pub resident_time: Duration,
}

impl Upstream {
    /// Requests a list. `path_and_query` follows `/v2/`, such as `library/nginx/tags/list?n=5`. The body has to be that
    /// list: if a proxy answers 200 with a page of its own, the next URL is tried.
    pub async fn forward(
        &self,
        operation: Operation,
        repository: Option<&Repository>,
        path_and_query: &str,
        accept: &Accept,
        is_list: IsList,
    ) -> Result<Forwarded, Error> {
        let request = &self.prepare(ReadRequest::list(operation, repository, path_and_query, accept, is_list))?;
        let Document { headers, body, resident_time, .. } = self.state.document(request).await?;
        let notes = self.state.without_private(ContentNotes::of(&headers), &request.scope);
        Ok(Forwarded { headers: forwarded(&headers, notes), body, resident_time })
    }
}

/// The headers for clients, copied: the whole head may be a thousand times as long, and the list is cached.
fn forwarded(theirs: &HeaderMap, notes: ContentNotes) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in FORWARDED {
        for value in theirs.get_all(&name) {
            kept.extend(HeaderValue::from_bytes(value.as_bytes()).ok().map(|value| (name.clone(), value)));
        }
    }
    for warning in notes.warnings {
        kept.append(header::WARNING, warning);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_headers_do_not_keep_the_whole_head() {
        let head = Bytes::from([&[b'j'; 300_000][..], b"</v2/a>; rel=\"next\""].concat());
        let link = HeaderValue::from_maybe_shared(head.slice(300_000..)).unwrap();
        let theirs = HeaderMap::from_iter([(header::LINK, link), (header::SERVER, HeaderValue::from_static("nginx"))]);
        let kept = forwarded(&theirs, ContentNotes::of(&theirs));
        assert_eq!((kept.len(), &kept[header::LINK]), (1, &theirs[header::LINK]));
        assert!(!head.as_ptr_range().contains(&kept[header::LINK].as_bytes().as_ptr()));
    }
}
