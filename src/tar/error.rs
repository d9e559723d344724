//! Why an archive is not read on.

use super::MAX_EXTENDED;

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
    #[error("{0} is a sparse file")]
    Sparse(String),
}
