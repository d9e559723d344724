//! An error and its sources: one by one, and in one line for the log.

use std::{error::Error, fmt, io};

/// Prints each level once, from the outermost to the first cause.
pub(crate) struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// An error, its source, and the sources of that. An [`io::Error`] that only wraps an error says that one's text and has
/// that one's source: `Error::source` skips the wrapped error, which is what callers look for.
pub(crate) fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the cause")]
    struct Cause;

    #[derive(Debug, thiserror::Error)]
    #[error("the layer above")]
    struct Above(#[source] io::Error);

    #[test]
    fn what_io_errors_wrap_is_among_the_sources_and_printed_once() {
        for wrapped in [io::Error::other(Cause), io::Error::other(io::Error::other(Cause))] {
            let error = Above(wrapped);
            assert!(sources(&error).any(|source| source.is::<Cause>()));
            assert_eq!(ErrorChain(&error).to_string(), "the layer above: the cause");
        }
        assert_eq!(sources(&Above(io::ErrorKind::TimedOut.into())).count(), 2);
    }
}
