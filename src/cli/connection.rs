//! A connection to the running forebay: to its control socket, or to its admin listener.
//!
//! What must hold: each wait for the connection and for an answer has its end.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use forebay::{admin::control_socket, transport::MAX_LOCAL_CLIENTS};
use http::{HeaderValue, Method, Request, Response, header, request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Failure, control_place::ListenerUrl, running::Places};

/// How long forebay may take to accept a connection, to answer, and to send a document.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long forebay may send nothing of an answer that goes on for long: it sends a comment of events each 15 s.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(60);
/// How often forebay is asked whether it runs, while an answer takes long to begin.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// The longest refusal that is read, in bytes.
const MAX_ERROR: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error(
        "no forebay runs here: nothing listens on {}; start it (forebay serve, or systemctl start forebay), or name the one \
         that runs by its --config FILE, or by --control PATH or URL",
        listed(.0)
    )]
    NoneRuns(Vec<PathBuf>),
    #[error("this user may not use {}: be root, forebay's user, or a member of admin.socket_group", .0.display())]
    Denied(PathBuf),
    #[error("cannot use {}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot connect to {url}")]
    Listener { url: ListenerUrl, source: io::Error },
    #[error(
        "no answer within {} s: is it stopped, or are {MAX_LOCAL_CLIENTS} clients connected?",
        TIMEOUT.as_secs()
    )]
    SilentSocket,
    #[error("no answer of {url} within {} s", TIMEOUT.as_secs())]
    SilentListener { url: ListenerUrl },
    #[error("forebay has sent nothing for {} s: is it stopped?", MAX_SILENCE.as_secs())]
    Stalled,
    #[error("{why}")]
    Refused { is_usage: bool, why: String },
    #[error("forebay asks for the token of admin.token_file: --token-file FILE names its file")]
    NoToken,
    #[error("the answer is {0}, as of another program: is this admin.listen or admin.socket of a forebay?")]
    NotForebay(u16),
    #[error("forebay has ended the stream of events, as it does when it stops")]
    Ended,
    #[error("interrupted")]
    Interrupted,
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

/// A connection for one request.
pub(super) struct Connection<B> {
    sender: SendRequest<B>,
    /// The listener at its other end; `None`: a control socket.
    listener: Option<ListenerUrl>,
    authorization: Option<HeaderValue>,
    /// Aborted when the exchange is over.
    _task: AbortOnDropHandle<()>,
}

impl<B> Connection<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    /// Connects.
    ///
    /// # Errors
    /// No forebay listens in any of the places, or it accepts no client.
    pub(super) async fn begin(places: &Places) -> Result<Self, ControlError> {
        match places {
            Places::Sockets(paths) => {
                let paths = paths.clone();
                let socket = spawn_blocking(move || connect(&paths)).await.map_err(anyhow::Error::from)??;
                socket.set_nonblocking(true).map_err(anyhow::Error::from)?;
                let socket = tokio::net::UnixStream::from_std(socket).map_err(anyhow::Error::from)?;
                Self::over(socket, None, None).await
            }
            Places::Listener { url, authorization } => {
                let connect = TcpStream::connect((url.host.as_str(), url.port));
                let socket = timed(Some(url), connect).await?;
                let socket = socket.map_err(|source| ControlError::Listener { url: url.clone(), source })?;
                Self::over(socket, Some(url.clone()), authorization.clone()).await
            }
        }
    }

    async fn over(
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        listener: Option<ListenerUrl>,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, ControlError> {
        let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(anyhow::Error::from)?;
        // What breaks the connection is an error of the request, too.
        let task = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, listener, authorization, _task: AbortOnDropHandle::new(task) })
    }

    /// A request, with what its other end has to know of its sender.
    pub(super) fn request(&self, method: Method, path: &str) -> request::Builder {
        let host = self.listener.as_ref().map_or("localhost", |url| &url.authority);
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// The head of the response, however long it takes: see [`while_it_runs`].
    ///
    /// # Errors
    /// The connection breaks.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.send_request(request).await
    }

    /// The response, if it comes in time.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn answer(&mut self, request: Request<B>) -> Result<Response<Incoming>, ControlError> {
        let sent = self.sender.send_request(request);
        Ok(timed(self.listener.as_ref(), sent).await?.map_err(anyhow::Error::from)?)
    }

    /// The response, if it is a success and comes in time.
    ///
    /// # Errors
    /// It is none, or does not.
    pub(super) async fn succeed(&mut self, request: Request<B>) -> Result<Response<Incoming>, ControlError> {
        let response = self.answer(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// The outcome, unless it takes too long.
    ///
    /// # Errors
    /// It does.
    pub(super) async fn timed<T>(&self, work: impl Future<Output = T>) -> Result<T, ControlError> {
        timed(self.listener.as_ref(), work).await
    }

    /// Why a response is no success.
    pub(super) async fn refusal(&self, response: Response<Incoming>) -> ControlError {
        let status = response.status().as_u16();
        let body = self.timed(Limited::new(response.into_body(), MAX_ERROR).collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        self.refused(status, &serde_json::from_slice(&body).unwrap_or_default())
    }

    /// What a status that is no success means, with this document.
    pub(super) fn refused(&self, status: u16, document: &Value) -> ControlError {
        if status == 401 && self.authorization.is_none() {
            return ControlError::NoToken;
        }
        // It may have several lines, each of which is made printable when it is printed.
        let why = document["error"].as_str().map(str::to_owned);
        why.map_or(ControlError::NotForebay(status), |why| ControlError::Refused { is_usage: status == 400, why })
    }
}

/// The outcome of what one forebay does, unless it takes too long.
async fn timed<T>(listener: Option<&ListenerUrl>, work: impl Future<Output = T>) -> Result<T, ControlError> {
    timeout(TIMEOUT, work).await.map_err(|_| silent(listener))
}

/// The outcome of what may take long, unless the forebay that does it answers no other request meanwhile.
///
/// # Errors
/// It does not answer.
pub(super) async fn while_it_runs<T>(places: &Places, work: impl Future<Output = T>) -> Result<T, ControlError> {
    while_answered(async || is_answered(places).await, work).await
}

/// The same, where `is_answered` tells whether it runs.
async fn while_answered<T>(
    is_answered: impl AsyncFn() -> bool,
    work: impl Future<Output = T>,
) -> Result<T, ControlError> {
    let stalled = async {
        let mut answered = Instant::now();
        while answered.elapsed() < MAX_SILENCE {
            sleep(PROBE_INTERVAL).await;
            if is_answered().await {
                answered = Instant::now();
            }
        }
    };
    tokio::select! {
        done = work => Ok(done),
        () = stalled => Err(ControlError::Stalled),
    }
}

/// Whether forebay answers a small request, in whatever way.
async fn is_answered(places: &Places) -> bool {
    let Ok(mut connection) = Connection::begin(places).await else { return false };
    let request = connection.request(Method::HEAD, "/api/v1/upstreams").body(Empty::<Bytes>::new());
    let Ok(request) = request else { return false };
    let answer = connection.sender.send_request(request);
    timeout(TIMEOUT, answer).await.is_ok_and(|answer| answer.is_ok())
}

/// The next part of an answer that goes on for long.
///
/// # Errors
/// forebay sends nothing.
pub(super) async fn next_part<T>(part: impl Future<Output = T>) -> Result<T, ControlError> {
    timeout(MAX_SILENCE, part).await.map_err(|_| ControlError::Stalled)
}

fn silent(listener: Option<&ListenerUrl>) -> ControlError {
    match listener {
        Some(url) => ControlError::SilentListener { url: url.clone() },
        None => ControlError::SilentSocket,
    }
}

/// Connects to the first socket on which a program listens.
fn connect(paths: &[PathBuf]) -> Result<UnixStream, ControlError> {
    let mut denied = None;
    for path in paths {
        match connect_to(path, TIMEOUT) {
            Ok(Some(socket)) => return Ok(socket),
            Ok(None) => {}
            Err(ControlError::Denied(path)) => denied = denied.or(Some(path)),
            Err(error) => return Err(error),
        }
    }
    Err(denied.map_or_else(|| ControlError::NoneRuns(paths.to_vec()), ControlError::Denied))
}

/// A connection to a socket; `None`: no program listens on it.
fn connect_to(path: &Path, most: Duration) -> Result<Option<UnixStream>, ControlError> {
    match control_socket::connect(path, most) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => Ok(None),
            io::ErrorKind::PermissionDenied => Err(ControlError::Denied(path.to_owned())),
            // The queue of the socket is full.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(ControlError::SilentSocket),
            _ => Err(ControlError::Socket { path: path.to_owned(), source: error }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    /// A socket whose queue is full, the clients in it, and its listener.
    fn full(path: &Path) -> (Vec<UnixStream>, Socket) {
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let waiting = std::iter::from_fn(|| connect_to(path, Duration::from_millis(1)).ok().flatten());
        (waiting.collect(), listener)
    }

    #[test]
    fn a_forebay_that_accepts_no_client_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _full = full(&path);
        let error = connect_to(&path, Duration::from_millis(1)).unwrap_err().to_string();
        assert_eq!(error, "no answer within 10 s: is it stopped, or are 32 clients connected?");
    }

    #[tokio::test(start_paused = true)]
    async fn a_forebay_that_does_not_answer_is_told_as_such() {
        let (own, _silent) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixStream::from_std(own).unwrap();
        let mut connection = Connection::over(socket, None, None).await.unwrap();
        let request = connection.request(Method::GET, "/api/v1/events").body(Empty::<Bytes>::new()).unwrap();
        let error = connection.succeed(request).await.unwrap_err();
        assert!(matches!(error, ControlError::SilentSocket), "{error}");
    }

    /// Accepts connections, and answers with these bytes each time that a client has sent something.
    async fn answering(path: &Path, bytes: &'static [u8]) -> AbortOnDropHandle<()> {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while client.read(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {
                        let _ = client.write_all(bytes).await;
                    }
                });
            }
        }))
    }

    #[tokio::test]
    async fn any_answer_shows_that_forebay_runs() {
        let directory = tempfile::tempdir().unwrap();
        let [running, ended] = ["running", "ended"].map(|name| directory.path().join(name));
        let _running = answering(&running, b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").await;
        assert!(is_answered(&Places::Sockets(vec![running])).await);
        assert!(!is_answered(&Places::Sockets(vec![ended])).await);
    }

    /// A stopped program's kernel still accepts connections.
    #[tokio::test(start_paused = true)]
    async fn what_takes_long_ends_once_forebay_has_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let stopped = directory.path().join("stopped");
        let _stopped = answering(&stopped, b"").await;
        assert!(!is_answered(&Places::Sockets(vec![stopped])).await);
        let long = sleep(MAX_SILENCE * 100);
        assert!(while_answered(async || true, long).await.is_ok());
        let long = sleep(MAX_SILENCE * 100);
        let error = while_answered(async || false, long).await.unwrap_err();
        assert_eq!(error.to_string(), "forebay has sent nothing for 60 s: is it stopped?");
    }

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
