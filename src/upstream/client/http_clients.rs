//! The HTTP clients of one upstream.
//!
//! What must hold: none follows a redirect, sends a Referer, keeps a cookie or decodes a body by itself.

use reqwest::{Client, redirect::Policy};

use super::{
    blob_client::BlobClient,
    client_options::{ClientOptions, KEEPALIVE, KEEPALIVE_TIMEOUT, MAX_HEAD, MAX_HEADERS, MAX_IDLE, USER_AGENT},
    http_client::HttpClient,
    new_connections::NoteNewConnections,
    outbound_request::RequestMode,
};

/// The HTTP clients of one upstream; each has connections of its own.
pub(super) struct Clients {
    pub general: HttpClient,
    /// For bodies of blobs. Over HTTP/2, slow ones would take the streams of other requests.
    pub blobs: HttpClient,
    /// For uploads, for the same reason.
    pub uploads: Client,
    /// For requests that each need a connection of their own, which HTTP/2 would not give them.
    pub dedicated: HttpClient,
    /// Keeps no idle connection: each request opens one.
    pub fresh: HttpClient,
    /// The same for bodies of blobs.
    pub fresh_blobs: HttpClient,
}

impl Clients {
    pub(super) fn new(options: &ClientOptions) -> reqwest::Result<Self> {
        let any = ["h2", "http/1.1"];
        Ok(Self {
            general: reqwest_client(options, &any, usize::MAX)?.into(),
            blobs: blob_client(options, &any, usize::MAX)?,
            uploads: reqwest_client(options, &any, usize::MAX)?,
            dedicated: blob_client(options, &["http/1.1"], usize::MAX)?,
            fresh: reqwest_client(options, &any, 0)?.into(),
            fresh_blobs: blob_client(options, &any, 0)?,
        })
    }

    /// The client of a request without an upload, and the one that sends it again on a new connection.
    pub(super) fn of(&self, mode: RequestMode, is_blob_body: bool) -> (&HttpClient, &HttpClient) {
        match mode {
            RequestMode::Dedicated => (&self.dedicated, &self.fresh_blobs),
            RequestMode::Normal | RequestMode::Push if is_blob_body => (&self.blobs, &self.fresh_blobs),
            RequestMode::Normal | RequestMode::Push => (&self.general, &self.fresh),
        }
    }
}

/// A client whose read buffers are small where no proxy is in between; for the rest see [`reqwest_client`].
fn blob_client(options: &ClientOptions, protocols: &[&str], max_idle: usize) -> reqwest::Result<HttpClient> {
    Ok(HttpClient {
        general: reqwest_client(options, protocols, max_idle)?,
        blobs: Some(BlobClient::new(options, options.tls(protocols), max_idle)),
    })
}

/// A client that speaks these protocols and keeps at most `max_idle` idle connections to a host.
fn reqwest_client(options: &ClientOptions, protocols: &[&str], max_idle: usize) -> reqwest::Result<Client> {
    Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(options.headers.clone())
        .redirect(Policy::none())
        .referer(false)
        // `ResendingClient` decides what is sent again: reqwest would repeat a push.
        .retry(reqwest::retry::never())
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(MAX_IDLE)
        .pool_max_idle_per_host(max_idle)
        .connector_layer(NoteNewConnections)
        .http1_max_headers(MAX_HEADERS)
        .http2_max_header_list_size(MAX_HEAD)
        .tcp_keepalive(KEEPALIVE)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .dns_resolver(options.filter.clone())
        .tls_backend_preconfigured(options.tls(protocols))
        .build()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, header};
    use reqwest::Url;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };
    use tokio_rustls::LazyConfigAcceptor;

    use super::*;
    use crate::upstream::client::{
        address_filter::AddressFilter, blob_client::READ_BUFFER, http_request::HttpRequest, trust,
    };

    async fn listen(scheme: &str) -> (TcpListener, Url) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("{scheme}://{}/blob", listener.local_addr().unwrap()).parse().unwrap();
        (listener, url)
    }

    fn clients(url: &Url) -> Clients {
        let headers = HeaderMap::from_iter([(header::VIA, HeaderValue::from_static("1.1 test"))]);
        let tls = trust::configuration("test", Vec::new()).unwrap();
        let filter = AddressFilter::new(std::slice::from_ref(url), &[]);
        let connect_timeout = std::time::Duration::from_secs(10);
        Clients::new(&ClientOptions { headers, tls, filter, connect_timeout }).unwrap()
    }

    fn request(url: &Url) -> HttpRequest {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("a/b"))]);
        HttpRequest { method: Method::GET, url: url.clone(), headers, body: None }
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Responds to one request with a body of this length; sends the head of the request, then waits until its kernel
    /// accepts no more bytes at once.
    async fn serve(listener: TcpListener, len: usize, full: oneshot::Sender<String>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n").as_bytes()).await.unwrap();
        let body = vec![7; len];
        let mut sent = 0;
        while let Ok(bytes) = stream.try_write(&body[sent..]) {
            sent += bytes;
            if sent == len {
                break;
            }
        }
        full.send(head).unwrap();
        stream.write_all(&body[sent..]).await.unwrap();
    }

    async fn a_blob_comes_in_small_pieces(url: &Url, listener: TcpListener, client: &HttpClient) {
        const LEN: usize = 4 << 20;
        let (full, waits) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, LEN, full));
        let mut response = client.blobs.as_ref().unwrap().send(&request(url)).await.unwrap();
        let head = waits.await.unwrap();
        let (mut most, mut len) = (0, 0);
        while let Some(piece) = response.chunk().await.unwrap() {
            (most, len) = (most.max(piece.len()), len + piece.len());
        }
        serving.await.unwrap();
        assert_eq!(len, LEN);
        // hyper's buffer grows by doubling.
        assert!(most <= 2 * READ_BUFFER, "{most}");
        let headers: Vec<&str> = head.lines().skip(1).filter(|line| !line.is_empty()).collect();
        for expected in ["via: 1.1 test", "accept: a/b", concat!("user-agent: forebay/", env!("CARGO_PKG_VERSION"))] {
            assert!(headers.contains(&expected), "{headers:?}");
        }
        assert_eq!(headers.len(), 4, "{headers:?}");
    }

    #[tokio::test]
    async fn no_piece_of_a_blob_is_larger_than_two_read_buffers() {
        for mode in [RequestMode::Normal, RequestMode::Push, RequestMode::Dedicated] {
            for is_resent in [false, true] {
                let (listener, url) = listen("http").await;
                let clients = clients(&url);
                let (client, fresh) = clients.of(mode, true);
                a_blob_comes_in_small_pieces(&url, listener, if is_resent { fresh } else { client }).await;
            }
        }
    }

    #[tokio::test]
    async fn only_a_dedicated_client_never_offers_http2() {
        for (mode, offers) in [(RequestMode::Normal, &["h2", "http/1.1"][..]), (RequestMode::Dedicated, &["http/1.1"])]
        {
            let (listener, url) = listen("https").await;
            let clients = clients(&url);
            let offered = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let hello = LazyConfigAcceptor::new(Default::default(), stream).await.unwrap();
                let protocols = hello.client_hello().alpn().unwrap();
                protocols.map(|protocol| String::from_utf8(protocol.to_vec()).unwrap()).collect::<Vec<_>>()
            });
            clients.of(mode, true).0.blobs.as_ref().unwrap().send(&request(&url)).await.unwrap_err();
            assert_eq!(offered.await.unwrap(), offers, "{mode:?}");
        }
    }

    #[tokio::test]
    async fn a_blob_that_is_resent_has_a_connection_of_its_own() {
        let (listener, url) = listen("http").await;
        let serving = tokio::spawn(async move {
            let mut kept = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                kept.push(stream);
            }
            kept
        });
        let clients = clients(&url);
        for _ in 0..2 {
            let client = clients.of(RequestMode::Dedicated, true).1.blobs.as_ref().unwrap();
            let request = request(&url);
            let sent = tokio::time::timeout(std::time::Duration::from_secs(10), client.send(&request));
            assert_eq!(sent.await.unwrap().unwrap().status(), 204);
        }
        serving.await.unwrap();
    }
}
