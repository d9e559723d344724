//! Archives from and to the running forebay.
//!
//! What must hold: an archive that breaks off is never taken for a whole one. A forebay that has stopped ends the transfer.

use std::{
    io,
    sync::{Arc, OnceLock},
    thread,
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures_util::stream::unfold;
use http::{Method, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Incoming};
use serde_json::Value;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    Failure,
    connection::{Connection, ControlError, next_part, while_it_runs},
    progress::Progress,
    running::Places,
};

/// How many pieces of an archive wait to be sent.
const MAX_PIECES: usize = 4;
/// The longest answer to an archive, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why an archive was not transferred.
enum TransferError {
    Refused(ControlError),
    Failed(anyhow::Error),
}

impl From<ControlError> for TransferError {
    fn from(error: ControlError) -> Self {
        Self::Refused(error)
    }
}

impl From<anyhow::Error> for TransferError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Refused(error) => error.into(),
            TransferError::Failed(error) => Self::Failed(error),
        }
    }
}

/// What comes of an archive.
pub(super) enum Received<'a> {
    /// How long it will be, in bytes.
    Length(u64),
    Bytes(&'a [u8]),
}

/// What a signal does that ends the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnSignal {
    /// The transfer fails, and the caller cleans up.
    Fail,
    /// The process ends at once, also while it waits for a program that reads the archive.
    End,
}

/// Has an archive made by a POST of this document, and hands on what comes of it. Blocks.
///
/// # Errors
/// No forebay answers, it refuses, the archive breaks off, or `each` fails.
pub(super) fn download(
    places: &Places,
    (path, document): (&str, &Value),
    on_signal: OnSignal,
    each: impl FnMut(Received<'_>) -> io::Result<()>,
) -> Result<(), Failure> {
    run(receive(places, (path, document), each), on_signal)
}

/// Runs an exchange until it is over, or the person at the terminal ends it.
fn run<T>(exchange: impl Future<Output = Result<T, TransferError>>, on_signal: OnSignal) -> Result<T, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime");
    let runtime = runtime.map_err(Failure::Failed)?;
    let result = runtime.block_on(async {
        match on_signal {
            OnSignal::End => exchange.await,
            OnSignal::Fail => tokio::select! {
                result = exchange => result,
                Ok(()) = interrupted() => Err(anyhow::anyhow!("interrupted").into()),
            },
        }
    });
    // A thread may still try to connect.
    runtime.shutdown_background();
    Ok(result?)
}

/// Waits for a signal that ends a program.
async fn interrupted() -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn receive(
    places: &Places,
    (path, document): (&str, &Value),
    mut each: impl FnMut(Received<'_>) -> io::Result<()>,
) -> Result<(), TransferError> {
    let mut connection = Connection::begin(places).await?;
    let request = connection.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Full::<Bytes>::from(document.to_string())).context("this is no request")?;
    // Before the head, forebay downloads what it does not have.
    let response = while_it_runs(places, connection.send(request)).await?.context("forebay does not answer")?;
    if !response.status().is_success() {
        return Err(connection.refusal(response).await.into());
    }
    let mut body = response.into_body();
    let mut take = |received: Received<'_>| each(received).context("cannot write the archive");
    if let Some(len) = body.size_hint().exact() {
        take(Received::Length(len))?;
    }
    while let Some(frame) = next_part(body.frame()).await? {
        let frame = frame.context("forebay broke the archive off; its log says why")?;
        if let Some(bytes) = frame.data_ref() {
            take(Received::Bytes(bytes))?;
        }
    }
    Ok(())
}

/// Takes the pieces of an archive that is sent.
pub(super) struct Sink(mpsc::Sender<io::Result<Bytes>>);

impl Sink {
    /// Waits until the piece can be sent. Blocks.
    ///
    /// # Errors
    /// forebay wants no more.
    pub(super) fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// POSTs an archive, and returns what forebay answers. Blocks.
///
/// # Errors
/// No forebay answers, it refuses the archive, or that cannot be read.
pub(super) fn upload(
    places: &Places,
    path: &str,
    len: Option<u64>,
    source: impl FnOnce(&mut Sink) -> io::Result<()> + Send + 'static,
) -> Result<Value, Failure> {
    let (sender, pieces) = mpsc::channel(MAX_PIECES);
    let unread = Arc::new(OnceLock::new());
    let problem = unread.clone();
    // Standard input may never end: when forebay has answered, a thread that still reads is left alone.
    thread::spawn(move || {
        let mut sink = Sink(sender);
        if let Err(error) = source(&mut sink)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let _ = problem.set(error.to_string());
            // The archive must not look as if this were its end.
            let _ = sink.0.blocking_send(Err(error));
        }
    });
    let answer = run(post(places, path, len, pieces), OnSignal::Fail);
    match (answer, unread.get()) {
        (Err(_), Some(problem)) => Err(Failure::Failed(anyhow::anyhow!("cannot read the archive: {problem}"))),
        (answer, _) => answer,
    }
}

async fn post(
    places: &Places,
    path: &str,
    len: Option<u64>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<Value, TransferError> {
    let mut progress = Progress::begin();
    if let Some(len) = len {
        progress.set_total(len);
    }
    let frames = unfold((pieces, progress), |(mut pieces, mut progress)| async {
        let piece = pieces.recv().await?;
        progress.add(piece.as_ref().map_or(0, Bytes::len));
        Some((piece.map(Frame::data), (pieces, progress)))
    });
    let mut connection = Connection::begin(places).await?;
    let mut request = connection.request(Method::POST, path).header(header::CONTENT_TYPE, "application/x-tar");
    if let Some(len) = len {
        request = request.header(header::CONTENT_LENGTH, len);
    }
    let request = request.body(StreamBody::new(frames).boxed_unsync()).context("this is no request")?;
    let sent = while_it_runs(places, connection.send(request)).await?;
    let response = sent.context("forebay does not take the archive")?;
    let status = response.status();
    let answer = connection.timed(document(response.into_body())).await?;
    let answer = answer.context("forebay does not answer as it should")?;
    if status.is_success() { Ok(answer) } else { Err(connection.refused(status.as_u16(), &answer).into()) }
}

/// The document of a response. forebay keeps one open that refuses an archive, as long as that is being sent.
async fn document(mut body: Incoming) -> anyhow::Result<Value> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
        anyhow::ensure!(bytes.len() <= MAX_ANSWER, "the answer is longer than {MAX_ANSWER} bytes");
        if let Ok(answer) = serde_json::from_slice(&bytes) {
            return Ok(answer);
        }
    }
    anyhow::bail!("the answer breaks off")
}
