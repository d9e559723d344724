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
    upstream.pause();
    Ok(done(upstream))
}

/// Lets the upstream of this name get requests again.
pub(super) fn resume(upstreams: &[Upstream], name: &str) -> Result<Response<ApiBody>, ApiError> {
    let upstream = named(upstreams, name)?;
    upstream.resume();
    Ok(done(upstream))
}

fn done(upstream: &Upstream) -> Response<ApiBody> {
    let data = json!({ "upstream": &**upstream.name(), "paused_since": upstream.paused_since().map(time) });
    events(stream::iter([Event { name: "done", data }]))
}
