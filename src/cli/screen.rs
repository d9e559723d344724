//! The whole terminal of standard output, drawn anew again and again.
//!
//! What must hold: each frame is one write that overwrites the last one, so that nothing flickers; the terminal gets its own
//! content and its cursor back when this is dropped.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use rustix::{stdio::stdout, termios::tcgetwinsize};

/// The other screen of the terminal, without a cursor. Source: XTerm Control Sequences, "DEC Private Mode Set".
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Where a terminal does not tell its size.
const DEFAULT_SIZE: Size = Size { columns: 80, rows: 24 };

/// In characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// The screen, until this is dropped.
pub(super) struct Screen(());

impl Screen {
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn begin() -> io::Result<Self> {
        write(BEGIN)?;
        Ok(Self(()))
    }

    /// Draws the text for a terminal with so many columns.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn draw(&self, text: impl FnOnce(usize) -> String) -> io::Result<()> {
        let size = size();
        write(&frame(&text(size.columns), size))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(END);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The size of the terminal of standard output.
pub(super) fn size() -> Size {
    match tcgetwinsize(stdout()) {
        Ok(told) if told.ws_col > 0 && told.ws_row > 0 => {
            Size { columns: told.ws_col.into(), rows: told.ws_row.into() }
        }
        Ok(_) | Err(_) => DEFAULT_SIZE,
    }
}

/// What draws the first lines of a text, as much of each as there is room for.
fn frame(text: &str, Size { columns, rows }: Size) -> String {
    let mut frame = HOME.to_owned();
    for (row, line) in text.lines().take(rows).enumerate() {
        let shown: String = line.chars().take(columns).collect();
        let _ = write!(frame, "{}{shown}{CLEAR_LINE}", if row > 0 { "\r\n" } else { "" });
    }
    frame + CLEAR_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal() {
        for (text, columns, rows, expected) in [
            ("", 80, 24, "\x1b[H\x1b[J"),
            ("ab\ncd\n", 80, 24, "\x1b[Hab\x1b[K\r\ncd\x1b[K\x1b[J"),
            ("abc\ndef\n", 2, 1, "\x1b[Hab\x1b[K\x1b[J"),
            ("äöü\n", 2, 5, "\x1b[Häö\x1b[K\x1b[J"),
        ] {
            assert_eq!(frame(text, Size { columns, rows }), expected, "{text:?}");
        }
    }
}
