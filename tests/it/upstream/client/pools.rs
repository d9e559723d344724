//! Which requests share connections.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use forebay::upstream::Config;
use http::{Method, Request, Response};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::upstream::{
    MANIFEST, Subject, WHOLE,
    client::connection_reuse::{QUESTIONS, ask, digest},
    config_of, name,
};
use forebay_test_support::{test_ca::TestCa, until::bounded};

type Seen = Arc<Mutex<Vec<(usize, String)>>>;

/// Speaks HTTP/2 with one stream at a time, and never ends the body of a blob.
async fn serve(tcp: TcpListener, tls: TlsAcceptor, seen: Seen) {
    for number in 0.. {
        let (stream, _) = tcp.accept().await.unwrap();
        let (tls, seen) = (tls.clone(), seen.clone());
        tokio::spawn(async move {
            let stream = tls.accept(stream).await.unwrap();
            let mut server = h2::server::Builder::new();
            let mut connection = server.max_concurrent_streams(1).handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                seen.lock().unwrap().push((number, format!("{} {}", request.method(), request.uri().path())));
                tokio::spawn(answer(request, respond));
            }
        });
    }
}

async fn answer<B>(request: Request<B>, mut respond: h2::server::SendResponse<Bytes>) {
    let is_whole_blob = request.uri().path().contains("/blobs/")
        && request.method() == Method::GET
        && !request.headers().contains_key("range");
    let content = Bytes::from_static(br#"{"schemaVersion":2}"#);
    let head = Response::builder().header("content-type", MANIFEST).header("content-length", content.len());
    let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
    if is_whole_blob {
        body.send_data(content.slice(..3), false).unwrap();
        std::future::pending::<()>().await;
    }
    let sent = if request.method() == Method::HEAD { Bytes::new() } else { content };
    body.send_data(sent, true).unwrap();
}

#[tokio::test]
async fn a_blob_that_holds_all_streams_stops_nothing_else() {
    let ca = TestCa::new();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}", tcp.local_addr().unwrap())).unwrap();
    let seen = Seen::default();
    let serving = tokio::spawn(serve(tcp, TlsAcceptor::from(ca.server(&["127.0.0.1"])), seen.clone()));
    let subject = Subject::new(&Config { ca: Some(ca.path()), ..config_of([url]) });
    let repository = name("team/app");
    let held = bounded(subject.upstream.open_blob(&repository, &digest(), WHOLE)).await.unwrap();
    for what in QUESTIONS.into_iter().filter(|what| !what.starts_with("blob")) {
        bounded(ask(&subject, what)).await.unwrap();
    }
    assert_eq!(bounded(subject.upstream.head_blob(&repository, &digest())).await.unwrap().len, Some(19));
    let numbers: Vec<usize> = seen.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 1, 1, 1, 1], "{:?}", seen.lock().unwrap());
    drop(held);
    serving.abort();
}
