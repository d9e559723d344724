//! The client of the control socket: how commands ask the forebay that runs here.

use std::{
    io,
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use forebay::{admin::control_socket, config::Config};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{runtime::Builder, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Failure,
    events::{Event, EventParser},
};

/// How long forebay may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The longest refusal that is read, in bytes.
const MAX_ERROR: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("no forebay runs here: nothing listens on {}; --control PATH names another socket", listed(.0))]
    NoneRuns(Vec<PathBuf>),
    #[error("this user may not use {}: be root, forebay's user, or a member of admin.socket_group", .0.display())]
    Denied(PathBuf),
    #[error("cannot use {}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("{why}")]
    Refused { is_usage: bool, why: String },
    #[error("forebay has ended the stream of events, as it does when it stops")]
    Ended,
    #[error("forebay does not answer as it should")]
    Answer(#[from] anyhow::Error),
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            // A parameter of the command line.
            ControlError::Refused { is_usage: true, .. } => Self::Configuration(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Where the socket of a forebay with this configuration is; `flag`: what `--control` says.
pub(super) fn places(config: &Config, flag: Option<&Path>) -> Vec<PathBuf> {
    match flag {
        Some(path) => vec![path.to_owned()],
        None => control_socket::places(&config.admin, config.state_directory.as_deref()),
    }
}

/// The running configuration: `GET /api/v1/config`. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or another program does.
pub(super) fn configuration(places: &[PathBuf]) -> Result<Value, ControlError> {
    let running = get(places, "/api/v1/config")?;
    if !running["config"].is_object() {
        return Err(ControlError::Answer(anyhow::anyhow!("the answer has no configuration")));
    }
    Ok(running)
}

/// GETs a resource of the control API from the first place where a forebay listens. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or it does not answer.
pub(super) fn get(places: &[PathBuf], path: &str) -> Result<Value, ControlError> {
    exchange(places, (Method::GET, path, None))
}

/// POSTs a document to a resource that answers by another. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or it does not answer.
pub(super) fn change(places: &[PathBuf], path: &str, document: &Value) -> Result<Value, ControlError> {
    exchange(places, (Method::POST, path, Some(document)))
}

fn exchange(
    places: &[PathBuf],
    (method, path, document): (Method, &str, Option<&Value>),
) -> Result<Value, ControlError> {
    run(places, async |mut exchange| {
        let answer = timeout(TIMEOUT, exchange.send(method, path, document)).await.map_err(anyhow::Error::from)??;
        let body = timeout(TIMEOUT, Limited::new(answer.into_body(), MAX_ANSWER).collect()).await;
        let body = body.map_err(anyhow::Error::from)?.map_err(|error| anyhow::anyhow!(error))?;
        Ok(serde_json::from_slice(&body.to_bytes()).map_err(anyhow::Error::from)?)
    })
}

/// POSTs to a resource, with a document or without a body, that answers by events, and hands each on as it comes. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, it does not answer, or the answer breaks off.
pub(super) fn post(
    places: &[PathBuf],
    path: &str,
    document: Option<&Value>,
    mut each: impl FnMut(Event),
) -> Result<(), ControlError> {
    run(places, async |mut exchange| {
        exchange
            .events((Method::POST, path, document), |event| {
                each(event);
                ControlFlow::Continue(())
            })
            .await
    })
}

/// DELETEs a resource that answers by events, and hands each on as it comes. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, it does not answer, or the answer breaks off.
pub(super) fn delete(places: &[PathBuf], path: &str, mut each: impl FnMut(Event)) -> Result<(), ControlError> {
    run(places, async |mut exchange| {
        exchange
            .events((Method::DELETE, path, None), |event| {
                each(event);
                ControlFlow::Continue(())
            })
            .await
    })
}

/// GETs what happens from now on, and hands each event on until `each` wants no more. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, it does not answer, or the events end.
pub(super) fn follow<T>(
    places: &[PathBuf],
    path: &str,
    mut each: impl FnMut(Event) -> ControlFlow<T>,
) -> Result<T, ControlError> {
    let mut last = None;
    run(places, async |mut exchange| {
        exchange
            .events((Method::GET, path, None), |event| match each(event) {
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
                ControlFlow::Break(result) => {
                    last = Some(result);
                    ControlFlow::Break(())
                }
            })
            .await
    })?;
    last.ok_or(ControlError::Ended)
}

/// Connects, and runs an exchange on a runtime of its own.
fn run<T>(places: &[PathBuf], work: impl AsyncFnOnce(Exchange) -> Result<T, ControlError>) -> Result<T, ControlError> {
    let socket = connect(places)?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime");
    runtime.map_err(ControlError::Answer)?.block_on(async {
        let exchange = Exchange::begin(socket).await.map_err(ControlError::Answer)?;
        work(exchange).await
    })
}

/// A connection for one request.
struct Exchange {
    sender: SendRequest<Full<Bytes>>,
    /// Aborted when the exchange is over.
    _connection: AbortOnDropHandle<()>,
}

impl Exchange {
    async fn begin(socket: UnixStream) -> anyhow::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        // What breaks the connection is an error of the request, too.
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, _connection: AbortOnDropHandle::new(connection) })
    }

    /// Hands the events of a response on as they come, until it ends or `each` wants no more.
    async fn events(
        &mut self,
        (method, path, document): (Method, &str, Option<&Value>),
        mut each: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), ControlError> {
        let answer = self.send(method, path, document).await?;
        let (mut body, mut parser) = (answer.into_body(), EventParser::default());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ControlError::Ended)?;
            let events = parser.push(frame.data_ref().map_or(&[][..], |data| data)).map_err(anyhow::Error::from)?;
            if events.into_iter().try_for_each(&mut each).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The response, if it is a success.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        document: Option<&Value>,
    ) -> Result<Response<Incoming>, ControlError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if document.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = document.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(body)).map_err(anyhow::Error::from)?;
        let response = self.sender.send_request(request).await.map_err(anyhow::Error::from)?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }
}

/// What a response says that is no success.
pub(super) async fn refusal(response: Response<Incoming>) -> ControlError {
    let status = response.status();
    let body = timeout(TIMEOUT, Limited::new(response.into_body(), MAX_ERROR).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let why = serde_json::from_slice::<Value>(&body).ok().and_then(|body| Some(body["error"].as_str()?.to_owned()));
    let why = why.unwrap_or_else(|| status.to_string());
    ControlError::Refused { is_usage: status == 400, why }
}

/// Connects to the first socket on which a program listens.
pub(super) fn connect(places: &[PathBuf]) -> Result<UnixStream, ControlError> {
    let mut denied = None;
    for path in places {
        match control_socket::connect(path, TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {}
                io::ErrorKind::PermissionDenied => denied = denied.or(Some(path)),
                _ => return Err(ControlError::Socket { path: path.clone(), source: error }),
            },
        }
    }
    Err(match denied {
        Some(path) => ControlError::Denied(path.clone()),
        None => ControlError::NoneRuns(places.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn the_first_place_where_a_program_listens_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let [none, stale, live] = ["none", "stale", "live"].map(|name| directory.path().join(name));
        drop(UnixListener::bind(&stale).unwrap());
        let places = [none.clone(), stale.clone(), live.clone(), none.join("below")];
        let error = connect(&places).unwrap_err().to_string();
        assert!(error.starts_with("no forebay runs here: nothing listens on ") && error.contains("live, "), "{error}");
        let _listener = UnixListener::bind(&live).unwrap();
        assert!(connect(&places).is_ok());
        fs::remove_file(&live).unwrap();
        assert!(connect(&places).is_err());
    }
}
