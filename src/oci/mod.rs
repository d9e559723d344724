//! The vocabulary of the OCI distribution specification, spelled once for both ends.
//!
//! Nothing here does I/O. A value of these types is valid: parsing happens at the edge, and what
//! came through the parser can be trusted as a path component, a header value or a map key.

mod digest;
mod error;
mod name;

pub use digest::{Algorithm, Digest, Verifier};
pub use error::{ErrorCode, ParseError};
pub use name::{Reference, Repository, Tag};
