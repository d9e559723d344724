//! The client of the control API: how commands ask the running forebay.

use std::ops::ControlFlow;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::{Value, json};
use tokio::{runtime::Builder, signal::ctrl_c};

pub(super) use super::connection::ControlError;
use super::{
    connection::{Connection, next_part},
    events::{Event, EventParser},
    output::reader_left,
    running::Places,
};

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The longest word of `/readyz`, in bytes.
const MAX_STATE: usize = 64;

/// The running configuration: `GET /api/v1/config`. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or another program does.
pub(super) fn configuration(places: &Places) -> Result<Value, ControlError> {
    let running = get(places, "/api/v1/config")?;
    if !running["config"].is_object() {
        return Err(ControlError::Answer(anyhow::anyhow!("the answer has no configuration")));
    }
    Ok(running)
}

/// GETs a resource of the control API. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or it does not answer.
pub(super) fn get(places: &Places, path: &str) -> Result<Value, ControlError> {
    exchange(places, (Method::GET, path, None))
}

/// What `/readyz` of the admin listener says, to readers without a token as well: `state` and `ready` of the status. Blocks.
///
/// # Errors
/// No forebay listens there, or it does not answer.
pub(super) fn readiness(places: &Places) -> Result<Value, ControlError> {
    run(places, async |mut connection| {
        let answer = connection.answer(request_of(&connection, (Method::GET, "/readyz", None))?).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_STATE).collect();
        let body = connection.timed(body).await?.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let state = String::from_utf8_lossy(&body).trim_end().to_owned();
        match (status, &*state) {
            (200, "ready") => Ok(json!({ "state": state, "ready": true })),
            (503, "starting" | "draining") => Ok(json!({ "state": state, "ready": false })),
            _ => Err(ControlError::NotForebay(status)),
        }
    })
}

/// POSTs a document to a resource that answers by another. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or it does not answer.
pub(super) fn change(places: &Places, path: &str, document: &Value) -> Result<Value, ControlError> {
    exchange(places, (Method::POST, path, Some(document)))
}

fn exchange(places: &Places, (method, path, document): (Method, &str, Option<&Value>)) -> Result<Value, ControlError> {
    run(places, async |mut connection| {
        let answer = connection.succeed(request_of(&connection, (method, path, document))?).await?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect();
        let body = connection.timed(body).await?.map_err(|error| anyhow::anyhow!(error))?;
        Ok(serde_json::from_slice(&body.to_bytes()).map_err(anyhow::Error::from)?)
    })
}

/// POSTs to a resource, with a document or without a body, that answers by events, and hands each on as it comes. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, it does not answer, the answer breaks off, or the person at the terminal ends it.
pub(super) fn post(
    places: &Places,
    path: &str,
    document: Option<&Value>,
    mut each: impl FnMut(Event),
) -> Result<(), ControlError> {
    run(places, async |mut connection| {
        let request = request_of(&connection, (Method::POST, path, document))?;
        let events = events(&mut connection, request, |event| {
            each(event);
            ControlFlow::Continue(())
        });
        tokio::select! {
            ended = events => ended,
            Ok(()) = ctrl_c() => Err(ControlError::Interrupted),
        }
    })
}

/// DELETEs a resource that answers by events, and hands each on as it comes. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, it does not answer, or the answer breaks off.
pub(super) fn delete(places: &Places, path: &str, mut each: impl FnMut(Event)) -> Result<(), ControlError> {
    run(places, async |mut connection| {
        let request = request_of(&connection, (Method::DELETE, path, None))?;
        events(&mut connection, request, |event| {
            each(event);
            ControlFlow::Continue(())
        })
        .await
    })
}

/// GETs what happens from now on, and hands each event on until `each` wants no more: what it breaks with; `None` if the reader
/// of standard output has left. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, it does not answer, or the events end.
pub(super) fn follow<T>(
    places: &Places,
    path: &str,
    mut each: impl FnMut(Event) -> ControlFlow<T>,
) -> Result<Option<T>, ControlError> {
    run(places, async |mut connection| {
        let mut last = None;
        let request = request_of(&connection, (Method::GET, path, None))?;
        let events = events(&mut connection, request, |event| match each(event) {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(result) => {
                last = Some(result);
                ControlFlow::Break(())
            }
        });
        tokio::select! {
            ended = events => ended?,
            () = reader_left() => return Ok(None),
        }
        last.map(Some).ok_or(ControlError::Ended)
    })
}

/// Connects, and runs an exchange on a runtime of its own.
fn run<T>(
    places: &Places,
    work: impl AsyncFnOnce(Connection<Full<Bytes>>) -> Result<T, ControlError>,
) -> Result<T, ControlError> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime");
    let runtime = runtime.map_err(ControlError::Answer)?;
    let result = runtime.block_on(async { work(Connection::begin(places).await?).await });
    // The look-up of a name may go on for longer than its time.
    runtime.shutdown_background();
    result
}

/// A request with a document, or without a body.
fn request_of(
    connection: &Connection<Full<Bytes>>,
    (method, path, document): (Method, &str, Option<&Value>),
) -> Result<Request<Full<Bytes>>, ControlError> {
    let mut request = connection.request(method, path);
    if document.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = document.map(Value::to_string).unwrap_or_default();
    Ok(request.body(Full::from(body)).map_err(anyhow::Error::from)?)
}

/// Hands the events of a response on as they come, until it ends or `each` wants no more.
async fn events(
    connection: &mut Connection<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    mut each: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<(), ControlError> {
    let answer = connection.succeed(request).await?;
    let (mut body, mut parser) = (answer.into_body(), EventParser::default());
    while let Some(frame) = next_part(body.frame()).await? {
        let frame = frame.map_err(|_| ControlError::Ended)?;
        let events = parser.push(frame.data_ref().map_or(&[][..], |data| data)).map_err(anyhow::Error::from)?;
        if events.into_iter().try_for_each(&mut each).is_break() {
            break;
        }
    }
    Ok(())
}
