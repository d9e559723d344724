//! What commands print: results on standard output, remarks on standard error.

use std::{
    io::{self, ErrorKind, Write},
    ops::ControlFlow,
};

use super::Failure;

/// Prints a result.
///
/// # Errors
/// It cannot be written, to a full disk for example. A reader that has left (`forebay man | head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The same for results that come one after the other; `Break`: the reader has left.
///
/// # Errors
/// As [`print`].
pub(super) fn print_to_reader(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = io::stdout().lock();
    let result = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    let has_left = matches!(&result, Err(error) if error.kind() == ErrorKind::BrokenPipe);
    written(result)?;
    Ok(if has_left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// Prints a remark. If standard error is closed, the exit code still tells.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(anyhow::Error::new(error).context("cannot write to standard output")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_left_is_no_failure() {
        assert!(written(Ok(())).is_ok() && written(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(matches!(written(Err(ErrorKind::StorageFull.into())), Err(Failure::Failed(_))));
    }
}
