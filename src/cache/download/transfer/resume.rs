//! How a transfer resumes when its body breaks: it requests the rest by `Range`, or the whole blob.

use std::time::Duration;

use super::{
    Transfer,
    retry::{FIRST_PAUSE, PROGRESS, TransferParts},
};
use crate::{
    cache::Source,
    rate::OwnTime,
    upstream::{BlobRange, BlobStream, Error, ErrorKind},
};

const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A part that brought fewer bytes than this before it broke is poor; after this many poor parts in a row the transfer
/// requests the whole blob.
const MIN_PART: u64 = 16 * 1024;
const MAX_POOR_PARTS: u32 = 2;
/// A size that so many responses contradict, those to a part and to the whole, is wrong: more requests do not help.
const MAX_CONTRADICTIONS: u32 = 3;
/// A transfer that breaks this often without enough progress between the breaks fails.
const MAX_BREAKS: u32 = 50;

impl Transfer {
    pub(super) fn take(&mut self, mut stream: BlobStream, asked_part: bool) -> Result<(), Error> {
        if let (Some(known), Some(told)) = (self.total, stream.total)
            && known != told
        {
            if stream.is_of_store() {
                self.source.upstream.leave_store();
            } else if !stream.is_of_peer() && self.source.upstream.doubts_store() {
                // All that came is for a blob of another length.
                self.retry.contradictions = MAX_CONTRADICTIONS;
            } else {
                self.retry.contradictions += 1;
            }
            return Err(Error::new(ErrorKind::Protocol, format!("the blob had {known} bytes and now has {told}")));
        }
        if stream.first > self.position {
            return Err(Error::new(ErrorKind::Protocol, "the response begins behind the requested range"));
        }
        if self.total.is_none() && stream.total.is_some() {
            self.source.upstream.note_length(&stream);
        }
        let total = self.total.or(stream.total);
        if stream.ranged && total.is_none() && self.last.is_none() {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the answer is a part of a blob whose length it does not tell",
            ));
        }
        let is_whole = !stream.ranged && self.wants_part();
        if is_whole && self.fallback.parts == TransferParts::Only {
            return Err(Error::new(ErrorKind::Unsupported, "the upstream gives no parts any more"));
        }
        // forebay would mistake a part with the status of the whole for the start of the blob, and would send clients a
        // length that only this response states and that its own body contradicts.
        let is_known = self.total.is_some() || self.last.is_some();
        let is_sure = if stream.ranged { is_known || stream.is_tail } else { is_known && stream.total.is_some() };
        if asked_part && !is_sure {
            return Err(Error::new(
                ErrorKind::Protocol,
                "nothing shows that the answer is the part that was asked for, or the whole",
            ));
        }
        if is_whole && self.fallback.reads_to_end {
            self.last = None;
        }
        let ends_before = |total: u64| self.position > total || self.last.is_some_and(|last| last >= total);
        if !stream.ranged && total.is_some_and(ends_before) {
            return Err(Error::new(
                ErrorKind::RangeNotSatisfiable { total },
                "the blob ends before the range asked for",
            ));
        }
        self.body.is_whole = is_whole;
        self.body.asked_part = asked_part;
        self.body.brought = 0;
        self.fallback.limited = false;
        self.has_parts |= stream.ranged;
        self.total = total;
        self.body.skip = self.position - stream.first;
        self.remark.clone_from(&stream.notes);
        stream.run(&self.reports.holds);
        self.body.stream = Some(stream);
        self.tell();
        Ok(())
    }

    pub(super) fn wants_part(&self) -> bool {
        self.position > 0 || self.last.is_some()
    }

    /// Makes the next request one for the whole blob, because a part brought nothing.
    pub(super) fn request_whole_next(&mut self, error: &Error) {
        self.fallback.whole_next = true;
        self.fallback.whole_tried = true;
        self.retry.poor_parts = 0;
        self.fallback.limited = false;
        tracing::info!(
            upstream = %self.source.upstream.name(), digest = %self.source.digest, position = self.position, %error,
            "the upstream sends no usable part of a blob; forebay requests the whole",
        );
    }

    /// Whether the body that broke was a part that did not help.
    fn was_in_vain(&mut self, error: &Error) -> bool {
        self.retry.poor_parts =
            if self.body.asked_part && self.body.brought < MIN_PART { self.retry.poor_parts + 1 } else { 0 };
        let was_silent = error.kind == ErrorKind::Timeout && self.body.brought < PROGRESS;
        self.body.asked_part && (self.body.brought == 0 || was_silent || self.retry.poor_parts >= MAX_POOR_PARTS)
    }

    pub(super) fn broke(&mut self, error: Error) -> Result<(), Error> {
        let was_in_vain = self.body.stream.take().is_some() && self.was_in_vain(&error);
        self.tell();
        let may_be_whole =
            self.fallback.parts == TransferParts::Preferred && self.wants_part() && error.may_be_due_to_range();
        if was_in_vain && may_be_whole {
            self.request_whole_next(&error);
            return Ok(());
        }
        // The readers of that part wait no longer for it: the lead worker fetches it in another way.
        if was_in_vain && self.fallback.parts == TransferParts::Only {
            return Err(error);
        }
        if let Some(wait) = error.retry_after {
            self.retry.pause = self.retry.pause.max(wait.min(MAX_PAUSE));
        }
        self.retry.breaks += 1;
        let broken_since = self.retry.broken_since.get_or_insert_with(|| OwnTime::begin(&self.reports.holds));
        let is_over = self.retry.breaks > MAX_BREAKS || broken_since.elapsed() > self.retry.timeout;
        let is_contradicted = self.retry.contradictions >= MAX_CONTRADICTIONS;
        // Waiting changes nothing about forebay's own credentials, and a pause lasts until an operator ends it.
        let is_lasting = matches!(error.kind, ErrorKind::OurCredentials | ErrorKind::Paused);
        let is_final = !error.kind.is_outage() || is_lasting || is_contradicted;
        if is_final || (is_over && (self.fallback.whole_tried || !may_be_whole)) {
            return Err(error);
        }
        if is_over {
            self.request_whole_next(&error);
            return Ok(());
        }
        let request = self.source.upstream.request().map(tracing::field::display);
        // That the upstream fails has a warning of its own.
        tracing::info!(
            upstream = %self.source.upstream.name(), digest = %self.source.digest, position = self.position, request, %error,
            "a transfer broke and is resumed",
        );
        Ok(())
    }

    pub(super) async fn reopen(&mut self) -> Result<(), Error> {
        // The request for the whole blob is sent without a pause, and once; after that the transfer requests a part
        // again.
        let whole = std::mem::take(&mut self.fallback.whole_next);
        if !whole {
            tokio::time::sleep(self.retry.pause).await;
            self.retry.pause = (self.retry.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        }
        let asks_part = !whole && self.wants_part();
        let part = BlobRange { first: self.position, last: self.last };
        let range = if asks_part { part } else { BlobRange::default() };
        let Source { upstream, repository, digest } = &self.source;
        let answer = upstream.open_blob(repository, digest, range).await;
        let error = match answer.and_then(|stream| self.take(stream, asks_part)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.kind {
            // All bytes have arrived: the announced size was wrong, and the digest decides. This does not hold if the
            // end of a part is still missing.
            ErrorKind::RangeNotSatisfiable { total: Some(total) }
                if asks_part && total == self.position && self.last.is_none() =>
            {
                self.seems_to_end();
                // If that is wrong, the upstream will refuse other parts as well.
                self.fallback.whole_next = true;
                Ok(())
            }
            // forebay pauses before it requests more than the part from an overloaded upstream.
            ErrorKind::TooManyRequests if asks_part && !std::mem::replace(&mut self.fallback.limited, true) => {
                self.broke(error)
            }
            _ if asks_part && self.fallback.parts == TransferParts::Preferred && error.may_be_due_to_range() => {
                self.request_whole_next(&error);
                Ok(())
            }
            _ => self.broke(error),
        }
    }
}
