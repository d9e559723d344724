//! The client of the control socket: how commands ask the forebay that runs here.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use forebay::{admin::control_socket, config::Config};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::{runtime::Builder, time::timeout};

/// How long forebay may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("no forebay runs here: nothing listens on {}; --control PATH names another socket", listed(.0))]
    NoneRuns(Vec<PathBuf>),
    #[error("this user may not use {}: be root, forebay's user, or a member of admin.socket_group", .0.display())]
    Denied(PathBuf),
    #[error("cannot use {}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("forebay does not answer as it should")]
    Answer(#[source] anyhow::Error),
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
pub(super) fn configuration(places: &[PathBuf]) -> Result<serde_json::Value, ControlError> {
    let running = get(places, "/api/v1/config")?;
    if !running["config"].is_object() {
        return Err(ControlError::Answer(anyhow::anyhow!("the answer has no configuration")));
    }
    Ok(running)
}

/// GETs a path of the control API from the first place where a forebay listens. Blocks.
///
/// # Errors
/// No forebay listens in any of the places, or it does not answer.
fn get(places: &[PathBuf], path: &str) -> Result<serde_json::Value, ControlError> {
    let socket = connect(places)?;
    let answer = || -> anyhow::Result<serde_json::Value> {
        socket.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        let answer = runtime.block_on(async { timeout(TIMEOUT, request(socket, path)).await })??;
        Ok(serde_json::from_slice(&answer)?)
    };
    answer().map_err(ControlError::Answer)
}

/// Connects to the first socket on which a program listens.
fn connect(places: &[PathBuf]) -> Result<UnixStream, ControlError> {
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

async fn request(socket: UnixStream, path: &str) -> anyhow::Result<Bytes> {
    let socket = tokio::net::UnixStream::from_std(socket)?;
    let (mut sender, connection) = handshake(TokioIo::new(socket)).await?;
    let request = Request::get(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        anyhow::ensure!(status.is_success(), "{status}");
        anyhow::Ok(body)
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection ends when the exchange does, or breaks before.
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
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
