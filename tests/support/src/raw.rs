//! A client of HTTP/1.1 that sees how a message is framed, and that may leave in the middle of it.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::until::bounded;

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As long as announced, or with its last chunk.
    Whole(Vec<u8>),
    /// The connection was closed or reset before that; what came until then.
    Broken(Vec<u8>),
}

impl End {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) | Self::Broken(bytes) => bytes,
        }
    }

    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// One request and its answer; dropping it closes the connection.
pub struct Raw {
    stream: TcpStream,
    /// Read and not yet given out.
    buffer: Vec<u8>,
    pub status: u16,
    pub headers: HeaderMap,
    /// What is left of the announced length; `None`: the body is chunked.
    left: Option<u64>,
    /// What is left of the chunk at hand.
    chunk: u64,
    body: Vec<u8>,
}

impl Raw {
    /// Sends a GET and waits for the head of the answer.
    pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        bounded(Self::try_get(address, path, headers)).await.expect("an answer")
    }

    /// The same; `None` when the connection ended before there was a head.
    pub async fn try_get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<Self> {
        let stream = Self::send(address, path, headers).await?;
        Self::answer(stream).await
    }

    /// How a GET ends, also where the connection does before there is a head: forebay may find a fault that early.
    pub async fn end_of(address: SocketAddr, path: &str) -> End {
        match bounded(Self::try_get(address, path, &[])).await {
            Some(answer) => answer.rest().await,
            None => End::Broken(Vec::new()),
        }
    }

    /// Sends a GET and waits for nothing.
    pub async fn send(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<TcpStream> {
        Self::send_by(TcpStream::connect(address).await.ok()?, path, headers).await
    }

    /// A client whose kernel takes little ahead of it: where it reads is where forebay sends.
    pub async fn get_narrow(address: SocketAddr, path: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let stream = bounded(socket.connect(address)).await.unwrap();
        let sent = Self::send_by(stream, path, &[]).await.unwrap();
        bounded(Self::answer(sent)).await.expect("an answer")
    }

    async fn send_by(mut stream: TcpStream, path: &str, headers: &[(&str, &str)]) -> Option<TcpStream> {
        let address = stream.peer_addr().ok()?;
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n");
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        stream.write_all(format!("{request}\r\n").as_bytes()).await.ok()?;
        Some(stream)
    }

    /// Waits for the head of the answer.
    pub async fn answer(mut stream: TcpStream) -> Option<Self> {
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head: Vec<u8> = buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: HeaderMap = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let left = headers.get("content-length").map(|value| value.to_str().unwrap().parse().unwrap());
        Some(Self { stream, buffer, status, headers, left, chunk: 0, body: Vec::new() })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads until `len` bytes of the body have come in all; fails the test if they do not.
    pub async fn read(&mut self, len: usize) -> &[u8] {
        let wait = async {
            while self.body.len() < len {
                assert_eq!(
                    self.more(len - self.body.len()).await,
                    More::Bytes,
                    "the body ended at {}",
                    self.body.len()
                );
            }
        };
        bounded(wait).await;
        &self.body
    }

    /// The body so far, which is then forgotten: a test may read more than memory should hold.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Reads until `len` bytes of the body have come in all, or it ends.
    pub async fn read_some(&mut self, len: usize) {
        bounded(async { while self.body.len() < len && self.more(len - self.body.len()).await == More::Bytes {} })
            .await;
    }

    /// Reads to the end, whichever it is.
    pub async fn rest(mut self) -> End {
        bounded(async {
            loop {
                match self.more(usize::MAX).await {
                    More::Bytes => {}
                    More::End => return End::Whole(self.body),
                    More::Broken => return End::Broken(self.body),
                }
            }
        })
        .await
    }

    /// Whether a GET delivers no content: a clean 502 where the failure was known before the head, else a broken body, or no
    /// answer at all.
    pub async fn fails(address: SocketAddr, path: &str) -> bool {
        match bounded(Self::try_get(address, path, &[])).await {
            Some(answer) => answer.status == 502 || !answer.rest().await.is_whole(),
            None => true,
        }
    }

    async fn more(&mut self, limit: usize) -> More {
        let available = match self.left {
            Some(0) => return More::End,
            Some(left) => left,
            None if self.chunk > 0 => self.chunk,
            None => match self.next_chunk().await {
                Some(0) => return More::End,
                Some(len) => len,
                None => return More::Broken,
            },
        };
        if self.buffer.is_empty() && !self.fill().await {
            return More::Broken;
        }
        let taken = self.buffer.len().min(limit).min(usize::try_from(available).unwrap());
        self.body.extend(self.buffer.drain(..taken));
        match &mut self.left {
            Some(left) => *left -= taken as u64,
            None => self.chunk -= taken as u64,
        }
        More::Bytes
    }

    /// The length of the next chunk, 0 for the last; `None` when the connection ends before.
    async fn next_chunk(&mut self) -> Option<u64> {
        loop {
            // The line end of the chunk before.
            while self.buffer.first().is_some_and(|byte| *byte == b'\r' || *byte == b'\n') {
                self.buffer.remove(0);
            }
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let len = u64::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
                self.chunk = len;
                return Some(len);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(read) if read > 0)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum More {
    Bytes,
    End,
    Broken,
}
