//! A transfer from the upstream that outlives its connections.
//!
//! When a body breaks, the next request asks for the rest by Range, with a new token and a new signed URL
//! if need be (the upstream stage sees to those), and the reader of this notices only the pause. An upstream
//! that ignores Range is read from the front again, and what is there already is thrown away.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};

use super::Source;
use crate::upstream::{BlobRange, BlobStream, Error, ErrorKind, Mirrors};

/// How long an upstream may be gone in the middle of a blob before its readers are told.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause before asking again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Breaks are forgotten once this many bytes of use have come since, so that an upstream that cuts every connection
/// after a while still gets through, and one that drips does not.
const PROGRESS: u64 = 64 * 1024;
/// A transfer that breaks this often without that is not worth going on with.
const MOST_BREAKS: u32 = 50;

/// Where the bytes of a transfer come from just now.
#[derive(Clone, Debug)]
pub enum Flow {
    /// The upstream was asked and has not answered.
    Asking,
    /// From the registry, or by way of these forebays.
    From(Option<Mirrors>),
}

/// Bytes of a blob from one position on, resumed as often as needed.
pub struct Transfer {
    source: Source,
    /// The offset of the next byte given out.
    position: u64,
    /// The last byte wanted, when not all are.
    last: Option<u64>,
    total: Option<u64>,
    stream: Option<BlobStream>,
    /// Bytes to throw away: the upstream began further in front than it was asked to.
    skip: u64,
    /// What [`Transfer::ready`] came across and [`Transfer::next`] has to deal with.
    seen: Option<Result<Option<Bytes>, Error>>,
    /// Breaks that are not forgotten, and the bytes of use since the last one that was.
    breaks: u32,
    gained: u64,
    pause: Duration,
    /// For how long it is tried to go on.
    patience: Duration,
    /// Whether an upstream that refuses ranges is asked for the whole blob, and whether it is already.
    stubborn: bool,
    plain: bool,
    has_parts: bool,
    /// When the first of those was: a connection that went silent has used up its own patience already.
    broken_since: Option<Instant>,
    flow: Option<watch::Sender<Flow>>,
}

impl Transfer {
    /// Asks for the bytes from `first` to `last`, or to the end; what the upstream answers at once is the caller's.
    pub async fn open(source: &Source, first: u64, last: Option<u64>) -> Result<Self, Error> {
        let range = BlobRange { first, last };
        let stream = source.upstream.open_blob(&source.repository, &source.digest, range).await?;
        let mut transfer = Self { position: first, last, total: stream.total, ..Self::finished(source, first) };
        transfer.take(stream)?;
        Ok(transfer)
    }

    /// Goes on with a transfer whose readers have begun: an upstream that cannot answer now is waited for as if the
    /// transfer had broken here.
    pub fn going_on(source: &Source, first: u64, last: Option<u64>, total: Option<u64>) -> Self {
        Self { position: first, last, total, pause: Duration::ZERO, ..Self::finished(source, first) }
    }

    /// Nothing is left to transfer: all `total` bytes are here from an earlier one.
    pub fn finished(source: &Source, total: u64) -> Self {
        Self {
            source: source.clone(),
            position: total,
            last: None,
            total: Some(total),
            stream: None,
            skip: 0,
            seen: None,
            breaks: 0,
            gained: 0,
            pause: FIRST_PAUSE,
            patience: PATIENCE,
            stubborn: false,
            plain: false,
            has_parts: false,
            broken_since: None,
            flow: None,
        }
    }

    /// Tells `flow` from now on where the bytes come from.
    pub fn telling(mut self, flow: &watch::Sender<Flow>) -> Self {
        self.flow = Some(flow.clone());
        self.tell();
        self
    }

    fn tell(&self) {
        if let Some(flow) = &self.flow {
            flow.send_replace(self.flow());
        }
    }

    /// Where the bytes come from.
    pub fn flow(&self) -> Flow {
        self.stream.as_ref().map_or(Flow::Asking, |stream| Flow::From(stream.mirrors.clone()))
    }

    /// Tries for no longer than this to go on when it breaks: somebody else will.
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Reads the whole blob over again, should the upstream refuse to give a part of it.
    pub fn stubborn(self) -> Self {
        Self { stubborn: true, ..self }
    }

    /// Never asks for a part of the blob: one that broke is read from the front again.
    pub fn in_one_go(self) -> Self {
        Self { plain: true, last: None, ..self }
    }

    /// Whether part of it came as an answer to a request for a part.
    pub fn has_parts(&self) -> bool {
        self.has_parts
    }

    /// Whether it had to.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The size of the whole blob, once known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes the upstream sends that were not asked for, until the position is reached; 0 when it serves ranges.
    pub fn skipping(&self) -> u64 {
        self.skip
    }

    /// Starts from the front after all, where the upstream's answer starts.
    pub fn restart(&mut self) {
        self.position -= std::mem::take(&mut self.skip);
    }

    /// The next bytes; `None` after the last. Cancel-safe.
    ///
    /// An error is final: patience has run out, or the upstream says that there is no such blob for us.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.at_end() {
                return Ok(None);
            }
            let broke = match self.seen.take() {
                Some(seen) => seen,
                None => match &mut self.stream {
                    Some(stream) => stream.next().await,
                    None => {
                        self.reopen().await?;
                        continue;
                    }
                },
            };
            match broke {
                Ok(Some(bytes)) => {
                    if let Some(bytes) = self.accept(bytes) {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) if self.total.is_none() => {
                    self.total = Some(self.position);
                    return Ok(None);
                }
                Ok(None) => self.broke(Error::new(ErrorKind::Unavailable, "the body ended early"))?,
                Err(error) => self.broke(error)?,
            }
        }
    }

    /// Bytes that are here already; `None` when [`Transfer::next`] has to be asked.
    pub fn ready(&mut self) -> Option<Bytes> {
        while self.seen.is_none() && !self.at_end() {
            match self.stream.as_mut()?.next().now_or_never()? {
                Ok(Some(bytes)) => {
                    if let Some(bytes) = self.accept(bytes) {
                        return Some(bytes);
                    }
                }
                other => self.seen = Some(other),
            }
        }
        None
    }

    fn at_end(&self) -> bool {
        let end = self.last.map(|last| last + 1).or(self.total);
        end.is_some_and(|end| self.position >= end)
    }

    /// What of `bytes` is wanted; the position goes on by as much.
    fn accept(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes = bytes.split_off(skipped as usize);
        if let Some(last) = self.last {
            let wanted = (last + 1).saturating_sub(self.position);
            bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        }
        // What is thrown away is no progress: an upstream that ignores Range and always breaks must not go on for ever.
        if bytes.is_empty() {
            return None;
        }
        self.pause = FIRST_PAUSE;
        self.gained += bytes.len() as u64;
        if self.gained >= PROGRESS {
            self.gained = 0;
            self.breaks = 0;
            self.broken_since = None;
        }
        self.position += bytes.len() as u64;
        Some(bytes)
    }

    fn take(&mut self, stream: BlobStream) -> Result<(), Error> {
        if let (Some(known), Some(told)) = (self.total, stream.total)
            && known != told
        {
            return Err(Error::new(ErrorKind::Protocol, format!("the blob had {known} bytes and now has {told}")));
        }
        if stream.first > self.position {
            return Err(Error::new(ErrorKind::Protocol, "the answer starts behind the range asked for"));
        }
        if self.stubborn && !self.plain && !stream.ranged && (self.position > 0 || self.last.is_some()) {
            // All that comes is of use, and asking for other parts would bring the same bytes again.
            self.plain = true;
            self.last = None;
        }
        self.has_parts |= stream.ranged;
        self.total = self.total.or(stream.total);
        self.skip = self.position - stream.first;
        self.stream = Some(stream);
        self.tell();
        Ok(())
    }

    fn broke(&mut self, error: Error) -> Result<(), Error> {
        self.stream = None;
        self.tell();
        self.breaks += 1;
        let broken_since = *self.broken_since.get_or_insert_with(Instant::now);
        if !error.kind.is_outage() || self.breaks > MOST_BREAKS || broken_since.elapsed() > self.patience {
            return Err(error);
        }
        tracing::warn!(
            upstream = %self.source.upstream.name(), digest = %self.source.digest, position = self.position, %error,
            "a transfer broke and is resumed",
        );
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let part = BlobRange { first: self.position, last: self.last };
        let range = if self.plain { BlobRange::default() } else { part };
        let Source { upstream, repository, digest } = &self.source;
        match upstream.open_blob(repository, digest, range).await {
            Ok(stream) => self.take(stream),
            // Everything is here: the size that was announced was wrong, and the digest will tell. Not so where the end of
            // a part is still missing.
            Err(Error { kind: ErrorKind::RangeNotSatisfiable { total: Some(total) }, .. })
                if total == self.position && self.last.is_none() =>
            {
                self.total = Some(total);
                Ok(())
            }
            // It did give ranges once, or nobody would ask for one now.
            Err(error) if self.stubborn && !self.plain && refuses_ranges(error.kind) => {
                tracing::info!(upstream = %upstream.name(), %digest, %error, "the upstream gives no ranges any more");
                self.plain = true;
                // All that comes is of use: what is there already is passed over.
                self.last = None;
                Ok(())
            }
            Err(error) => self.broke(error),
        }
    }
}

/// Whether an answer may mean that the same bytes can be had by asking for all of them.
fn refuses_ranges(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::RangeNotSatisfiable { .. }
            | ErrorKind::Denied
            | ErrorKind::Protocol
            | ErrorKind::Unsupported
            | ErrorKind::Rejected { .. }
    )
}
