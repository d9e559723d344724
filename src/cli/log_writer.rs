//! Writes the log to standard error, off the threads that serve.
//!
//! A line is formatted where it is logged and put into a buffer; one thread writes the buffered lines, many at a time.
//!
//! What must hold: a slow or stuck reader of the log (journald, a full pipe) blocks no request and costs a bounded
//! amount of memory; the log says how many lines were dropped. Lines before the end of the process are written before
//! it ends, if they are read.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// How many bytes of lines wait to be written: some thousand requests.
const MAX_WAITING: usize = 1 << 20;
/// How long lines are batched while there are many. The first line after a silence does not wait.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);
/// How long the end of the process waits until the last lines are written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The buffer of lines; cheap to clone.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

/// Writes the last lines when it is dropped.
pub struct Flush {
    lines: LogWriter,
    has_writer: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A first line is there, or the process is about to end.
    news: Condvar,
    /// The last line is written.
    silence: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    dropped: u64,
    ended: bool,
    written: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `sink`. If the thread cannot be started, lines are dropped once the buffer is
    /// full.
    pub fn to(sink: impl Write + Send + 'static) -> (Self, Flush) {
        let lines = Self(Arc::default());
        let shared = lines.0.clone();
        let writer = std::thread::Builder::new().name("log".into()).spawn(move || shared.write_to(sink));
        (lines.clone(), Flush { lines, has_writer: writer.is_ok() })
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &LogWriter {
    /// Takes a whole line, or drops it: the subscriber writes one line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if state.waiting.len() + line.len() > MAX_WAITING {
            state.dropped += 1;
            return Ok(line.len());
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.0.news.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_to(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        loop {
            let (dropped, ended) = {
                let mut state = self.state.lock();
                let silent = |state: &mut State| state.waiting.is_empty() && !state.ended;
                self.news.wait_while(&mut state, silent);
                std::mem::swap(&mut batch, &mut state.waiting);
                (std::mem::take(&mut state.dropped), state.ended)
            };
            let written = sink.write_all(&batch).and_then(|()| match dropped {
                0 => Ok(()),
                _ => tell_dropped(&mut sink, dropped),
            });
            if written.is_err() {
                // Reported when a write succeeds again. Some of these lines may have been written.
                let lost = batch.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.state.lock().dropped += dropped + lost;
            }
            if ended && batch.is_empty() {
                self.state.lock().written = true;
                self.silence.notify_all();
                return;
            }
            batch.clear();
            if !ended {
                let running = |state: &mut State| !state.ended;
                self.news.wait_while_for(&mut self.state.lock(), running, BATCH_INTERVAL);
            }
        }
    }
}

/// A line of JSON that is readable in a text log, too.
fn tell_dropped(sink: &mut impl Write, dropped: u64) -> io::Result<()> {
    let line = serde_json::json!({ "level": "WARN", "message": "log lines were dropped, since they were not read in time", "dropped": dropped });
    sink.write_all(format!("{line}\n").as_bytes())
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.lines.0.state.lock().ended = true;
        self.lines.0.news.notify_one();
        if self.has_writer {
            // The thread is not joined: a thread that is stuck in a write must not delay the end.
            let speaking = |state: &mut State| !state.written;
            self.lines.0.silence.wait_while_for(&mut self.lines.0.state.lock(), speaking, FLUSH_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Accepts a write only after a turn.
    struct Slow {
        turns: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turns.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_unread_log_blocks_nothing_and_counts_dropped_lines() {
        let ((turn, turns), (written, read)) = (channel(), channel());
        let (lines, flush) = LogWriter::to(Slow { turns, written });
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        (&lines).write_all(&line).unwrap();
        turn.send(()).unwrap();
        assert_eq!(read.recv().unwrap(), line, "the first line does not wait for a second");
        for _ in 0..3 * MAX_WAITING / line.len() {
            (&lines).write_all(&line).unwrap();
        }
        for _ in 0..100 {
            turn.send(()).unwrap();
        }
        drop(flush);
        let rest: Vec<u8> = read.try_iter().flatten().collect();
        let rest = String::from_utf8(rest).unwrap();
        let kept = rest.lines().filter(|line| line.starts_with('x')).count();
        let dropped: usize = rest
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["dropped"].as_u64())
            .map(|dropped| dropped as usize)
            .sum();
        assert_eq!(kept + dropped, 3 * MAX_WAITING / line.len());
        assert!(kept >= MAX_WAITING / line.len() && dropped > 0, "{kept} {dropped}");
        assert!(rest.lines().all(|line| line.len() == 1023 || line.starts_with('{')), "every line is whole");
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let ((turn, turns), (written, read)) = (channel(), channel());
        let (lines, flush) = LogWriter::to(Slow { turns, written });
        for _ in 0..4 {
            turn.send(()).unwrap();
        }
        for number in 0..100 {
            (&lines).write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        drop(flush);
        let all: String = read.try_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect();
        assert_eq!(all, (0..100).map(|number| format!("{number}\n")).collect::<String>());
    }

    /// Fails once, and accepts all further writes.
    struct Broken {
        fails: bool,
        written: Sender<Vec<u8>>,
    }

    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if std::mem::take(&mut self.fails) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_as_dropped() {
        let (written, read) = channel();
        let (lines, flush) = LogWriter::to(Broken { fails: true, written });
        (&lines).write_all(b"lost\n").unwrap();
        drop(flush);
        let rest: Vec<u8> = read.try_iter().flatten().collect();
        let told: serde_json::Value = serde_json::from_slice(&rest).unwrap();
        assert_eq!(told["dropped"], 1);
    }
}
