//! What commands print: results on standard output, remarks on standard error.

use std::{
    env,
    ffi::OsStr,
    io::{self, ErrorKind, IsTerminal, Write},
    ops::ControlFlow,
    os::fd::BorrowedFd,
    time::Duration,
};

use forebay::visible;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::Failure;

/// How long a command that prints what happens does not notice that its reader has left.
const READER_INTERVAL: Duration = Duration::from_secs(1);

/// Prints a result.
///
/// # Errors
/// It cannot be written, to a full disk for example. A reader that has left (`forebay man | head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match print_more(text) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(ended) => ended,
    }
}

/// Prints one of several results. It breaks if there is no sense in more of them: the reader has left, or the text cannot be
/// written.
pub(super) fn print_more(text: &str) -> ControlFlow<Result<(), Failure>> {
    let mut stdout = io::stdout().lock();
    after(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Prints a document in one line.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json(document: &Value) -> Result<(), Failure> {
    print(&json_line(document))
}

/// A document as a line, without letters that could command a terminal.
pub(super) fn json_line(document: &Value) -> String {
    let mut line = String::new();
    visible::push_json(&mut line, &document.to_string());
    line + "\n"
}

/// Prints a remark. If standard error is closed, the exit code still tells.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{}", visible::printable(text));
}

/// Waits until the reader of standard output has left. A file has no reader that leaves.
pub(super) async fn reader_left() {
    while !has_reader_left(rustix::stdio::stdout()) {
        tokio::time::sleep(READER_INTERVAL).await;
    }
}

/// Whether the other end of a pipe or a terminal is closed (poll(2)).
fn has_reader_left(writer: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(writer, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let found = poll(&mut polled, Some(&at_once)).is_ok_and(|found| found > 0);
    found && polled.iter().any(|polled| polled.revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

/// Whether the person at a stream wants colours: it is a terminal, and they are not refused (<https://no-color.org>).
pub(super) fn has_colours(stream: &impl IsTerminal) -> bool {
    wants_colours(stream.is_terminal(), env::var_os("NO_COLOR").as_deref())
}

fn wants_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

fn after(written: io::Result<()>) -> ControlFlow<Result<(), Failure>> {
    match written {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ControlFlow::Break(Ok(())),
        Err(error) => ControlFlow::Break(Err(Failure::Failed(
            anyhow::Error::new(error).context("cannot write to standard output"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_reader_that_leaves_is_seen_without_a_write() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!has_reader_left(writer.as_fd()));
        drop(reader);
        assert!(has_reader_left(writer.as_fd()));
        let file = tempfile::tempfile().unwrap();
        assert!(!has_reader_left(file.as_fd()));
    }

    #[test]
    fn only_a_reader_that_has_left_is_no_failure() {
        assert!(matches!(after(Ok(())), ControlFlow::Continue(())));
        assert!(matches!(after(Err(ErrorKind::BrokenPipe.into())), ControlFlow::Break(Ok(()))));
        let full = after(Err(ErrorKind::StorageFull.into()));
        assert!(matches!(full, ControlFlow::Break(Err(Failure::Failed(_)))));
    }

    #[test]
    fn a_document_is_one_line_that_commands_no_terminal() {
        let document = json!({ "name": "a\u{9b}2J\u{202e}\u{e0041}\nb" });
        let line = json_line(&document);
        assert_eq!(line, "{\"name\":\"a\\u009b2J\\u202e\\udb40\\udc41\\nb\"}\n");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), document);
    }

    #[test]
    fn colours_are_for_a_terminal_whose_user_did_not_refuse_them() {
        for (is_terminal, no_color, expected) in
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)]
        {
            assert_eq!(wants_colours(is_terminal, no_color.map(OsStr::new)), expected, "{is_terminal} {no_color:?}");
        }
    }
}
