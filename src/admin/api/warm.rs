//! `POST /api/v1/warm`: fetches images into the cache, and tells what comes of each.
//!
//! What must hold: a run ends when the client leaves; few run at a time; the body is bounded.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    access::Caller,
    events::{Event, events},
    response::{ApiBody, ApiError},
    upstreams::time,
};
use crate::{
    metrics::Label as _,
    oci::Digest,
    units,
    warm::{
        ImageOutcome, JobReport, LastRun, MAX_IMAGES, MAX_RUNS, Platforms, Progress, WarmEvent, WarmRequest,
        WarmSummary, WarmedImage, Warmer,
    },
};

/// The longest body, in bytes: [`MAX_IMAGES`] names of 200 bytes.
pub(super) const MAX_BODY: usize = 2 * 1024 * 1024;
/// The longest pin: a longer one is a typing error.
const MAX_PIN: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How many events wait for the client; then the run waits.
const MAX_WAITING: usize = 64;

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    images: Vec<String>,
    #[serde(default)]
    platforms: Vec<String>,
    limit: Option<u32>,
    /// Such as `30d`.
    pin: Option<String>,
}

impl Wanted {
    fn request(self) -> Result<WarmRequest, ApiError> {
        let refuse = |why: String| ApiError::new(StatusCode::BAD_REQUEST, why);
        let Self { images, platforms, limit, pin } = self;
        if images.is_empty() || images.len() > MAX_IMAGES {
            return Err(refuse(format!("images: name at least one image, and at most {MAX_IMAGES}")));
        }
        let platforms = Platforms::parse(platforms.iter().map(String::as_str));
        let platforms = platforms.map_err(|error| refuse(format!("platforms: {error}")))?;
        let pin = pin.as_deref().map(duration).transpose().map_err(|why| refuse(why.to_owned()))?;
        Ok(WarmRequest { images, platforms, limit, pin })
    }
}

/// How long images are pinned.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| *duration <= MAX_PIN && !duration.is_zero());
    duration.ok_or("pin: write a duration such as 12h or 30d, at most 10 years")
}

/// Begins a run.
///
/// # Errors
/// The request makes no sense, or enough runs are under way.
pub(super) fn run(warmer: &Warmer, wanted: Wanted, caller: Caller) -> Result<Response<ApiBody>, ApiError> {
    let request = wanted.request()?;
    let Some(place) = warmer.place() else {
        let why = format!("{MAX_RUNS} warms are running; try again when one is done");
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why));
    };
    tracing::info!(by = caller.as_str(), images = request.images.len(), "an operator has images fetched");
    let (told, waiting) = mpsc::channel(MAX_WAITING);
    let warmer = warmer.clone();
    // Both are dropped with the response.
    let work = stream::once(async move {
        let _place = place;
        warmer.run(request, told).await;
    });
    let told = stream::unfold(waiting, async |mut waiting| waiting.recv().await.map(|event| (event, waiting)));
    let told = told.map(move |event| Some(told_as(event, caller)));
    Ok(events(stream::select(told, work.map(|()| None)).filter_map(async |event| event)))
}

fn told_as(event: WarmEvent, caller: Caller) -> Event {
    match event {
        WarmEvent::Progress(progress) => Event { name: "progress", data: progress_data(&progress) },
        WarmEvent::Image(image) => Event { name: "image", data: image_data(&image) },
        WarmEvent::Done(summary) => {
            let WarmSummary { fetched, cached, failed, fetched_bytes, pulls, .. } = summary;
            let by = caller.as_str();
            tracing::info!(by, fetched, cached, failed, fetched_bytes, pulls, "a warm is done");
            Event { name: "done", data: summary_data(&summary) }
        }
    }
}

fn progress_data(progress: &Progress) -> Value {
    let Progress { phase, images, done, failed, resolved, bytes, total, rate, left, pulls, current } = progress;
    let current =
        current.iter().map(|image| json!({ "image": image.image, "bytes": image.bytes, "total": image.total }));
    json!({
        "phase": phase.as_str(),
        "images": images,
        "resolved": resolved,
        "done": done,
        "failed": failed,
        "bytes": bytes,
        "total": total,
        "bytes_per_second": rate,
        "seconds_left": left.map(|left| left.as_secs()),
        "pulls": pulls,
        "current": current.collect::<Vec<_>>(),
    })
}

fn image_data(image: &WarmedImage) -> Value {
    let WarmedImage { image, outcome, digest, bytes, fetched_bytes } = image;
    let (failure, problem) = match outcome {
        ImageOutcome::Failed(failure) => (Some(failure.word), Some(&*failure.why)),
        ImageOutcome::Cached { is_stale: true } => {
            (None, Some("the upstream did not tell whether the tag still means this"))
        }
        ImageOutcome::Fetched | ImageOutcome::Cached { is_stale: false } => (None, None),
    };
    json!({
        "image": image,
        "outcome": outcome.result().as_str(),
        "digest": digest.as_ref().map(Digest::as_str),
        "bytes": bytes,
        "fetched_bytes": fetched_bytes,
        "failure": failure,
        "problem": problem,
    })
}

pub(super) fn summary_data(summary: &WarmSummary) -> Value {
    let WarmSummary { fetched, cached, failed, fetched_bytes, pulls, took, problem } = summary;
    json!({
        "fetched": fetched,
        "cached": cached,
        "failed": failed,
        "fetched_bytes": fetched_bytes,
        "pulls": pulls,
        "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
        "problem": problem,
    })
}

/// How the jobs of `[[warm]]` are.
pub(super) fn jobs_data(jobs: &[JobReport]) -> Value {
    jobs.iter().map(job_data).collect::<Vec<_>>().into()
}

fn job_data(job: &JobReport) -> Value {
    let JobReport { config, next, is_running, last } = job;
    let last = last.as_ref().map(|LastRun { began, summary, failures }| {
        let failures = failures.iter().map(|(image, why)| json!({ "image": image, "problem": why }));
        let mut data = summary_data(summary);
        data["began"] = time(*began).into();
        data["failures"] = failures.collect::<Vec<_>>().into();
        data
    });
    json!({
        "images": config.images.len(),
        "schedule": config.schedule.to_string(),
        "platforms": config.platforms.texts(),
        "next": time(*next),
        "running": is_running,
        "last": last,
    })
}

/// What a person should look at.
pub(super) fn attention(jobs: &[JobReport]) -> Vec<String> {
    let sentence = |job: &JobReport| {
        let LastRun { summary, failures, .. } = job.last.as_ref()?;
        let (image, why) = failures.first()?;
        let schedule = &job.config.schedule;
        let failed = units::counted(summary.failed as u64, "image");
        Some(format!(
            "{failed} of [[warm]] ({schedule}) could not be fetched, as {image}: {why}; `forebay warm {image}` tries \
             again"
        ))
    };
    jobs.iter().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::warm::{Config, Schedule};

    #[test]
    fn a_request_names_some_images_and_possible_platforms() {
        let read = |body: Value| {
            let wanted: Wanted = serde_json::from_value(body).map_err(|error| error.to_string())?;
            wanted.request().map_err(|error| error.why)
        };
        let request =
            read(json!({ "images": ["node"], "platforms": ["linux/arm64"], "limit": 3, "pin": "1h" })).unwrap();
        assert_eq!((request.images, request.limit), (vec!["node".to_owned()], Some(3)));
        assert_eq!(request.pin, Some(Duration::from_secs(60 * 60)));
        assert_eq!(request.platforms.texts(), ["linux/arm64"]);
        assert_eq!(read(json!({ "images": ["node"] })).unwrap().platforms, Platforms::default());
        for (body, expected) in [
            (json!({}), "missing field `images`"),
            (json!({ "images": [] }), "images: name at least one image, and at most 10000"),
            (json!({ "images": vec!["a"; MAX_IMAGES + 1] }), "images: name at least one image"),
            (json!({ "images": ["a"], "platforms": ["x"] }), "platforms: \"x\" is no platform"),
            (json!({ "images": ["a"], "limit": -1 }), "invalid value"),
            (json!({ "images": ["a"], "pin": "soon" }), "pin: write a duration such as 12h or 30d"),
            (json!({ "images": ["a"], "pin": "0s" }), "pin: write a duration"),
            (json!({ "images": ["a"], "match": "*" }), "unknown field `match`"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_job_is_told_with_its_last_run() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let config = Config {
            images: vec!["node".to_owned()],
            schedule: Schedule::Every(Duration::from_secs(6 * 60 * 60)),
            platforms: Platforms::All,
            pin: None,
        };
        let mut job = JobReport { config: Arc::new(config), next: began, is_running: false, last: None };
        assert_eq!(attention(std::slice::from_ref(&job)), [""; 0]);
        assert_eq!(jobs_data(std::slice::from_ref(&job))[0]["last"], Value::Null);
        let summary = WarmSummary { failed: 2, ..WarmSummary::default() };
        let failures = vec![("docker.io/library/node:latest".to_owned(), "no such tag".to_owned())];
        job.last = Some(LastRun { began, summary, failures });
        let expected = "2 images of [[warm]] (every 6h) could not be fetched, as docker.io/library/node:latest: no such \
            tag; `forebay warm docker.io/library/node:latest` tries again";
        assert_eq!(attention(std::slice::from_ref(&job)), [expected]);
        let data = &jobs_data(&[job])[0];
        assert_eq!((&data["schedule"], &data["next"]), (&"every 6h".into(), &"2027-01-15T08:00:00Z".into()));
        assert_eq!((&data["last"]["failed"], &data["last"]["began"]), (&2.into(), &"2027-01-15T08:00:00Z".into()));
    }
}
