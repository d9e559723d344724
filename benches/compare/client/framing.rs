//! Where one response ends and the next begins, for a client that requests the same blob again and again.

use std::io;

/// A registry sends no longer head.
const HEAD_MAX: usize = 16 * 1024;

/// One connection's place in its stream of responses. Every head must be a 200 that announces the blob's length.
pub struct Framing {
    length: u64,
    head: Vec<u8>,
    left: u64,
    received: u64,
}

impl Framing {
    /// For responses with bodies of this length.
    pub fn new(length: u64) -> Self {
        Self { length, head: Vec::with_capacity(1024), left: 0, received: 0 }
    }

    /// How many bytes of the body are still to come; 0: a head is next.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether a response is over and no byte of the next one has arrived.
    pub fn at_boundary(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }

    /// The body bytes of all responses together.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Counts body bytes that were discarded unseen; never more than [`left`](Self::left).
    pub fn skip(&mut self, count: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(count).ok_or_else(|| wrong("the body is longer than its Content-Length"))?;
        self.received += count;
        Ok(())
    }

    /// Reads bytes of a head, of a body, or of both. Returns the body bytes among them.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        if self.left > 0 {
            self.skip(bytes.len() as u64)?;
            return Ok(bytes);
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if self.head.len() > HEAD_MAX { Err(wrong("the head has no end")) } else { Ok(&[]) };
        };
        self.check(end)?;
        let body = &bytes[end + 4 - before..];
        self.head.clear();
        self.left = self.length;
        self.skip(body.len() as u64)?;
        Ok(body)
    }

    fn check(&self, end: usize) -> io::Result<()> {
        let head = String::from_utf8_lossy(&self.head[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200") {
            return Err(wrong(&format!("the answer is {status:?}")));
        }
        let announced = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<u64>().ok());
        if announced != Some(self.length) {
            return Err(wrong(&format!("Content-Length is {announced:?}, the blob has {}", self.length)));
        }
        Ok(())
    }
}

/// The server broke a rule of HTTP, or sent another blob.
pub fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
