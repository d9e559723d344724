//! What commands print: results on standard output, remarks on standard error.

use std::io::{self, ErrorKind, Write};

use super::Failure;

/// Prints a result.
///
/// # Errors
/// It cannot be written, to a full disk for example. A reader that has left (`forebay man | head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
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
