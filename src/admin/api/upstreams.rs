//! `GET /api/v1/upstreams`: how each upstream is.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};

use super::response::ApiError;
use crate::{
    metrics::Label as _,
    upstream::{Health, Upstream},
};

/// How an upstream is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum State {
    Ok,
    /// It answered no request lately.
    Down,
    /// It refuses forebay's own credentials.
    CredentialsRefused,
    /// An operator has paused it.
    Paused,
    /// No request was sent yet.
    Unknown,
}

impl State {
    pub(in crate::admin) fn of(upstream: &Upstream) -> Self {
        Self::judge(upstream.paused_since(), &health(upstream))
    }

    fn judge(paused_since: Option<SystemTime>, health: &Health) -> Self {
        if paused_since.is_some() {
            return Self::Paused;
        }
        match health {
            Health { credentials_ok: Some(false), .. } => Self::CredentialsRefused,
            Health { down_since: Some(_), .. } => Self::Down,
            Health { latency: None, last_failure: None, .. } => Self::Unknown,
            _ => Self::Ok,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Down => "down",
            Self::CredentialsRefused => "credentials_refused",
            Self::Paused => "paused",
            Self::Unknown => "unknown",
        }
    }
}

pub(super) fn document(upstreams: &[Upstream]) -> Value {
    json!({ "upstreams": upstreams.iter().map(entry).collect::<Vec<_>>() })
}

/// What is known of an upstream. Credentials that forebay does not use any more are not judged: health outlives a reload.
pub(in crate::admin) fn health(upstream: &Upstream) -> Health {
    let health = upstream.health();
    let uses_own = upstream.has_credentials() && !upstream.uses_client_credentials();
    Health { credentials_ok: health.credentials_ok.filter(|_| uses_own), ..health }
}

/// The upstream of this name.
///
/// # Errors
/// There is none.
pub(super) fn named<'a>(upstreams: &'a [Upstream], name: &str) -> Result<&'a Upstream, ApiError> {
    upstreams.iter().find(|upstream| upstream.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<&str> = upstreams.iter().map(|upstream| &**upstream.name()).collect();
        let why = format!("there is no upstream {name:?}; there are {}", names.join(", "));
        ApiError::new(StatusCode::NOT_FOUND, why)
    })
}

/// What is told of one upstream. An address is not part of it, nor the name of a user that the configuration does not have.
pub(super) fn entry(upstream: &Upstream) -> Value {
    let credentials = (upstream.uses_client_credentials(), upstream.has_credentials());
    let mut entry = of(upstream.name(), credentials, upstream.paused_since(), &health(upstream));
    entry["account"] = upstream.configured_account().into();
    entry
}

fn of(
    name: &str,
    (by_client, has_credentials): (bool, bool),
    paused_since: Option<SystemTime>,
    health: &Health,
) -> Value {
    let credentials = match (by_client, has_credentials) {
        (true, _) => "client",
        (false, true) => "own",
        (false, false) => "none",
    };
    json!({
        "name": name,
        "state": State::judge(paused_since, health).as_str(),
        "credentials": credentials,
        "down_since": health.down_since.map(time),
        "paused_since": paused_since.map(time),
        "last_failure": health.last_failure.map(|(cause, at)| json!({ "cause": cause.as_str(), "at": time(at) })),
        "latency": health.latency.map(|(median, p95)| {
            json!({ "median_seconds": seconds(median), "p95_seconds": seconds(p95) })
        }),
        "pulls": health.pulls.map(|(limit, remaining, at)| {
            json!({ "limit": limit, "remaining": remaining, "at": time(at) })
        }),
    })
}

/// A time as RFC 3339 has it.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The same with milliseconds.
pub(super) fn precise_time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Rounded to a tenth of a millisecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::FailureCause;

    #[test]
    fn an_upstream_is_told_with_what_is_known_of_it() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (millis, failure) = (Duration::from_micros(31_449), Some((FailureCause::Dns, at)));
        for (health, state) in [
            (Health::default(), "unknown"),
            (Health { last_failure: failure, ..Health::default() }, "ok"),
            (Health { down_since: Some(at), last_failure: failure, ..Health::default() }, "down"),
            (Health { latency: Some((millis, millis)), credentials_ok: Some(true), ..Health::default() }, "ok"),
            (Health { credentials_ok: Some(false), down_since: Some(at), ..Health::default() }, "credentials_refused"),
        ] {
            assert_eq!(of("docker.io", (false, true), None, &health)["state"], state, "{health:?}");
            let paused = of("docker.io", (false, true), Some(at), &health);
            assert_eq!((&paused["state"], &paused["paused_since"]), (&json!("paused"), &json!("2027-01-15T08:00:00Z")));
        }
        let health = Health {
            down_since: None,
            last_failure: failure,
            credentials_ok: None,
            pulls: Some((Some(200), Some(143), at)),
            latency: Some((millis, 2 * millis)),
        };
        let expected = json!({
            "name": "docker.io",
            "state": "ok",
            "credentials": "client",
            "down_since": null,
            "paused_since": null,
            "last_failure": {"cause": "dns", "at": "2027-01-15T08:00:00Z"},
            "latency": {"median_seconds": 0.0314, "p95_seconds": 0.0629},
            "pulls": {"limit": 200, "remaining": 143, "at": "2027-01-15T08:00:00Z"},
        });
        assert_eq!(of("docker.io", (true, true), None, &health), expected);
    }
}
