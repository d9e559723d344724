//! `DELETE /api/v1/images`: removes images from the cache.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use serde_json::json;

use super::{
    access::Caller,
    events::{Event, events},
    parameters::Parameters,
    response::{ApiBody, ApiError},
};
use crate::{
    cache::{
        Removal,
        inventory::{ImageName, RemovalPlan},
        removal::{RemovalError, RemovalStep},
    },
    rule::{Pattern, Subject},
    upstream::Upstream,
};

/// Removes what the query names, or tells what would be removed.
pub(super) async fn remove(
    removal: &Removal,
    query: Option<&str>,
    upstreams: Arc<Vec<Upstream>>,
    caller: Caller,
    is_upstream: impl Fn(&str) -> bool,
) -> Result<Response<ApiBody>, ApiError> {
    let parameters = Parameters::parse(query, &["match", "dry_run"])?;
    let is_dry = parameters.flag("dry_run")?;
    let pattern = parameters.value("match", |text| Pattern::typed_in_full(text, is_upstream))?;
    let Some((pattern, text)) = pattern else {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "match must be given: which images are removed"));
    };
    let planned = removal.plan(move |name| matches(&pattern, name)).await.map_err(refused)?;
    let RemovalPlan { images, kept, objects, bytes } = &planned.plan;
    let pinned: Vec<Event> = kept.iter().map(|name| image(name, "pinned")).collect();
    let done = Event {
        name: "done",
        data: json!({
            "images": images.len(), "pinned": kept.len(), "objects": objects.len(), "bytes": bytes, "dry_run": is_dry,
        }),
    };
    if is_dry {
        let told: Vec<Event> = images.iter().map(|name| image(name, "would_remove")).chain(pinned).collect();
        return Ok(events(stream::iter(told).chain(stream::iter([done]))));
    }
    let (caller, count) = (caller.as_str(), images.len());
    tracing::info!(
        caller,
        images = count,
        objects = objects.len(),
        bytes,
        pattern = text,
        "an operator removed images"
    );
    let total = objects.len();
    let steps =
        stream::unfold(removal.run(planned, upstreams), |mut steps| async move { Some((steps.recv().await?, steps)) });
    let told = steps.map(move |step| match step {
        RemovalStep::Image(name) => image(&name, "removed"),
        RemovalStep::Objects(removed) => Event { name: "progress", data: json!({ "objects": removed, "of": total }) },
        RemovalStep::Done => done.clone(),
    });
    Ok(events(stream::iter(pinned).chain(told)))
}

fn matches(pattern: &Pattern, name: &ImageName) -> bool {
    pattern.matches(&Subject::reference(&name.upstream, &name.repository, &name.reference))
}

fn image(name: &ImageName, result: &str) -> Event {
    Event { name: "image", data: json!({ "name": name.to_string(), "result": result }) }
}

fn refused(error: RemovalError) -> ApiError {
    let status = match error {
        RemovalError::Busy => StatusCode::TOO_MANY_REQUESTS,
        RemovalError::Reading => StatusCode::SERVICE_UNAVAILABLE,
    };
    ApiError::new(status, error.to_string())
}
