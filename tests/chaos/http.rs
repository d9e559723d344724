//! Requests as clients of many kinds send them, and exactly what came back: HTTP/1 by hand, so that an end that is not
//! clean is seen as one.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer that comes no further for so long is given up.
pub const PATIENCE: Duration = Duration::from_secs(75);

/// How a client takes what it gets.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Fast,
    /// A pause after every piece of this size.
    Slow(usize),
    /// Goes away after so many bytes.
    Abort(usize),
}

#[derive(Debug, Default)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The answer came to its announced end.
    pub complete: bool,
    /// The longest time without a new byte, the head's included.
    pub stall: Duration,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// forebay says that it had this already.
    pub fn is_hit(&self) -> bool {
        self.header("cache-status").is_some_and(|value| value.contains("hit"))
    }

    pub fn is_stale(&self) -> bool {
        self.header("cache-status").is_some_and(|value| value.contains("stale"))
    }
}

/// One HTTP/1 request on a connection of its own. `Err`: there was no connection.
pub async fn exchange(port: u16, request: &str, content: &[u8], pace: Pace) -> io::Result<Got> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut got = Got::default();
    // Whatever goes wrong from here on, the answer is what came so far.
    let _broken = converse(&mut stream, request, content, pace, &mut got).await;
    Ok(got)
}

async fn converse(stream: &mut TcpStream, request: &str, content: &[u8], pace: Pace, got: &mut Got) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    // An answer may come before the content is taken.
    stream.write_all(content).await.ok();
    let mut read = Vec::new();
    let body_at = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, &mut read, got, 64 * 1024).await?;
    };
    got.head = String::from_utf8_lossy(read.get(..body_at).unwrap_or_default()).into_owned();
    got.status = got.head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    got.body = read.split_off(body_at);
    if request.starts_with("HEAD ") || got.status == 204 || got.status == 304 {
        got.complete = true;
        return Ok(());
    }
    let chunked = got.header("transfer-encoding").is_some();
    let length: Option<usize> = got.header("content-length").and_then(|value| value.parse().ok());
    loop {
        if let Pace::Abort(after) = pace
            && got.body.len() >= after
        {
            return Ok(());
        }
        if let Some(length) = length
            && got.body.len() >= length
        {
            got.complete = got.body.len() == length;
            return Ok(());
        }
        if chunked && let Some(whole) = dechunk(&got.body) {
            got.body = whole;
            got.complete = true;
            return Ok(());
        }
        let mut body = std::mem::take(&mut got.body);
        let at_once = if let Pace::Slow(piece) = pace { piece } else { 256 * 1024 };
        let ended = more(stream, &mut body, got, at_once).await;
        got.body = body;
        ended?;
        if let Pace::Slow(_) = pace {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Reads on; the end of the connection is an error.
async fn more(stream: &mut TcpStream, into: &mut Vec<u8>, got: &mut Got, at_once: usize) -> io::Result<()> {
    let start = Instant::now();
    let read = timeout(PATIENCE, (&mut *stream).take(at_once as u64).read_buf(into)).await;
    got.stall = got.stall.max(start.elapsed());
    match read {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The content of a chunked body that has come to its end.
fn dechunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(body.get(..line)?).ok()?, 16).ok()?;
        body = body.get(line + 2..)?;
        if size == 0 {
            return body.starts_with(b"\r\n").then_some(whole);
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}
