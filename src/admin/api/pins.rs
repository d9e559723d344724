//! `GET /api/v1/pins`, `POST /api/v1/images/pin` and `POST /api/v1/images/unpin`: which images are never evicted.

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    access::Caller,
    response::{ApiBody, ApiError, json as document},
    turns::Turn,
    upstreams::time,
};
use crate::{
    cache::{
        Pins, Visibility,
        inventory::{ImageName, Selection},
        pins::{Pin, PinError, Pinned, PinnedBytes},
    },
    error_chain::ErrorChain,
};

/// How many images are named in an answer.
const MAX_NAMES: usize = 1000;

/// Which images are pinned, and for how long.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinRequest {
    #[serde(rename = "match")]
    pattern: String,
    /// Such as `30d`.
    #[serde(rename = "for")]
    duration: Option<String>,
}

/// Which pin is removed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnpinRequest {
    #[serde(rename = "match")]
    pattern: String,
}

/// The pins, but none that names an image of an upstream that `is_hidden`.
pub(super) async fn list(
    pins: &Pins,
    is_hidden: impl Fn(&str) -> bool,
    turn: Turn,
) -> Result<Response<ApiBody>, ApiError> {
    let PinnedBytes { kept, not_kept, most } = pins.bytes();
    let mut shown = pins.list();
    shown.retain(|pin| !pin.text.split_once('/').is_some_and(|(upstream, _)| is_hidden(upstream)));
    turn.document(move || {
        serde_json::to_string(&json!({
            "pins": shown.iter().map(pin_of).collect::<Vec<_>>(),
            "pinned_bytes": kept,
            "pinned_and_not_kept_bytes": not_kept,
            "max_pinned_bytes": most,
        }))
    })
    .await
}

pub(super) async fn pin(
    pins: &Pins,
    request: PinRequest,
    caller: Caller,
    is_upstream: impl Fn(&str) -> bool,
) -> Result<Response<ApiBody>, ApiError> {
    let until = request.duration.as_deref().map(end_of).transpose()?;
    let pinned = pins.pin(&request.pattern, until, is_upstream).await.map_err(refused)?;
    let Pinned { pin, selection, total, most } = &pinned;
    let (caller, images) = (caller.as_str(), selection.images.len());
    tracing::info!(caller, pin = pin.text, until = pin.end().map(time), images, "an operator pinned images");
    let mut answer = pin_of(pin);
    if let Some(fields) = answer.as_object_mut() {
        fields.extend(selected(selection));
        fields.insert("pinned_bytes".to_owned(), json!(total));
        fields.insert("max_pinned_bytes".to_owned(), json!(most));
    }
    Ok(document(&answer))
}

pub(super) async fn unpin(
    pins: &Pins,
    request: UnpinRequest,
    caller: Caller,
    is_upstream: impl Fn(&str) -> bool,
) -> Result<Response<ApiBody>, ApiError> {
    let pin = pins.unpin(&request.pattern, is_upstream).await.map_err(refused)?;
    tracing::info!(caller = caller.as_str(), pin = pin.text, "an operator unpinned images");
    let mut answer = pin_of(&pin);
    // Another pin may be about the same image.
    let name = ImageName::parse(Visibility::Shared, &pin.text).ok();
    answer["still_pinned_by"] = json!(name.map(|name| pins.pins_of(&name)).unwrap_or_default());
    Ok(document(&answer))
}

/// When something ends that begins now.
fn end_of(duration: &str) -> Result<SystemTime, ApiError> {
    let wrong = || ApiError::new(StatusCode::BAD_REQUEST, "for: write a duration such as 12h or 30d");
    let duration = humantime::parse_duration(duration).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)?;
    let end = SystemTime::now().checked_add(duration.max(Duration::from_secs(1)));
    // Files have ends up to the year 2106.
    end.filter(|end| *end < SystemTime::UNIX_EPOCH + Duration::from_secs(u32::MAX.into())).ok_or_else(wrong)
}

/// The status of an answer that pins nothing.
pub(super) fn status_of(error: &PinError) -> StatusCode {
    match error {
        PinError::Pattern(_) => StatusCode::BAD_REQUEST,
        PinError::Unknown(_) => StatusCode::NOT_FOUND,
        PinError::NoDirectory
        | PinError::TooMany
        | PinError::TooManyObjects
        | PinError::TooMuch { .. }
        | PinError::Gone => StatusCode::CONFLICT,
        PinError::Reading => StatusCode::SERVICE_UNAVAILABLE,
        PinError::Write(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(error: PinError) -> ApiError {
    let status = status_of(&error);
    let field = if status == StatusCode::BAD_REQUEST { "match: " } else { "" };
    ApiError::new(status, format!("{field}{}", ErrorChain(&error)))
}

fn pin_of(pin: &Pin) -> Value {
    let (until, by_operator) = (pin.end().map(time), pin.own.is_some());
    json!({ "match": pin.text, "until": until, "by_operator": by_operator, "imported": pin.is_imported })
}

fn selected(selection: &Selection) -> [(String, Value); 3] {
    let Selection { images, bytes, .. } = selection;
    let mut names: Vec<String> = images.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names.truncate(MAX_NAMES);
    [("bytes", json!(bytes)), ("images", json!(images.len())), ("names", json!(names))]
        .map(|(name, value)| (name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_duration_from_now() {
        for (text, is_good) in [
            ("30d", true),
            ("1ns", true),
            ("12h", true),
            ("", false),
            ("0s", false),
            ("30", false),
            ("200years", false),
        ] {
            assert_eq!(end_of(text).is_ok(), is_good, "{text}");
        }
    }
}
