//! `GET /api/v1/requests` and `GET /api/v1/pulls`: the latest requests of clients, one by one or by pulls.
//!
//! What must hold: a caller sees requests to upstreams that authorize each client only if it may.

use std::time::Duration;

use http::Response;
use serde::Serialize;

use super::{
    access::Sight,
    parameters::{ParameterError, Parameters},
    response::{ApiBody, ApiError},
    turns::Turn,
    upstreams::precise_time,
};
use crate::{
    history::{Filter, FinishedRequest, History, MAX_REQUESTS, Page, Position, Pull},
    metrics::Label as _,
    rule::Pattern,
    upstream::Upstream,
};

/// How many a page has, unless the caller says so.
const DEFAULT_LIMIT: usize = 100;

/// What a caller asks for.
#[derive(Debug)]
pub(super) struct Query {
    filter: Filter,
    after: Option<Position>,
    limit: usize,
}

impl Query {
    /// # Errors
    /// A parameter is unknown, or its value cannot be used.
    pub(super) fn parse(query: Option<&str>, sight: Sight, upstreams: &[Upstream]) -> Result<Self, ParameterError> {
        const KNOWN: &[&str] = &["errors", "slower", "image", "client", "id", "limit", "after"];
        let parameters = Parameters::parse(query, KNOWN)?;
        Ok(Self {
            filter: filter(&parameters, sight, |name| is_upstream(upstreams, name))?,
            after: parameters.value("after", str::parse)?,
            limit: parameters.count("limit", MAX_REQUESTS)?.unwrap_or(DEFAULT_LIMIT),
        })
    }
}

/// The filter of a stream of events.
///
/// # Errors
/// A parameter is unknown, or its value cannot be used.
pub(super) fn filter_of_events(
    query: Option<&str>,
    sight: Sight,
    upstreams: &[Upstream],
) -> Result<Filter, ParameterError> {
    let parameters = Parameters::parse(query, &["errors", "slower", "image", "client"])?;
    filter(&parameters, sight, |name| is_upstream(upstreams, name))
}

fn is_upstream(upstreams: &[Upstream], name: &str) -> bool {
    upstreams.iter().any(|upstream| **upstream.name() == *name)
}

fn filter(parameters: &Parameters, sight: Sight, is_upstream: impl Fn(&str) -> bool) -> Result<Filter, ParameterError> {
    Ok(Filter {
        of_clients: sight.of_clients,
        errors: parameters.flag("errors")?,
        slower: parameters.duration("slower")?,
        image: parameters.value("image", |text| Pattern::typed(text, is_upstream))?,
        client: parameters.value("client", str::parse)?,
        id: parameters.value("id", str::parse)?,
    })
}

/// The requests that the query asks for.
pub(super) async fn requests(history: History, query: Query, turn: Turn) -> Result<Response<ApiBody>, ApiError> {
    turn.document(move || {
        let page = history.requests(&query.filter, query.after, query.limit);
        let requests = page.items.iter().map(|request| RequestEntry::of(request)).collect();
        serde_json::to_string(&Requests { requests, next: next(&page) })
    })
    .await
}

/// The pulls that the query asks for.
pub(super) async fn pulls(history: History, query: Query, turn: Turn) -> Result<Response<ApiBody>, ApiError> {
    turn.document(move || {
        let page = history.pulls(&query.filter, query.after, query.limit);
        let pulls = page.items.iter().map(PullEntry::of).collect();
        serde_json::to_string(&Pulls { pulls, next: next(&page) })
    })
    .await
}

fn next<T>(page: &Page<T>) -> Option<String> {
    page.next.map(|position| position.to_string())
}

#[derive(Serialize)]
struct Requests<'a> {
    requests: Vec<RequestEntry<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Pulls<'a> {
    pulls: Vec<PullEntry<'a>>,
    next: Option<String>,
}

/// One request, in the words of the access log.
#[derive(Serialize)]
pub(super) struct RequestEntry<'a> {
    id: String,
    /// When it ended.
    time: String,
    pull: Option<String>,
    peer: &'a str,
    user_agent: Option<&'a str>,
    user: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    ns: Option<&'a str>,
    upstream: Option<&'a str>,
    image: Option<String>,
    operation: &'static str,
    outcome: &'static str,
    status: u16,
    sent: u64,
    redirected_bytes: Option<u64>,
    complete: bool,
    duration_seconds: f64,
    first_byte_seconds: f64,
    upstream_seconds: Option<f64>,
    upstream_bytes: Option<u64>,
    error: bool,
    failure: Option<&'static str>,
    upstream_cause: Option<&'static str>,
    rule: Option<String>,
    cause: Option<&'a str>,
    access: &'static str,
}

impl<'a> RequestEntry<'a> {
    pub(super) fn of(request: &'a FinishedRequest) -> Self {
        Self {
            id: request.id.to_string(),
            time: precise_time(request.ended_at),
            pull: request.pull_id().map(|id| id.to_string()),
            peer: &request.peer,
            user_agent: request.user_agent(),
            user: request.user.as_deref(),
            method: request.method.as_str(),
            path: request.path(),
            ns: request.namespace.as_deref(),
            upstream: request.upstream.as_deref(),
            image: request.subject().map(|subject| subject.as_str().to_owned()),
            operation: request.operation.as_str(),
            outcome: request.outcome.as_str(),
            status: request.status,
            sent: request.sent,
            redirected_bytes: request.redirected,
            complete: request.is_complete,
            duration_seconds: seconds(request.duration),
            first_byte_seconds: seconds(request.first_byte),
            upstream_seconds: request.waited.map(seconds),
            upstream_bytes: request.received,
            error: request.is_error(),
            failure: request.failure,
            upstream_cause: request.upstream_cause,
            rule: request.rule.as_ref().map(|rule| rule.to_string()),
            cause: request.cause.as_deref(),
            access: access(request),
        }
    }
}

/// What the requests of a pull or a push come to.
#[derive(Serialize)]
struct PullEntry<'a> {
    id: String,
    /// When its last response ended.
    time: String,
    peer: &'a str,
    user_agent: Option<&'a str>,
    user: Option<&'a str>,
    upstream: Option<&'a str>,
    image: Option<String>,
    operation: &'static str,
    outcome: &'static str,
    requests: usize,
    sent: u64,
    redirected_bytes: u64,
    upstream_bytes: u64,
    duration_seconds: f64,
    /// Of the request that failed last.
    status: Option<u16>,
    failure: Option<&'static str>,
    upstream_cause: Option<&'static str>,
    cause: Option<&'a str>,
    access: &'static str,
}

impl<'a> PullEntry<'a> {
    fn of(pull: &'a Pull) -> Self {
        let (newest, failed) = (pull.newest(), pull.failed());
        Self {
            id: pull.id().to_string(),
            time: precise_time(newest.ended_at),
            peer: &newest.peer,
            user_agent: newest.user_agent(),
            user: newest.user.as_deref(),
            upstream: newest.upstream.as_deref(),
            image: pull.image().map(|subject| subject.as_str().to_owned()),
            operation: pull.operation(),
            outcome: pull.outcome().as_str(),
            requests: pull.len(),
            sent: pull.sent(),
            redirected_bytes: pull.redirected(),
            upstream_bytes: pull.received(),
            duration_seconds: seconds(pull.duration()),
            status: failed.map(|request| request.status),
            failure: failed.and_then(|request| request.failure),
            upstream_cause: failed.and_then(|request| request.upstream_cause),
            cause: failed.and_then(|request| request.cause.as_deref()),
            access: access(newest),
        }
    }
}

/// As the key of the upstream spells it.
fn access(request: &FinishedRequest) -> &'static str {
    if request.is_of_client { "client" } else { "shared" }
}

/// Rounded to a microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{
        super::{access::Caller, turns::Turns},
        *,
    };
    use crate::oci::Operation;

    fn parse(query: &str) -> Result<Filter, String> {
        let sight = Sight { of_clients: false };
        let parameters = Parameters::parse(Some(query), &["errors", "slower", "image", "client", "id"]);
        let filter = filter(&parameters.map_err(|error| error.to_string())?, sight, |name| name == "docker.io");
        filter.map_err(|error| error.to_string())
    }

    #[test]
    fn a_query_is_a_filter() {
        let filter = parse("errors&slower=1m30s&image=node:22&client=10.0.0.0/8&id=58fd6720-4").unwrap();
        assert!(filter.errors && !filter.of_clients);
        assert_eq!(filter.slower, Some(Duration::from_secs(90)));
        assert_eq!(filter.client.unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(filter.id.unwrap().to_string(), "58fd6720-4");
        assert!(filter.image.is_some());
        for (query, expected) in [
            ("errors=maybe", "errors=\"maybe\": write true or false"),
            ("slower=5", "slower=\"5\": write a duration such as 5s or 30m"),
            ("image=", "image=\"\": must not be empty; \"*\" matches everything"),
            ("client=node1", "client=\"node1\": must be a network such as"),
            ("id=4", "id=\"4\": an id is eight hexadecimal digits"),
            ("user=ann", "there is no parameter \"user\" here; there are errors"),
        ] {
            let problem = parse(query).unwrap_err();
            assert!(problem.starts_with(expected), "{query}: {problem}");
        }
        let page = |query| Query::parse(Some(query), Sight { of_clients: true }, &[]);
        assert_eq!(page("limit=7").unwrap().limit, 7);
        for query in ["limit=0", "limit=10001", "after=x"] {
            assert!(page(query).is_err(), "{query}");
        }
    }

    #[test]
    fn entries_have_the_words_of_the_log() {
        let request = FinishedRequest {
            is_of_client: true,
            duration: Duration::from_nanos(31_449_499),
            user: Some("ann".into()),
            received: Some(70),
            cause: Some("connection refused".to_owned()),
            ..FinishedRequest::of_test(255, Instant::now()).failed(502, "upstream_unavailable")
        };
        let entry = serde_json::to_value(RequestEntry::of(&request)).unwrap();
        for (name, value) in [
            ("id", "00000007-ff"),
            ("pull", "00000007-ff"),
            ("time", "2027-01-15T08:00:00.000Z"),
            ("peer", "10.0.0.1:1234"),
            ("user_agent", "docker/29.1 linux"),
            ("image", "docker.io/library/app:1"),
            ("operation", "manifest"),
            ("failure", "upstream_unavailable"),
            ("cause", "connection refused"),
            ("access", "client"),
        ] {
            assert_eq!(entry[name], value, "{name}");
        }
        assert_eq!(entry["duration_seconds"], 0.031_449);
        assert_eq!((&entry["status"], &entry["error"]), (&502.into(), &true.into()));
    }

    #[tokio::test]
    async fn a_pull_entry_sums_its_requests() {
        use http_body_util::BodyExt as _;
        let history = History::new(crate::byte_counter::ByteCounter::default());
        let now = Instant::now();
        let digest = format!("sha256:{}", "b".repeat(64));
        history.add(FinishedRequest::of_test(1, now));
        let blob = FinishedRequest::of_test(2, now).about(Operation::Blob, &digest);
        history.add(FinishedRequest { pull: Some(1), redirected: Some(7), ..blob.failed(504, "upstream_timeout") });
        let query = || Query::parse(None, Sight { of_clients: false }, &[]).unwrap();
        let read = async |response: Response<ApiBody>| -> serde_json::Value {
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
        };
        let turns = Turns::default();
        let turn = async || turns.take(Caller::Socket).await.unwrap();
        let pulls = read(pulls(history.clone(), query(), turn().await).await.unwrap()).await;
        let pull = &pulls["pulls"][0];
        assert_eq!((&pull["id"], &pull["requests"], &pull["sent"]), (&"00000007-1".into(), &2.into(), &200.into()));
        assert_eq!(pull["redirected_bytes"], 7);
        assert_eq!((&pull["outcome"], &pull["failure"]), (&"error".into(), &"upstream_timeout".into()));
        assert!(pulls["next"].is_null());
        let requests = read(requests(history, query(), turn().await).await.unwrap()).await;
        assert_eq!(requests["requests"].as_array().unwrap().len(), 2);
    }
}
