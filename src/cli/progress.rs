//! How much is done, for a person at a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::text;

/// How often the line is written anew.
const INTERVAL: Duration = Duration::from_millis(200);
/// Returns to the begin of the line, and clears it.
const CLEAR: &str = "\r\x1b[K";

/// A line on standard error, if that is a terminal; it is cleared at the end.
pub(super) struct StatusLine {
    is_shown: bool,
    is_written: bool,
}

impl StatusLine {
    pub(super) fn begin() -> Self {
        Self { is_shown: io::stderr().is_terminal(), is_written: false }
    }

    /// Shows this instead of what it shows.
    pub(super) fn show(&mut self, text: &str) {
        if self.is_shown {
            self.is_written = true;
            let _ = write!(io::stderr(), "{CLEAR}{text}");
        }
    }

    /// Makes place for what is printed.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_written) {
            let _ = write!(io::stderr(), "{CLEAR}");
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How far a transfer is.
pub(super) struct Progress {
    status: StatusLine,
    total: Option<u64>,
    done: u64,
    written: Option<Instant>,
}

impl Progress {
    pub(super) fn begin() -> Self {
        Self { status: StatusLine::begin(), total: None, done: 0, written: None }
    }

    pub(super) fn set_total(&mut self, bytes: u64) {
        self.total = Some(bytes);
    }

    /// How many bytes are done.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes as u64);
        if self.written.is_none_or(|written| written.elapsed() >= INTERVAL) {
            self.written = Some(Instant::now());
            self.status.show(&line(self.done, self.total));
        }
    }
}

/// So many bytes of all.
pub(super) fn line(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => {
            let percent = u128::from(done) * 100 / u128::from(total.max(1));
            format!("{percent:3} %  {} of {}", text::bytes(done), text::bytes(total))
        }
        None => text::bytes(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_part_that_is_done() {
        assert_eq!(line(512 << 10, Some(2 << 20)), " 25 %  512.0 KiB of 2.0 MiB");
        assert_eq!(line(0, Some(0)), "  0 %  0 B of 0 B");
        assert_eq!(line(7, None), "7 B");
    }
}
