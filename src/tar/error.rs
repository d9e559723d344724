//! Why an archive is not read on.

use super::{MAX_EXTENDED, MAX_EXTENDED_HEADERS, MAX_TRAILER};

/// An archive that is not read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    #[error("this is no tar archive, or it is damaged")]
    NoHeader,
    #[error("the archive ends early")]
    Truncated,
    #[error("an extended header of the archive is longer than {MAX_EXTENDED} bytes")]
    LongHeader,
    #[error("a name in the archive is no UTF-8")]
    Name,
    #[error("an entry of the archive has more than {MAX_EXTENDED_HEADERS} extended headers")]
    ManyHeaders,
    #[error("more than {MAX_TRAILER} bytes follow the end of the archive")]
    Trailer,
    #[error("{0:?} is a sparse file")]
    Sparse(String),
}
