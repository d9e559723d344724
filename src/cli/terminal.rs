//! Questions to the person at the terminal of standard input. They are written to standard error.
//!
//! What must hold: what is typed is read byte by byte, so that nothing meant for the next question is lost; the terminal
//! gets its settings back, also after Ctrl-C, which is a key like others while the input is hidden.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::{
    io::Errno,
    stdio::stdin,
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr},
};
use tokio::sync::mpsc;

use super::{
    Failure,
    hidden_line::{ControlKeys, HiddenLine, Typed},
};

/// The longest answer to a question, in bytes.
const MAX_ANSWER: usize = 256;

/// Whether a person can answer.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// Asks a question that any answer but yes denies.
///
/// # Errors
/// The terminal cannot be read.
pub(super) fn confirm(question: &str) -> Result<bool, Failure> {
    ask(&format!("{question} [y/N] "));
    let mut answer = Vec::new();
    while let Some(byte) = next_byte()? {
        if byte == b'\n' || answer.len() == MAX_ANSWER {
            break;
        }
        answer.push(byte);
    }
    let answer = String::from_utf8_lossy(&answer).trim().to_ascii_lowercase();
    Ok(matches!(&*answer, "y" | "yes"))
}

/// How many keys wait to be read.
const MAX_KEYS: usize = 16;

/// The keys that are typed, one by one and not shown, until this is dropped. Ctrl-C stays what it is.
pub(super) struct Keys {
    shown: Termios,
    typed: mpsc::Receiver<u8>,
}

impl Keys {
    /// # Errors
    /// Standard input is no terminal.
    pub(super) fn begin() -> Result<Self, Failure> {
        let shown = tcgetattr(stdin()).map_err(unreadable)?;
        let (sender, typed) = mpsc::channel(MAX_KEYS);
        // It waits for a key when the program ends, and ends with it.
        std::thread::spawn(move || {
            while let Ok(Some(key)) = next_byte() {
                if sender.blocking_send(key).is_err() {
                    break;
                }
            }
        });
        let keys = Self { shown, typed };
        keys.resume()?;
        Ok(keys)
    }

    /// The next key; none comes any more when the terminal is closed.
    pub(super) async fn next(&mut self) -> u8 {
        match self.typed.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }

    /// Gives the terminal its settings back for a while.
    ///
    /// # Errors
    /// The terminal is closed.
    pub(super) fn pause(&self) -> Result<(), Failure> {
        tcsetattr(stdin(), OptionalActions::Drain, &self.shown).map_err(unreadable)
    }

    /// # Errors
    /// The terminal is closed.
    pub(super) fn resume(&self) -> Result<(), Failure> {
        let mut hidden = self.shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin(), OptionalActions::Drain, &hidden).map_err(unreadable)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is closed needs no settings.
        let _ = self.pause();
    }
}

/// A terminal that does not show what is typed, until this is dropped.
pub(super) struct Hidden {
    shown: Termios,
    keys: ControlKeys,
}

impl Hidden {
    /// What was typed before is discarded: the terminal has shown it.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub(super) fn begin() -> Result<Self, Failure> {
        let shown = tcgetattr(stdin()).map_err(unreadable)?;
        let key = |index| shown.special_codes[index];
        let keys = ControlKeys {
            erase: key(SpecialCodeIndex::VERASE),
            kill: key(SpecialCodeIndex::VKILL),
            end_of_file: key(SpecialCodeIndex::VEOF),
            interrupt: key(SpecialCodeIndex::VINTR),
            quit: key(SpecialCodeIndex::VQUIT),
        };
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin(), OptionalActions::Flush, &hidden).map_err(unreadable)?;
        Ok(Self { shown, keys })
    }

    /// Reads a line.
    ///
    /// # Errors
    /// The person interrupts it, or the terminal is gone.
    pub(super) fn read_line(&self, prompt: &str) -> Result<Vec<u8>, Failure> {
        ask(prompt);
        let mut line = HiddenLine::default();
        let typed = loop {
            match next_byte()?.map_or(Typed::Interrupted, |byte| line.push(byte, self.keys)) {
                Typed::More => {}
                end => break end,
            }
        };
        // The terminal has not shown the end of the line.
        ask("\n");
        match typed {
            Typed::Interrupted => Err(Failure::Failed(anyhow::anyhow!("interrupted: nothing is changed"))),
            Typed::More | Typed::Line => Ok(line.into_bytes()),
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.shown);
    }
}

fn ask(text: &str) {
    // If standard error is closed, the person sees no question, and can still answer.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// `None` at the end of the input.
fn next_byte() -> Result<Option<u8>, Failure> {
    let mut byte = [0];
    loop {
        match rustix::io::read(stdin(), &mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(Errno::INTR) => {}
            // The terminal was closed.
            Err(Errno::IO) => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        }
    }
}

fn unreadable(error: Errno) -> Failure {
    Failure::Failed(anyhow::Error::new(io::Error::from(error)).context("cannot read from the terminal"))
}
