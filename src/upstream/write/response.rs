//! The upstream's response to a change, as far as clients get it.

use http::{HeaderName, StatusCode, header};
use reqwest::{Response, Url};

use super::{
    super::{
        auth::scope::Scope,
        client::body::{discard, whole_body},
        endpoint::Endpoint,
        error::{Error, ErrorKind},
        redacted_url::RedactedUrl,
        response::{
            self,
            refusal::{Refusal, RefusalBody, RefusalLimits},
            warning::ContentNotes,
        },
        state::UpstreamState,
    },
    WriteResponse,
    upload_location::{path_of, target_of},
};

/// The longest body that is read, in bytes: errors with a line for each of some hundred blobs fit.
const MAX_BODY: usize = 1024 * 1024;

/// The headers that clients get; all others are between the upstream and forebay.
///
/// Source: OCI distribution specification v1.1, and the Docker registry API.
const PASSED_ON: [HeaderName; 11] = [
    header::RANGE,
    header::ETAG,
    header::RETRY_AFTER,
    header::ALLOW,
    HeaderName::from_static("docker-content-digest"),
    HeaderName::from_static("docker-upload-uuid"),
    HeaderName::from_static("oci-chunk-min-length"),
    HeaderName::from_static("oci-chunk-max-length"),
    HeaderName::from_static("oci-subject"),
    HeaderName::from_static("oci-tag"),
    HeaderName::from_static("oci-filters-applied"),
];

impl UpstreamState {
    pub(super) async fn write_response(
        &self,
        endpoint: &Endpoint,
        response: Response,
        url: &Url,
        scope: &Scope,
    ) -> Result<WriteResponse, Error> {
        let status = response.status();
        if let Some(kind) = error_kind(status) {
            return Err(write_error(kind, response, url).await);
        }
        let theirs = response.headers();
        let warnings = self.without_private(ContentNotes::of(theirs), scope).warnings;
        let headers = PASSED_ON
            .iter()
            .flat_map(|name| theirs.get_all(name).iter().map(|value| (name.clone(), value.clone())))
            .chain(warnings.into_iter().map(|warning| (header::WARNING, warning)))
            .collect();
        let location = match theirs.get(header::LOCATION) {
            // The path alone tells where new content is: no request is sent to the host.
            Some(location) if status == StatusCode::CREATED => path_of(url, location),
            Some(location) if status.is_success() => Some(target_of(endpoint.base(), url, location)?),
            Some(location) => target_of(endpoint.base(), url, location).ok(),
            None => None,
        };
        let body = whole_body(response, url, MAX_BODY).await.map_err(|error| match error.kind {
            ErrorKind::TooLarge => Error::new(ErrorKind::Protocol, error.to_string()),
            _ => error,
        })?;
        // The body of a success has no meaning.
        let reasons = match status.is_client_error() || status.is_server_error() {
            true => RefusalBody::parse_within(&body, RefusalLimits::PUSH).reasons,
            false => vec![],
        };
        let Refusal { reasons, .. } = self.refusal_for_clients(Refusal { status: status.as_u16(), reasons }, scope);
        Ok(WriteResponse { status, headers, location, reasons })
    }
}

/// The statuses that are errors of forebay's own request.
fn error_kind(status: StatusCode) -> Option<ErrorKind> {
    match status.as_u16() {
        401 => Some(ErrorKind::Unauthorized),
        // forebay's own proxy requires authentication.
        407 => Some(ErrorKind::Unavailable),
        508 => Some(ErrorKind::Loop),
        _ => None,
    }
}

async fn write_error(kind: ErrorKind, response: Response, url: &Url) -> Error {
    let status = response.status();
    let error = Error::new(kind, format!("{} answered {status}", RedactedUrl(url))).retry_after(response.headers());
    if status != StatusCode::UNAUTHORIZED {
        discard(response).await;
        return error;
    }
    let RefusalBody { reasons, .. } = RefusalBody::parse(&response::body_of_refusal(response, url).await);
    error.with_refusal(Refusal { status: status.as_u16(), reasons })
}
