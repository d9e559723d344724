//! HTTP/1.1 over TLS 1.3 with AES-128-GCM, and nothing else, so that all servers do the same work.
//!
//! This client has to decrypt, on the same cores that the server needs; it does not copy plaintext.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use sha2::{Digest as _, Sha256};

use super::{Streamed, Target, framing::Framing, framing::wrong};

const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes that one `recv` takes: rustls itself would read a few KiB at a time.
const BUFFER: usize = 256 * 1024;

/// A configuration that trusts this authority and offers these protocols (ALPN).
pub fn config(authority_pem: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// As [`clear::stream`](super::clear::stream), one thread for each connection.
pub fn stream(target: &Target, config: &Arc<ClientConfig>, connections: usize, time: Duration) -> io::Result<Streamed> {
    let ready = Arc::new(Barrier::new(connections + 1));
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (target, config, ready) = (target.clone(), Arc::clone(config), Arc::clone(&ready));
            thread::spawn(move || {
                let opened = Connection::open(&target, config);
                ready.wait();
                let mut connection = opened?;
                let start = Instant::now();
                while start.elapsed() < time {
                    connection.receive(&target, |_| ())?;
                }
                Ok((vec![connection.framing.received()], start.elapsed()))
            })
        })
        .collect();
    ready.wait();
    Streamed::collect(target, workers)
}

/// Downloads the blob once and compares its digest.
pub fn verify(target: &Target, config: &Arc<ClientConfig>, digest: &str) -> io::Result<()> {
    let mut connection = Connection::open(target, Arc::clone(config))?;
    let mut hasher = Sha256::new();
    while connection.framing.received() < target.length {
        connection.receive(target, |bytes| hasher.update(bytes))?;
    }
    let got = format!("sha256:{}", hex::encode(hasher.finalize()));
    if got == digest { Ok(()) } else { Err(wrong(&format!("the body is {got}, not {digest}"))) }
}

struct Connection {
    tls: ClientConnection,
    socket: BufReader<TcpStream>,
    request: Vec<u8>,
    framing: Framing,
}

impl Connection {
    /// Performs the handshake and sends a request.
    fn open(target: &Target, config: Arc<ClientConfig>) -> io::Result<Self> {
        let socket = TcpStream::connect(target.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::IpAddress(target.address.ip().into());
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let socket = BufReader::with_capacity(BUFFER, socket);
        let mut connection = Self { tls, socket, request: target.request(), framing: Framing::new(target.length) };
        while connection.tls.is_handshaking() {
            connection.flush()?;
            connection.read_records()?;
        }
        connection.ask()?;
        Ok(connection)
    }

    fn ask(&mut self) -> io::Result<()> {
        self.tls.writer().write_all(&self.request)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(self.socket.get_mut())?;
        }
        Ok(())
    }

    fn read_records(&mut self) -> io::Result<()> {
        if self.tls.read_tls(&mut self.socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        Ok(())
    }

    /// Receives the next records; sends the next request at the end of a response.
    fn receive(&mut self, target: &Target, mut body: impl FnMut(&[u8])) -> io::Result<()> {
        self.read_records()?;
        loop {
            let mut reader = self.tls.reader();
            let bytes = match reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = bytes.len();
            body(self.framing.read(bytes)?);
            reader.consume(count);
            if self.framing.at_boundary() && self.framing.received().is_multiple_of(target.length) {
                self.ask()?;
            }
        }
    }
}
