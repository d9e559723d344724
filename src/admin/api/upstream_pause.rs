//! `POST /api/v1/upstreams/{name}/pause` and `…/resume`: whether an upstream gets requests.

use futures_util::stream;
use http::Response;
use serde_json::json;

use super::{
    events::{Event, events},
    response::{ApiBody, ApiError},
    upstreams::{named, time},
};
use crate::upstream::Upstream;

/// Pauses the upstream of this name. One that is paused stays so.
pub(super) fn pause(upstreams: &[Upstream], name: &str) -> Result<Response<ApiBody>, ApiError> {
    let upstream = named(upstreams, name)?;
    let was_paused = upstream.paused_since().is_some();
    upstream.pause();
    Ok(done(upstream, was_paused))
}

/// Lets the upstream of this name get requests again.
pub(super) fn resume(upstreams: &[Upstream], name: &str) -> Result<Response<ApiBody>, ApiError> {
    let upstream = named(upstreams, name)?;
    let was_paused = upstream.resume();
    Ok(done(upstream, was_paused))
}

fn done(upstream: &Upstream, was_paused: bool) -> Response<ApiBody> {
    let since = upstream.paused_since().map(time);
    let data = json!({ "upstream": &**upstream.name(), "paused_since": since, "was_paused": was_paused });
    events(stream::iter([Event { name: "done", data }]))
}
