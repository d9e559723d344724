//! The vocabulary of the OCI distribution specification, spelled once for both ends.
//!
//! Nothing here does I/O. A value of these types is valid: parsing happens at the edge, and what
//! came through the parser can be trusted as a path component, a header value or a map key.

mod accept;
mod digest;
mod error;
pub(crate) mod host;
mod manifest;
mod manifest_type;
mod media_type;
mod name;
mod operation;
mod path;
mod range;
mod referrers;
mod schema1;

pub use accept::{Accept, AcceptClass};
pub use digest::{Algorithm, Digest, Verifier, etag, sha256_of_hex};
pub use error::{ErrorCode, ParseError};
pub use host::HostPattern;
pub use manifest::{Content, Descriptor, Manifest};
pub use manifest_type::{DocumentType, ManifestSigns, OtherType};
pub use media_type::{MediaType, MediaTypeKind};
pub use name::{Reference, Repository, Tag};
pub use operation::Operation;
pub use path::{Endpoint, Resource, Shape, local_path};
pub use range::{Adjoining, ByteRange, ContentRange, MAX_RANGES, Ranges, RangesError, ResolvedRange};
pub use referrers::{NO_REFERRERS, Referrers, is_referrers_tag};
#[cfg(test)]
pub(crate) use schema1::tests::example as signed_example;
pub use schema1::{matches_manifest, schema1_payload};

/// Whether a byte may stand in a token. Source: RFC 9110 section 5.6.2.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}
