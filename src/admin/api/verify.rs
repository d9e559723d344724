//! `POST /api/v1/images/verify`: reads what is stored of images again.

use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    access::Caller,
    events::{Event, events},
    response::{ApiBody, ApiError},
};
use crate::{
    cache::{
        inventory::ImageName,
        verify::{Damage, ImageVerification, Sums, VerifyError, VerifyStep},
    },
    metrics::Label as _,
    rule::{Pattern, Subject},
};

/// Which images are verified; all that is in the cache without a pattern.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyRequest {
    #[serde(rename = "match")]
    pattern: Option<String>,
}

pub(super) async fn verify(
    verification: &ImageVerification,
    request: VerifyRequest,
    caller: Caller,
    is_upstream: impl Fn(&str) -> bool,
) -> Result<Response<ApiBody>, ApiError> {
    let pattern = request.pattern.as_deref().map(|text| Pattern::typed_in_full(text, is_upstream)).transpose();
    let pattern = pattern.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("match: {error}")))?;
    let text = pattern.as_ref().map(|(_, text)| text.clone());
    let wanted = pattern.map(|(pattern, _)| {
        move |name: &ImageName| pattern.matches(&Subject::reference(&name.upstream, &name.repository, &name.reference))
    });
    let steps = verification.begin(wanted).await.map_err(refused)?;
    tracing::info!(caller = caller.as_str(), pattern = text, "an operator has the cache verified");
    let steps = stream::unfold(steps, |mut steps| async move { Some((steps.recv().await?, steps)) });
    Ok(events(steps.map(|step| event(&step))))
}

fn event(step: &VerifyStep) -> Event {
    match step {
        VerifyStep::Progress(sums) => Event { name: "progress", data: sums_of(*sums) },
        VerifyStep::Image { name, damages, unreadable } => {
            let result = match (damages.is_empty(), *unreadable) {
                (false, _) => "damaged",
                (true, 0) => "ok",
                (true, _) => "unreadable",
            };
            let damages: Vec<Value> = damages.iter().map(damage).collect();
            Event { name: "image", data: json!({ "name": name.to_string(), "result": result, "damaged": damages }) }
        }
        VerifyStep::Damaged(found) => {
            let name = found.images.first().map(ToString::to_string);
            Event { name: "image", data: json!({ "name": name, "result": "damaged", "damaged": [damage(found)] }) }
        }
        VerifyStep::Done(sums) => Event { name: "done", data: sums_of(*sums) },
    }
}

fn sums_of(sums: Sums) -> Value {
    let Sums { objects, bytes, total_bytes, damaged, unreadable } = sums;
    json!({
        "objects": objects, "bytes": bytes, "total_bytes": total_bytes, "damaged": damaged, "unreadable": unreadable,
    })
}

fn damage(damage: &Damage) -> Value {
    let Damage { kind, digest, images } = damage;
    json!({
        "kind": kind.as_str(),
        "digest": digest.as_str(),
        "images": images.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn refused(error: VerifyError) -> ApiError {
    let status = match error {
        VerifyError::Busy => StatusCode::TOO_MANY_REQUESTS,
        VerifyError::Reading => StatusCode::SERVICE_UNAVAILABLE,
        VerifyError::TooMuch => StatusCode::CONFLICT,
    };
    ApiError::new(status, error.to_string())
}
