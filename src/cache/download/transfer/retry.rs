//! What a transfer remembers of earlier breaks, and what it requests next.

use std::time::Duration;

use crate::rate::OwnTime;

/// How long an upstream may be unreachable in the middle of a blob before its readers get an error.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause before a new request; it doubles, up to 2 s.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// After this many useful bytes forebay forgets earlier breaks, so that an upstream that cuts every connection after a
/// while still completes a blob, and one that sends single bytes does not.
pub(super) const PROGRESS: u64 = 64 * 1024;

/// The breaks that are not forgotten.
pub(super) struct Retry {
    pub(super) breaks: u32,
    /// The useful bytes since breaks were last forgotten.
    pub(super) gained: u64,
    /// Before the next request.
    pub(super) pause: Duration,
    /// How long the transfer tries to resume.
    pub(super) timeout: Duration,
    /// Since the first of the breaks: a connection that fell silent has already used up its own timeout.
    pub(super) broken_since: Option<OwnTime>,
    /// How many parts in a row broke before they brought much.
    pub(super) poor_parts: u32,
    /// How many responses announced another size.
    pub(super) contradictions: u32,
}

/// What a transfer requests when bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferParts {
    /// A part, and the whole blob after each part that did not help.
    Preferred,
    /// Only parts: if there are none, another transfer reads the whole blob.
    Only,
}

/// When the whole blob is requested in place of a part.
pub(super) struct Fallback {
    pub(super) parts: TransferParts,
    /// Whether all bytes are useful if the upstream sends the whole blob instead of a part.
    pub(super) reads_to_end: bool,
    /// The last request for a part did not help: the next request is for the whole blob.
    pub(super) whole_next: bool,
    /// The whole blob was requested since breaks were last forgotten.
    pub(super) whole_tried: bool,
    /// The upstream answered the last request for a part with 429.
    pub(super) limited: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            breaks: 0,
            gained: 0,
            pause: FIRST_PAUSE,
            timeout: TIMEOUT,
            broken_since: None,
            poor_parts: 0,
            contradictions: 0,
        }
    }
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            parts: TransferParts::Preferred,
            reads_to_end: false,
            whole_next: false,
            whole_tried: false,
            limited: false,
        }
    }
}

impl Retry {
    /// So many useful bytes came. Returns whether the breaks are forgotten.
    pub(super) fn gain(&mut self, bytes: u64) -> bool {
        self.pause = FIRST_PAUSE;
        self.gained += bytes;
        let is_progress = self.gained >= PROGRESS;
        if is_progress {
            (self.gained, self.breaks, self.broken_since) = (0, 0, None);
        }
        is_progress
    }
}
