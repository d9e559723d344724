//! `DELETE /api/v1/images`: removes images from the cache.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

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
        removal::{RemovalError, RemovalStep, Removed},
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
    let parameters = Parameters::parse(query, &["match", "upstream", "older_than", "dry_run"])?;
    let is_dry = parameters.flag("dry_run")?;
    let upstream = parameters.value("upstream", named)?;
    let used_before = parameters.duration("older_than")?.map(before_now);
    let pattern = parameters.value("match", |text| Pattern::typed_in_full(text, is_upstream))?;
    let Some((pattern, text)) = pattern else {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "match must be given: which images are removed"));
    };
    let wanted = move |name: &ImageName, used: Option<SystemTime>| {
        let is_old = used_before.is_none_or(|limit| used.is_some_and(|used| used < limit));
        is_old && upstream.as_ref().is_none_or(|upstream| *name.upstream == **upstream) && matches(&pattern, name)
    };
    let planned = removal.plan(wanted).await.map_err(refused)?;
    let RemovalPlan { images, kept, objects, bytes } = &planned.plan;
    let pinned: Vec<Event> = kept.iter().map(|name| image(name, "pinned")).collect();
    if is_dry {
        let told: Vec<Event> = images.iter().map(|name| image(name, "would_remove")).chain(pinned).collect();
        return Ok(events(stream::iter(told).chain(stream::iter([done((&planned.plan).into(), true)]))));
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
        RemovalStep::Pinned(name) => image(&name, "pinned"),
        RemovalStep::Objects(removed) => Event { name: "progress", data: json!({ "objects": removed, "of": total }) },
        RemovalStep::Done(removed) => done(removed, false),
    });
    Ok(events(stream::iter(pinned).chain(told)))
}

fn named(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) }
}

/// The time that was so long ago; of what was never, the begin of 1970.
fn before_now(duration: Duration) -> SystemTime {
    SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn done(removed: Removed, is_dry: bool) -> Event {
    let Removed { images, pinned, objects, bytes } = removed;
    let data = json!({ "images": images, "pinned": pinned, "objects": objects, "bytes": bytes, "dry_run": is_dry });
    Event { name: "done", data }
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
