//! A transfer from the upstream that outlives its connections.
//!
//! When a body breaks, the next request asks for the rest by `Range`, with a new token and a new signed URL if need be
//! (the upstream stage obtains both), and the reader of the transfer notices only the pause. After each `Range` request
//! that brought nothing useful, whatever the response was, forebay sends one GET of the whole blob and discards the
//! bytes that it already has. It also sends this GET after a part that fell silent early, after the second part in a
//! row that brought little, after the second 429, and once before the transfer fails.

mod response_body;
mod resume;
mod retry;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::watch;

use self::{
    response_body::ResponseBody,
    retry::{Fallback, Retry, TransferParts},
};
use super::super::Source;
use crate::{
    rate::HoldClock,
    upstream::{BlobRange, BlobStream, ContentNotes, Error, ErrorKind, Mirrors},
};

/// Where the bytes of a transfer currently come from.
#[derive(Clone, Debug)]
pub(crate) enum TransferFlow {
    /// The request was sent and has no response yet.
    Asking,
    /// From the registry itself, or through these forebay instances.
    From(Option<Mirrors>),
}

/// Bytes of a blob from one position on, resumed as often as needed.
pub(crate) struct Transfer {
    source: Source,
    /// The offset of the next byte to return.
    position: u64,
    /// The last requested byte; `None` for all.
    last: Option<u64>,
    total: Option<u64>,
    body: ResponseBody,
    retry: Retry,
    fallback: Fallback,
    end: ApparentEnd,
    reports: Reports,
    /// Some bytes came in a response to a request for a part.
    has_parts: bool,
    remark: ContentNotes,
}

/// Where the blob seemed to end.
#[derive(Default)]
struct ApparentEnd {
    /// The only sign that the blob ends here is the end of a body, or the upstream's refusal to send more.
    is_unsure: bool,
    /// The size that was announced before that, and the position at which the blob seemed to end before.
    announced: Option<u64>,
    ended_at: Option<u64>,
}

/// What the transfer tells others while it runs.
#[derive(Default)]
struct Reports {
    flow: Option<watch::Sender<TransferFlow>>,
    /// Counts the discarded bytes.
    skipped: Option<Arc<AtomicU64>>,
    /// Runs while the rate of the upstream holds bytes back.
    holds: Arc<HoldClock>,
}

impl Transfer {
    /// Requests the bytes from `first` to `last`, or to the end, and the whole blob if the upstream does not serve that
    /// part. The caller gets the error of the last response.
    pub(crate) async fn open(source: &Source, first: u64, last: Option<u64>) -> Result<Self, Error> {
        Self::open_or_whole(source, first, last, false).await
    }

    /// The same, but if the whole blob comes, the transfer continues to its end.
    pub(crate) async fn open_reading_on(source: &Source, first: u64, last: Option<u64>) -> Result<Self, Error> {
        Self::open_or_whole(source, first, last, true).await.map(Self::reads_to_end)
    }

    async fn open_or_whole(source: &Source, first: u64, last: Option<u64>, reads_to_end: bool) -> Result<Self, Error> {
        match Self::open_part(source, first, last).await {
            Err(error) if (first > 0 || last.is_some()) && error.may_be_due_to_range() => {
                let mut transfer = Self::going_on(source, first, last, None);
                transfer.fallback.reads_to_end = reads_to_end;
                transfer.request_whole_next(&error);
                let Source { upstream, repository, digest } = source;
                transfer.fallback.whole_next = false;
                transfer.take(upstream.open_blob(repository, digest, BlobRange::default()).await?, false)?;
                Ok(transfer)
            }
            opened => opened,
        }
    }

    /// The same, but if the upstream does not serve that part, the caller gets that error.
    pub(crate) async fn open_part(source: &Source, first: u64, last: Option<u64>) -> Result<Self, Error> {
        let range = BlobRange { first, last };
        let stream = source.upstream.open_blob(&source.repository, &source.digest, range).await?;
        Self::of_part(source, range, stream)
    }

    /// Continues with the response to a request for this part.
    pub(crate) fn of_part(source: &Source, range: BlobRange, stream: BlobStream) -> Result<Self, Error> {
        let BlobRange { first, last } = range;
        let mut transfer = Self { position: first, last, total: None, ..Self::finished(source, first) };
        transfer.take(stream, transfer.wants_part())?;
        Ok(transfer)
    }

    /// Continues a transfer whose readers have begun: an upstream that cannot respond now is treated as if the transfer
    /// had broken here.
    pub(crate) fn going_on(source: &Source, first: u64, last: Option<u64>, total: Option<u64>) -> Self {
        let retry = Retry { pause: Duration::ZERO, ..Retry::default() };
        Self { position: first, last, total, retry, ..Self::finished(source, first) }
    }

    /// A transfer with nothing left to do: all `total` bytes came from an earlier one.
    pub(crate) fn finished(source: &Source, total: u64) -> Self {
        Self {
            source: source.clone(),
            position: total,
            last: None,
            total: Some(total),
            body: ResponseBody::default(),
            retry: Retry::default(),
            fallback: Fallback::default(),
            end: ApparentEnd::default(),
            reports: Reports::default(),
            has_parts: false,
            remark: ContentNotes::default(),
        }
    }

    /// From now on reports to `flow` where the bytes come from, and adds the number of discarded bytes to `skipped`.
    pub(crate) fn reporting_to(mut self, flow: &watch::Sender<TransferFlow>, skipped: &Arc<AtomicU64>) -> Self {
        self.reports.flow = Some(flow.clone());
        self.reports.skipped = Some(skipped.clone());
        self.tell();
        self
    }

    /// Ends these reports.
    pub(crate) fn without_reports(mut self) -> Self {
        (self.reports.flow, self.reports.skipped) = (None, None);
        self
    }

    /// Makes this clock follow the one of the transfer.
    pub(crate) fn holding_within(mut self, outer: &Arc<HoldClock>) -> Self {
        self.reports.holds = Arc::new(HoldClock::within(outer));
        if let Some(stream) = &mut self.body.stream {
            stream.run(&self.reports.holds);
        }
        self
    }

    /// The clock that runs while the rate of the upstream holds bytes back.
    pub(crate) fn holds(&self) -> &Arc<HoldClock> {
        &self.reports.holds
    }

    fn tell(&self) {
        if let Some(flow) = &self.reports.flow {
            flow.send_replace(self.flow());
        }
    }

    /// Where the bytes come from. A transfer that has all of them waits for no forebay.
    pub(crate) fn flow(&self) -> TransferFlow {
        match &self.body.stream {
            Some(stream) => TransferFlow::From(stream.mirrors.clone()),
            None if self.at_end() => TransferFlow::From(None),
            None => TransferFlow::Asking,
        }
    }

    /// Limits how long the transfer tries to resume after a break: another transfer will fetch the rest.
    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.retry.timeout = timeout;
        self
    }

    /// Continues to the end of the blob if the upstream sends the whole instead of the part.
    pub(crate) fn reads_to_end(mut self) -> Self {
        self.fallback.reads_to_end = true;
        self
    }

    /// Never requests the whole blob.
    pub(crate) fn ranges_only(mut self) -> Self {
        self.fallback.parts = TransferParts::Only;
        self
    }

    /// Whether some bytes came in a response to a request for a part.
    pub(crate) fn has_parts(&self) -> bool {
        self.has_parts
    }

    /// Whether the transfer reads bytes from the start again because the upstream does not serve parts.
    pub(crate) fn is_from_front(&self) -> bool {
        self.body.is_whole
    }

    /// The end of the requested bytes (exclusive).
    pub(crate) fn end_of_request(&self) -> u64 {
        self.last.map_or(u64::MAX, |last| last.saturating_add(1))
    }

    /// The size of the whole blob, once known.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// What the upstream sent in addition to the bytes.
    pub(crate) fn remark(&self) -> &ContentNotes {
        &self.remark
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many unrequested bytes the upstream still sends before the position; 0 if it serves ranges.
    pub(crate) fn skipping(&self) -> u64 {
        self.body.skip
    }

    /// If the transfer has just begun the whole blob and read nothing of it, returns bytes from `position` on, if that
    /// is earlier.
    pub(crate) fn rewind(&mut self, position: u64) {
        if self.body.is_whole && self.body.skip == self.position && position < self.position {
            (self.position, self.body.skip) = (position, position);
        }
    }

    /// The next bytes; `None` after the last. Cancel-safe.
    ///
    /// A caller that gets [reports](Transfer::reporting_to) receives an empty piece once when the whole blob comes instead
    /// of a part, and may [rewind](Transfer::rewind) then.
    ///
    /// An error is final: the timeout has run out, or the upstream says that it has no such blob for forebay.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.at_end() {
                return Ok(None);
            }
            let broke = match self.body.seen.take() {
                Some(seen) => seen,
                None => match &mut self.body.stream {
                    Some(stream) => stream.next().await,
                    None => {
                        self.reopen().await?;
                        if self.body.stream.is_some() && self.body.is_whole && self.reports.flow.is_some() {
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
                Ok(None) if self.total.is_none() && self.last.is_none() && self.body.skip == 0 => self.seems_to_end(),
                Ok(None) => self.broke(Error::new(ErrorKind::Unavailable, "the body ended early"))?,
                Err(error) => self.broke(error)?,
            }
        }
    }

    /// Bytes that have already arrived; `None` when the caller has to use [`Transfer::next`].
    pub(crate) fn ready(&mut self) -> Option<Bytes> {
        while self.body.seen.is_none() && !self.at_end() {
            match self.body.stream.as_mut()?.next().now_or_never()? {
                Ok(Some(bytes)) => {
                    if let Some(bytes) = self.accept(bytes) {
                        return Some(bytes);
                    }
                }
                other => self.body.seen = Some(other),
            }
        }
        None
    }

    /// Whether only the digest can tell whether the blob ends here. An HTTP/2 stream that is reset without an error
    /// looks like the end, and so does a body that ends with its connection.
    pub(crate) fn is_unsure(&self) -> bool {
        self.end.is_unsure
    }

    /// Continues after the digest showed that the blob does not end here. Returns whether that makes sense: not if the
    /// upstream announced this end, or if the blob seems to end here for the second time.
    pub(crate) fn doubt(&mut self) -> Result<bool, Error> {
        if !std::mem::take(&mut self.end.is_unsure) || self.end.ended_at == Some(self.position) {
            return Ok(false);
        }
        self.end.ended_at = Some(self.position);
        self.total = self.end.announced;
        self.broke(Error::new(ErrorKind::Unavailable, "the body ended, and its digest is not the blob's"))?;
        Ok(true)
    }

    fn seems_to_end(&mut self) {
        self.end.is_unsure = true;
        self.end.announced = self.total;
        self.total = Some(self.position);
        self.body.stream = None;
    }

    fn at_end(&self) -> bool {
        let end = self.last.map(|last| last + 1).or(self.total);
        end.is_some_and(|end| self.position >= end)
    }

    /// Returns the wanted part of `bytes` and advances the position by its length.
    fn accept(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let skipped = self.body.skip.min(bytes.len() as u64);
        self.body.skip -= skipped;
        if let Some(sum) = &self.reports.skipped {
            sum.fetch_add(skipped, Ordering::Relaxed);
        }
        bytes = bytes.split_off(skipped as usize);
        if let Some(last) = self.last {
            let wanted = (last + 1).saturating_sub(self.position);
            bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        }
        // Discarded bytes are no progress: forebay must not retry forever with an upstream that ignores `Range` and
        // always breaks.
        if bytes.is_empty() {
            return None;
        }
        self.body.brought += bytes.len() as u64;
        if self.retry.gain(bytes.len() as u64) {
            self.fallback.whole_tried = false;
        }
        self.position += bytes.len() as u64;
        Some(bytes)
    }
}
