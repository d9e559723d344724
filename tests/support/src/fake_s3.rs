//! An object store in memory that speaks as much of S3 as forebay uses, counts, and fails as it is told.
//!
//! ```ignore
//! let store = FakeS3::start().await;
//! let mirror = Mirror::parse(&format!("{}…", store.section())).start().await;   // after `store.credentials(directory)`
//! store.wait_for(|objects| objects.keys().any(|name| name.starts_with("blobs/"))).await;
//! store.fail(Some(503));                              // from now on; `None`: no more
//! store.put("tags/…", b"forged", Duration::ZERO);
//! assert_eq!(store.count("GET", "tags/"), 1);
//! ```
//!
//! It checks no signature. Real stores are in the tests with real programs.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::until::until;

const BUCKET: &str = "bucket";

/// One object.
#[derive(Clone, Debug)]
pub struct Object {
    pub content: Bytes,
    pub modified: SystemTime,
}

/// The objects by their names.
pub type Objects = BTreeMap<String, Object>;

#[derive(Default)]
struct State {
    objects: Objects,
    /// Method and name (or the prefix of a list) of each request.
    seen: Vec<(String, String)>,
    /// The status of all answers.
    failure: Option<u16>,
    /// How many of the next requests of a method are refused.
    refused: HashMap<&'static str, usize>,
    /// The beginning of names whose requests get no answer.
    silent: Option<String>,
}

pub struct FakeS3 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    running: JoinHandle<()>,
}

impl FakeS3 {
    pub async fn start() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (tcp.local_addr().unwrap(), Arc::new(Mutex::new(State::default())));
        let running = tokio::spawn(accept(tcp, state.clone()));
        Self { address, state, running }
    }

    /// The section of a configuration whose directory has [`FakeS3::credentials`].
    pub fn section(&self) -> String {
        format!(
            "[store]\nurl = \"s3://{BUCKET}\"\nendpoint = \"http://{}\"\naccess_key_id_file = \"s3.id\"\n\
             secret_access_key_file = \"s3.secret\"\n",
            self.address
        )
    }

    /// Writes the files that the section names.
    pub fn credentials(directory: &Path) {
        std::fs::write(directory.join("s3.id"), "an-id").unwrap();
        std::fs::write(directory.join("s3.secret"), "a-secret").unwrap();
    }

    /// Answers everything with this status from now on; `None`: as it should.
    pub fn fail(&self, status: Option<u16>) {
        self.state().failure = status;
    }

    /// Refuses the next requests of this method, so many, as a store without room does.
    pub fn refuse(&self, method: &'static str, requests: usize) {
        self.state().refused.insert(method, requests);
    }

    /// Answers no request for names that begin so; `None`: answers all.
    pub fn silence(&self, names: Option<&str>) {
        self.state().silent = names.map(str::to_owned);
    }

    /// What is there.
    pub fn objects(&self) -> Objects {
        self.state().objects.clone()
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.state().objects.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Puts an object there that is so old.
    pub fn put(&self, name: &str, content: impl Into<Bytes>, age: Duration) {
        let object = Object { content: content.into(), modified: SystemTime::now() - age };
        self.state().objects.insert(name.to_owned(), object);
    }

    pub fn remove(&self, name: &str) {
        self.state().objects.remove(name);
    }

    /// How many requests of a method there were for names that begin so.
    pub fn count(&self, method: &str, prefix: &str) -> usize {
        self.state().seen.iter().filter(|(of, name)| of == method && name.starts_with(prefix)).count()
    }

    /// Waits until there is something, or is no more.
    pub async fn wait_for(&self, what: &str, condition: impl Fn(&Objects) -> bool) {
        until(what, async || condition(&self.state().objects)).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn accept(tcp: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = tcp.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| serve(request, state.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (parts, body) = request.into_parts();
    let content = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path =
        parts.uri.path().trim_start_matches('/').strip_prefix(BUCKET).unwrap_or_default().trim_start_matches('/');
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let name =
        url::form_urlencoded::parse(path.replace('+', "%2B").as_bytes()).next().map(|(name, _)| name.into_owned());
    let name = name.unwrap_or_default();
    let (method, named) = match query.contains_key("list-type") {
        true => ("LIST".to_owned(), query.get("prefix").cloned().unwrap_or_default()),
        false => (parts.method.to_string(), name.clone()),
    };
    let is_silent = {
        let mut state = state.lock().unwrap();
        state.seen.push((method, named.clone()));
        if let Some(status) = state.failure {
            return Ok(answer(status, "<Error><Code>SlowDown</Code></Error>"));
        }
        if let Some(left) = state.refused.get_mut(parts.method.as_str()).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(answer(507, "<Error><Code>InsufficientStorage</Code></Error>"));
        }
        state.silent.as_ref().is_some_and(|silent| named.starts_with(silent))
    };
    if is_silent {
        std::future::pending::<()>().await;
    }
    let mut state = state.lock().unwrap();
    Ok(match parts.method {
        Method::GET if query.contains_key("list-type") => list(&state.objects, &query),
        Method::GET | Method::HEAD => match state.objects.get(&name) {
            Some(object) => {
                let response = Response::builder()
                    .header("etag", "\"x\"")
                    .header("last-modified", http_date(object.modified))
                    .header("content-length", object.content.len());
                let range = parts.headers.get("range").and_then(|range| range.to_str().ok());
                match (parts.method == Method::HEAD, range) {
                    (true, _) => response.body(Full::default()).unwrap(),
                    (false, Some(range)) => part(object, range),
                    (false, None) => response.body(Full::new(object.content.clone())).unwrap(),
                }
            }
            None => answer(404, "<Error><Code>NoSuchKey</Code></Error>"),
        },
        Method::PUT if parts.headers.contains_key("if-none-match") && state.objects.contains_key(&name) => {
            answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
        }
        Method::PUT => {
            state.objects.insert(name, Object { content, modified: SystemTime::now() });
            answer(200, "")
        }
        // The crate deletes in bulk.
        Method::POST if query.contains_key("delete") => {
            let text = String::from_utf8_lossy(&content).into_owned();
            let mut deleted = String::new();
            for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
                state.objects.remove(key);
                deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
            }
            answer(200, &format!("<?xml version=\"1.0\"?><DeleteResult>{deleted}</DeleteResult>"))
        }
        Method::DELETE => {
            state.objects.remove(&name);
            answer(204, "")
        }
        _ => answer(501, "<Error><Code>NotImplemented</Code></Error>"),
    })
}

fn answer(status: u16, body: &str) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("etag", "\"x\"");
    response.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

fn part(object: &Object, range: &str) -> Response<Full<Bytes>> {
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = last.parse::<usize>().map_or(object.content.len(), |last| (last + 1).min(object.content.len()));
    let bytes = object.content.slice(first.min(end)..end);
    Response::builder()
        .status(206)
        .header("etag", "\"x\"")
        .header("last-modified", http_date(object.modified))
        .header("content-range", format!("bytes {first}-{}/{}", end - 1, object.content.len()))
        .header("content-length", bytes.len())
        .body(Full::new(bytes))
        .unwrap()
}

/// Pages as S3's: by `prefix`, `max-keys` and `continuation-token`, which is the last name of the page before.
fn list(objects: &Objects, query: &HashMap<String, String>) -> Response<Full<Bytes>> {
    let prefix = query.get("prefix").map(String::as_str).unwrap_or_default();
    let most = query.get("max-keys").and_then(|most| most.parse().ok()).unwrap_or(1000);
    let after = query.get("continuation-token").map(String::as_str).unwrap_or_default();
    let mut found = objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
    let page: Vec<(&String, &Object)> = found.by_ref().take(most).collect();
    let contents: String = page
        .iter()
        .map(|(name, object)| {
            format!(
                "<Contents><Key>{name}</Key><LastModified>{}</LastModified><ETag>\"x\"</ETag><Size>{}</Size></Contents>",
                iso_date(object.modified),
                object.content.len()
            )
        })
        .collect();
    let next = match (found.next(), page.last()) {
        (Some(_), Some((last, _))) => {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>")
        }
        _ => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    answer(200, &format!("<?xml version=\"1.0\"?><ListBucketResult>{next}{contents}</ListBucketResult>"))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Year, month, day, hour, minute, second. Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(time: SystemTime) -> [u64; 6] {
    let seconds = seconds(time);
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
}

fn iso_date(time: SystemTime) -> String {
    let [year, month, day, hour, minute, second] = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

fn http_date(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let [year, month, day, hour, minute, second] = civil(time);
    let weekday = DAYS[usize::try_from(seconds(time) / 86_400 % 7).unwrap()];
    let month = MONTHS[usize::try_from(month).unwrap() - 1];
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}
