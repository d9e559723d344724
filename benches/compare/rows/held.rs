//! HTTP/2 streams whose clients take one byte of a cached blob, and then nothing.

use bytes::Bytes;
use futures_util::future::try_join_all;
use h2::{RecvStream, client::SendRequest};
use http::Request;
use tokio::net::TcpStream;

use super::{BLOB, Setup, Upstream, check};
use crate::{
    client::Target,
    cpu,
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};
use forebay_test_support::until::until;

const CONNECTIONS: usize = 10;
/// As many as forebay allows.
const STREAMS: usize = 100;

pub async fn held_streams(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let (mut memory, mut before) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds.min(3) {
        let folder = tempfile::TempDir::with_prefix("forebay-compare-held-").unwrap();
        let cache = folder.path().join("cache");
        let options = Options { cache: Some(&cache), ..Options::default() };
        {
            let forebay = Forebay::start(&setup.program, &upstream.registry.url(), options).await;
            check(&upstream.at(&forebay), &upstream.digest).await;
            forebay.until_cached(&upstream.digest).await;
        }
        let forebay = Forebay::start(&setup.program, &upstream.registry.url(), options).await;
        let target = upstream.at(&forebay);
        check(&target, &upstream.digest).await;
        before.push(mebibytes(&forebay));
        let held = try_join_all((0..CONNECTIONS).map(|_| hold(&target))).await.unwrap();
        until("forebay reads nothing more", async || {
            let peak = mebibytes(&forebay);
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            (mebibytes(&forebay) == peak).then_some(())
        })
        .await;
        memory.push(mebibytes(&forebay));
        drop(held);
    }
    let figure = |measure, goal, forebay| Figure { measure, unit: "MiB", goal, peer: Vec::new(), forebay };
    Row {
        work: format!("{CONNECTIONS} connections x {STREAMS} HTTP/2 streams that take one byte of a hit"),
        peer: String::new(),
        figures: vec![figure("peak RSS", Goal::AtMost(64.0), memory), figure("before them", Goal::Shown, before)],
        idle: None,
    }
}

fn mebibytes(forebay: &Forebay) -> f64 {
    cpu::peak_memory(forebay.process()).unwrap() as f64 / f64::from(1 << 20)
}

/// A connection whose responses have begun.
async fn hold(target: &Target) -> Result<(SendRequest<Bytes>, Vec<RecvStream>), h2::Error> {
    let tcp = TcpStream::connect(target.address).await.unwrap();
    let (requests, connection) = h2::client::Builder::new().initial_window_size(1).handshake(tcp).await?;
    tokio::spawn(connection);
    let uri = format!("http://{}{}", target.address, target.path);
    let mut bodies = Vec::new();
    for _ in 0..STREAMS {
        let request = Request::get(&uri).body(()).unwrap();
        let (response, _) = requests.clone().ready().await?.send_request(request, true)?;
        let mut body = response.await?.into_body();
        // It comes, and the window is not opened again.
        body.data().await.transpose()?;
        bodies.push(body);
    }
    Ok((requests, bodies))
}
