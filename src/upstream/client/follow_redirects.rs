//! Follows redirects to the final response.
//!
//! The rules of each step are [`redirect`]'s. Credentials that were dropped at a change of origin are not sent again,
//! wherever later redirects lead.
//!
//! [`redirect`]: super::redirect

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::Instant;

use super::{
    super::{
        error::{Error, ErrorKind},
        head,
        mirrors::Mirrors,
        redacted_url::RedactedUrl,
    },
    Sender,
    body::discard,
    late_response::received_at,
    outbound_request::{FIRST_BYTE, OutboundRequest},
    redirect,
};
use crate::oci::{ContentRange, Operation};

/// The response after all redirects.
pub(in crate::upstream) struct FinalResponse {
    pub response: Response,
    /// The URL that it came from.
    pub url: Url,
    /// Whether a redirect left the origin of the first URL.
    pub is_other_origin: bool,
    /// How the first URL responded.
    pub origin: OriginResponse,
    /// When the oldest response of the chain arrived, if it was kept since.
    oldest_received: Option<Instant>,
    /// How many redirects were followed.
    redirects: usize,
}

/// What the first response of a redirect chain says about the endpoint.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct OriginResponse {
    pub status: StatusCode,
    pub by_mirror: bool,
}

impl OriginResponse {
    fn of(response: &Response) -> Self {
        Self { status: response.status(), by_mirror: Mirrors::in_headers(response.headers()).is_some() }
    }
}

impl FinalResponse {
    /// The response of a peer or of the store, which redirect nowhere.
    pub(in crate::upstream) fn direct(response: Response, url: Url) -> Self {
        let origin = OriginResponse::of(&response);
        Self { response, url, is_other_origin: false, origin, oldest_received: None, redirects: 0 }
    }

    /// How long the response was kept before it was used (RFC 9111 section 4.2.3).
    pub(crate) fn resident_time(&self) -> Duration {
        self.oldest_received.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether it is a part of the content (206).
    pub(crate) fn is_part(&self) -> bool {
        self.response.status() == StatusCode::PARTIAL_CONTENT
    }

    /// Whether it is a 401 of the upstream itself. A 401 of another origin is no challenge to forebay.
    pub(crate) fn is_challenge(&self) -> bool {
        self.response.status() == StatusCode::UNAUTHORIZED && !self.is_other_origin
    }

    /// The length of the content, by the response to a HEAD, or to the GET of one byte in its place. The length of an
    /// encoding is not that of the content.
    pub(crate) fn announced_len(&self) -> Option<u64> {
        let headers = self.response.headers();
        if head::is_encoded(headers) {
            return None;
        }
        match self.response.status() {
            StatusCode::PARTIAL_CONTENT => ContentRange::parse(headers.get(header::CONTENT_RANGE)?).ok()?.total,
            _ => head::content_length(headers),
        }
    }

    /// How long ago the content was confirmed. Only a forebay's `Age` counts: other caches, such as a CDN, count from
    /// when they fetched what a registry calls immutable.
    pub(crate) fn age(&self) -> Duration {
        let headers = self.response.headers();
        let is_mirrors = !self.is_other_origin && Mirrors::in_headers(headers).is_some();
        let age = if is_mirrors { head::age(headers) } else { None };
        age.unwrap_or_default() + self.resident_time()
    }
}

/// One request of a redirect chain.
pub(in crate::upstream) struct Step {
    pub url: Url,
    pub redirects: usize,
    pub headers: HeaderMap,
}

/// Sends a request by `send`, and again to each URL that it is redirected to.
pub(in crate::upstream) async fn follow<F>(
    method: &Method,
    start: &Url,
    mut headers: HeaderMap,
    send: impl Fn(Step) -> F,
) -> Result<FinalResponse, Error>
where
    F: Future<Output = Result<Response, Error>>,
{
    let mut url = start.clone();
    let mut is_other_origin = false;
    let (mut origin, mut oldest_received) = (None, None);
    for redirects in 0..=redirect::MAX_REDIRECTS {
        let step = Step { url: url.clone(), redirects, headers: headers.clone() };
        let response = Box::pin(send(step)).await?;
        let origin = *origin.get_or_insert_with(|| OriginResponse::of(&response));
        oldest_received = received_at(&response).into_iter().chain(oldest_received).min();
        let status = response.status();
        if !redirect::is_redirect(status) {
            return Ok(FinalResponse { response, url, is_other_origin, origin, oldest_received, redirects });
        }
        if !redirect::keeps_method(method, status) {
            let why = format!("{} answers a {method} with the redirect {status}", RedactedUrl(&url));
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        let next = redirect::target(&url, response.headers())?;
        tracing::debug!(status = status.as_u16(), from = url.host_str(), host = next.host_str(), "redirect");
        discard(response).await;
        if !redirect::same_origin(&url, &next) {
            headers.remove(header::AUTHORIZATION);
            is_other_origin = true;
        }
        url = next;
    }
    let why = format!("{} redirects more than {} times in a row", RedactedUrl(start), redirect::MAX_REDIRECTS);
    Err(Error::new(ErrorKind::Protocol, why))
}

/// Sends a GET or a HEAD, and follows its redirects.
pub(in crate::upstream) async fn send_and_follow(
    sender: &Sender,
    request: OutboundRequest<'_>,
) -> Result<FinalResponse, Error> {
    let (start, request) = (&request.url, &request);
    let send = |Step { url, redirects, headers }| {
        sender.send(OutboundRequest { url, start: start.clone(), redirects, headers, ..request.clone() })
    };
    let followed = follow(&request.method, start, request.headers.clone(), send).await?;
    if request.operation == Operation::Blob && is_refused_head(&request.method, &followed) {
        return Box::pin(get_first_byte(sender, request, followed)).await;
    }
    Ok(followed)
}

/// Whether a HEAD was redirected to a URL that is signed for GET alone.
fn is_refused_head(method: &Method, followed: &FinalResponse) -> bool {
    *method == Method::HEAD
        && followed.is_other_origin
        && matches!(
            followed.response.status(),
            StatusCode::BAD_REQUEST
                | StatusCode::FORBIDDEN
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED
        )
}

/// Sends a GET of the first byte in place of the HEAD: the response tells the length, and costs no transfer. Only for
/// blobs: the GET of a manifest counts as a pull.
async fn get_first_byte(
    sender: &Sender,
    request: &OutboundRequest<'_>,
    refused: FinalResponse,
) -> Result<FinalResponse, Error> {
    let get = |range: Option<HeaderValue>| {
        let mut headers = request.headers.clone();
        headers.remove(header::RANGE);
        headers.extend(range.map(|range| (header::RANGE, range)));
        // No request to another origin has the client's credentials.
        headers.remove(header::AUTHORIZATION);
        let (url, start, redirects) = (refused.url.clone(), request.url.clone(), refused.redirects);
        sender.send(OutboundRequest { method: Method::GET, url, start, redirects, headers, ..request.clone() })
    };
    match get(Some(HeaderValue::from_static(FIRST_BYTE))).await {
        Ok(response) if head::is_content(response.headers()) && tells_length(&response) => {
            return Ok(FinalResponse { response, ..refused });
        }
        Err(error) if !error.may_be_due_to_range() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    // The server may reject any Range. The body is not read.
    let response = get(None).await?;
    Ok(FinalResponse { response, ..refused })
}

/// Whether the response to the GET of the first byte tells the length, or why there is none.
fn tells_length(response: &Response) -> bool {
    let content_range =
        |is_told: fn(&HeaderValue) -> bool| response.headers().get(header::CONTENT_RANGE).is_some_and(is_told);
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            content_range(|value| ContentRange::parse(value).is_ok_and(|part| part.total.is_some()))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => content_range(|value| ContentRange::parse_unsatisfied(value) == Some(0)),
        StatusCode::OK | StatusCode::NOT_FOUND => true,
        _ => false,
    }
}
