//! `POST /api/v1/import`: the images of an archive come into the cache.
//!
//! What must hold: a client learns why its archive is refused also while it is still sending it.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use super::{
    image_name::named_image,
    parameters::Parameters,
    pins,
    response::{ApiBody, ApiError, error, json as document},
};
use crate::{
    cache::{
        Imports, Visibility,
        import::{ImportError, ImportTarget, Imported},
        inventory::ImageName,
    },
    oci::{Digest, Reference, layout::LayoutImage},
    transport::BoxError,
    upstream::Upstream,
};

/// How long a client may send nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the rest of an archive is read that was refused: a client that sends reads the response only if the connection
/// stays.
const REST_TIMEOUT: Duration = Duration::from_secs(10);
/// How many images an archive may have.
const MAX_IMAGES: usize = 500;

/// Reads the archive in a body, and answers once its images have names.
pub(super) async fn import(
    imports: &Imports,
    (query, headers, mut body): (Option<&str>, &HeaderMap, Incoming),
    upstreams: &[Upstream],
) -> Response<ApiBody> {
    match receive(imports, (query, headers, &mut body), upstreams).await {
        Ok(images) => {
            let image = |Imported { name, digest, bytes }: &Imported| json!({ "name": name, "digest": digest.as_str(), "bytes": bytes });
            document(&json!({ "images": images.iter().map(image).collect::<Vec<_>>() }))
        }
        Err(refused) => refuse(&refused, body),
    }
}

async fn receive(
    imports: &Imports,
    (query, headers, body): (Option<&str>, &HeaderMap, &mut Incoming),
    upstreams: &[Upstream],
) -> Result<Vec<Imported>, ApiError> {
    let parameters = Parameters::parse(query, &["as"])?;
    let name = parameters.text("as").map(|name| named_image(name, upstreams)).transpose()?;
    if let Some((_, upstream)) = &name {
        check_access(upstream)?;
    }
    let len = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let mut import = imports.begin(len)?;
    let mut images = None;
    loop {
        let frame = timeout(IDLE_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the archive did not go on"))?;
        let Some(frame) = frame else { break };
        let broken = |_| ApiError::new(StatusCode::BAD_REQUEST, "the archive broke off");
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        import.push(bytes).await?;
        if images.is_none()
            && let Some(found) = import.images()
        {
            // Before the rest is read, if the index comes first.
            images = Some(targets(found, name.as_ref(), upstreams)?);
        }
    }
    // Without an index, the end says so.
    Ok(import.finish(images.unwrap_or_default()).await?)
}

/// The names of the images of an archive.
fn targets(
    images: &[LayoutImage],
    name: Option<&(ImageName, &Upstream)>,
    upstreams: &[Upstream],
) -> Result<Vec<ImportTarget>, ApiError> {
    if images.is_empty() || images.len() > MAX_IMAGES {
        return Err(bad(format!("the archive names {} images; there may be 1 to {MAX_IMAGES}", images.len())));
    }
    let mut digests: HashMap<String, Digest> = HashMap::new();
    let mut targets = Vec::new();
    for image in images {
        let (name, upstream) = match (name, &image.name) {
            (Some((name, upstream)), _) => (name.clone(), *upstream),
            // A tag alone says nothing of the repository.
            (None, Some(whole)) if whole.contains('/') => named_image(whole, upstreams)?,
            (None, other) => {
                let found = other.as_ref().map(|tag| format!(", but the tag {tag:?}")).unwrap_or_default();
                let found: String = found.chars().take(200).collect();
                return Err(bad(format!("the archive has no whole name of its image{found}: give it one with --as")));
            }
        };
        check_access(upstream)?;
        let digest = &image.manifest.digest;
        if let Reference::Digest(named) = &name.reference
            && named != digest
        {
            return Err(bad(format!("{name} is named by another digest than its content, {digest}")));
        }
        match digests.insert(name.to_string(), digest.clone()) {
            Some(other) if other == *digest => continue,
            Some(_) => {
                return Err(bad(format!(
                    "the archive has several images that would be {name}: copy the one that you want"
                )));
            }
            None => {}
        }
        targets.push(ImportTarget { image: image.clone(), name, upstream: upstream.clone() });
    }
    Ok(targets)
}

/// What clients are granted by their registry alone is not served without it.
fn check_access(upstream: &Upstream) -> Result<(), ApiError> {
    match Visibility::of(upstream) {
        Visibility::Shared => Ok(()),
        Visibility::PerClient => Err(bad(format!(
            "{} has access = \"client\": its clients are asked for by the registry itself, so nothing is imported for it",
            upstream.name()
        ))),
    }
}

fn bad(why: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, why)
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        let status = match &error {
            ImportError::Busy | ImportError::Removal => StatusCode::TOO_MANY_REQUESTS,
            ImportError::TooLarge { .. } | ImportError::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
            ImportError::NotPinned(error) => pins::status_of(error),
            ImportError::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
            ImportError::End => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let why = crate::error_chain::ErrorChain(&error).to_string();
        Self::new(status, why)
    }
}

/// The response to an archive that is refused, which stays open while the client sends the rest.
pub(super) fn refuse(refused: &ApiError, mut body: Incoming) -> Response<ApiBody> {
    let response = error(refused);
    let (head, content) = response.into_parts();
    let rest = async move {
        let read = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = timeout(REST_TIMEOUT, read).await;
        None
    };
    let frames = stream::once(async move { content.collect().await.ok().map(|content| content.to_bytes()) });
    let frames = frames.chain(stream::once(rest)).filter_map(async |bytes: Option<Bytes>| bytes);
    let body = StreamBody::new(frames.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)))).boxed_unsync();
    Response::from_parts(head, body)
}
