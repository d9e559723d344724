//! A transfer from the upstream that outlives its connections.
//!
//! When a body breaks, the next request asks for the rest by Range, with a new token and a new signed URL
//! if need be (the upstream stage sees to those), and the reader of this notices only the pause. After each Range that
//! brought nothing of use, whatever came in its place, comes one GET of the whole: what is there already is thrown away.
//! So comes one after a part that fell silent early, after the second one in a row that brought little, after the second
//! 429, and once before the transfer fails.

mod resume;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};

use super::super::Source;
use crate::upstream::{BlobRange, BlobStream, ContentNotes, Error, ErrorKind, Mirrors};

/// How long an upstream may be gone in the middle of a blob before its readers are told.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause before asking again; it doubles, up to 2 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Breaks are forgotten once this many bytes of use have come since, so that an upstream that cuts every connection
/// after a while still gets through, and one that drips does not.
const PROGRESS: u64 = 64 * 1024;
/// Where the bytes of a transfer come from just now.
#[derive(Clone, Debug)]
pub(crate) enum TransferFlow {
    /// The request was sent and has no response yet.
    Asking,
    /// From the registry, or by way of these forebays.
    From(Option<Mirrors>),
}

/// What is asked for where bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferParts {
    /// A part, and after each that did not help the whole.
    Preferred,
    /// Parts alone: where there are none, another transfer reads the whole.
    Only,
    /// The whole, from the front.
    Never,
}

/// Bytes of a blob from one position on, resumed as often as needed.
pub(crate) struct Transfer {
    source: Source,
    /// The offset of the next byte given out.
    position: u64,
    /// The last byte wanted, when not all are.
    last: Option<u64>,
    total: Option<u64>,
    stream: Option<BlobStream>,
    /// Bytes to throw away: the upstream began further in prefix than it was asked to.
    skip: u64,
    /// What [`Transfer::ready`] came across and [`Transfer::next`] has to deal with.
    seen: Option<Result<Option<Bytes>, Error>>,
    /// Breaks that are not forgotten, and the bytes of use since the last one that was.
    breaks: u32,
    gained: u64,
    pause: Duration,
    /// For how long it is tried to go on.
    timeout: Duration,
    parts: TransferParts,
    /// Whether all that comes is of use where the whole is read in place of a part.
    reads_to_end: bool,
    /// The last request for a part did not help: the next one is for the whole.
    whole_next: bool,
    /// The body at hand is the whole, in place of a part.
    is_whole: bool,
    /// The body at hand is the answer to a request for a part, whatever came.
    asked_part: bool,
    /// How much of use the body at hand has brought, in bytes.
    brought: u64,
    poor_parts: u32,
    /// The whole was asked for since the breaks were forgotten.
    whole_tried: bool,
    /// The last request for a part was answered with 429.
    limited: bool,
    has_parts: bool,
    /// Nothing but the end of a body, or a refusal to give more, says that the blob ends here.
    is_unsure: bool,
    /// What was announced before that, and where it was said before.
    announced: Option<u64>,
    ended_at: Option<u64>,
    /// When the first of those was: a connection that went silent has used up its own timeout already.
    broken_since: Option<Instant>,
    flow: Option<watch::Sender<TransferFlow>>,
    /// Counts the bytes that are thrown away.
    skipped: Option<Arc<AtomicU64>>,
    remark: ContentNotes,
}

impl Transfer {
    /// Asks for the bytes from `first` to `last`, or to the end, and for the whole blob where that part is not to be had;
    /// what the upstream answers then is the caller's.
    pub(crate) async fn open(source: &Source, first: u64, last: Option<u64>) -> Result<Self, Error> {
        match Self::open_part(source, first, last).await {
            Err(error) if (first > 0 || last.is_some()) && error.may_be_due_to_range() => {
                let mut transfer = Self::going_on(source, first, last, None);
                transfer.request_whole_next(&error);
                let Source { upstream, repository, digest } = source;
                transfer.whole_next = false;
                transfer.take(upstream.open_blob(repository, digest, BlobRange::default()).await?, false)?;
                Ok(transfer)
            }
            opened => opened,
        }
    }

    /// The same, but where that part is not to be had, the error is the caller's as well.
    pub(crate) async fn open_part(source: &Source, first: u64, last: Option<u64>) -> Result<Self, Error> {
        let range = BlobRange { first, last };
        let stream = source.upstream.open_blob(&source.repository, &source.digest, range).await?;
        Self::of_part(source, range, stream)
    }

    /// Goes on with what answers a request for this part.
    pub(crate) fn of_part(source: &Source, range: BlobRange, stream: BlobStream) -> Result<Self, Error> {
        let BlobRange { first, last } = range;
        let mut transfer = Self { position: first, last, total: None, ..Self::finished(source, first) };
        transfer.take(stream, transfer.wants_part())?;
        Ok(transfer)
    }

    /// Goes on with a transfer whose readers have begun: an upstream that cannot answer now is waited for as if the
    /// transfer had broken here.
    pub(crate) fn going_on(source: &Source, first: u64, last: Option<u64>, total: Option<u64>) -> Self {
        Self { position: first, last, total, pause: Duration::ZERO, ..Self::finished(source, first) }
    }

    /// Nothing is left to transfer: all `total` bytes are here from an earlier one.
    pub(crate) fn finished(source: &Source, total: u64) -> Self {
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
            timeout: TIMEOUT,
            parts: TransferParts::Preferred,
            reads_to_end: false,
            whole_next: false,
            is_whole: false,
            asked_part: false,
            brought: 0,
            poor_parts: 0,
            whole_tried: false,
            limited: false,
            has_parts: false,
            is_unsure: false,
            announced: None,
            ended_at: None,
            broken_since: None,
            flow: None,
            skipped: None,
            remark: ContentNotes::default(),
        }
    }

    /// Tells `flow` from now on where the bytes come from, and adds to `skipped` how many of them are thrown away.
    pub(crate) fn reporting_to(mut self, flow: &watch::Sender<TransferFlow>, skipped: &Arc<AtomicU64>) -> Self {
        self.flow = Some(flow.clone());
        self.skipped = Some(skipped.clone());
        self.tell();
        self
    }

    /// Tells of it no more.
    pub(crate) fn without_reports(self) -> Self {
        Self { flow: None, skipped: None, ..self }
    }

    fn tell(&self) {
        if let Some(flow) = &self.flow {
            flow.send_replace(self.flow());
        }
    }

    /// Where the bytes come from.
    pub(crate) fn flow(&self) -> TransferFlow {
        self.stream.as_ref().map_or(TransferFlow::Asking, |stream| TransferFlow::From(stream.mirrors.clone()))
    }

    /// Tries for no longer than this to resume when it breaks: another transfer will.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Goes on to the end of the blob, should the upstream give the whole in place of the part.
    pub(crate) fn reads_to_end(self) -> Self {
        Self { reads_to_end: true, ..self }
    }

    /// Never asks for the whole blob.
    pub(crate) fn ranges_only(self) -> Self {
        Self { parts: TransferParts::Only, ..self }
    }

    /// Never asks for a part of the blob: one that broke is read from the front again.
    pub(crate) fn without_ranges(self) -> Self {
        Self { parts: TransferParts::Never, last: None, ..self }
    }

    /// Whether part of it came as an answer to a request for a part.
    pub(crate) fn has_parts(&self) -> bool {
        self.has_parts
    }

    /// Whether it reads from the front what is there already, since parts are not to be had.
    pub(crate) fn is_from_front(&self) -> bool {
        self.parts == TransferParts::Never || self.is_whole
    }

    /// The size of the whole blob, once known.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// What the upstream said beside the bytes.
    pub(crate) fn remark(&self) -> &ContentNotes {
        &self.remark
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes the upstream sends that were not asked for, until the position is reached; 0 when it serves ranges.
    pub(crate) fn skipping(&self) -> u64 {
        self.skip
    }

    /// Begins the whole, of which nothing has been read yet, to give bytes out from `position` on, if that is less.
    pub(crate) fn rewind(&mut self, position: u64) {
        if self.is_whole && self.skip == self.position && position < self.position {
            (self.position, self.skip) = (position, position);
        }
    }

    /// The next bytes; `None` after the last. Cancel-safe.
    ///
    /// A caller that is [told](Transfer::reporting_to) of it gets an empty piece once when the whole comes in place of a
    /// part, and may [rewind](Transfer::rewind) then.
    ///
    /// An error is final: timeout has run out, or the upstream says that there is no such blob for us.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
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
                        if self.stream.is_some() && self.is_whole && self.flow.is_some() {
                            return Ok(Some(Bytes::new()));
                        }
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
                Ok(None) if self.total.is_none() && self.last.is_none() && self.skip == 0 => self.seems_to_end(),
                Ok(None) => self.broke(Error::new(ErrorKind::Unavailable, "the body ended early"))?,
                Err(error) => self.broke(error)?,
            }
        }
    }

    /// Bytes that are here already; `None` when [`Transfer::next`] has to be asked.
    pub(crate) fn ready(&mut self) -> Option<Bytes> {
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

    /// Whether nothing but the digest can tell whether the blob ends here. An HTTP/2 stream that is reset without an error
    /// looks as if it did, and so does a body that ends with its connection.
    pub(crate) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Goes on, since the digest says that the blob does not end here. Whether there is a reason to: none where this was
    /// announced, or seems so for the second time.
    pub(crate) fn doubt(&mut self) -> Result<bool, Error> {
        if !std::mem::take(&mut self.is_unsure) || self.ended_at == Some(self.position) {
            return Ok(false);
        }
        self.ended_at = Some(self.position);
        self.total = self.announced;
        self.broke(Error::new(ErrorKind::Unavailable, "the body ended, and its digest is not the blob's"))?;
        Ok(true)
    }

    fn seems_to_end(&mut self) {
        self.is_unsure = true;
        self.announced = self.total;
        self.total = Some(self.position);
        self.stream = None;
    }

    fn at_end(&self) -> bool {
        let end = self.last.map(|last| last + 1).or(self.total);
        end.is_some_and(|end| self.position >= end)
    }

    /// What of `bytes` is wanted; the position goes on by as much.
    fn accept(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        if let Some(sum) = &self.skipped {
            sum.fetch_add(skipped, Ordering::Relaxed);
        }
        bytes = bytes.split_off(skipped as usize);
        if let Some(last) = self.last {
            let wanted = (last + 1).saturating_sub(self.position);
            bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        }
        // What is thrown away is no progress: an upstream that ignores Range and always breaks must not go on for ever.
        if bytes.is_empty() {
            return None;
        }
        self.brought += bytes.len() as u64;
        self.pause = FIRST_PAUSE;
        self.gained += bytes.len() as u64;
        if self.gained >= PROGRESS {
            self.gained = 0;
            self.breaks = 0;
            self.whole_tried = false;
            self.broken_since = None;
        }
        self.position += bytes.len() as u64;
        Some(bytes)
    }
}
