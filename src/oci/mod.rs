//! The types of the OCI distribution specification, for both ends: requests of clients, and responses of upstreams.
//!
//! What must hold: nothing here does I/O, and a value of these types is valid. Its parser has checked it, so that it
//! can be a path component, a header value or a map key.
//!
//! forebay has types of its own, and not those of the `oci-spec` crate, since a mirror neither builds nor rewrites
//! manifests. It passes on the bytes that it received, reads only what tells their type and what they refer to, and has
//! to refuse a document that two readers could read in two ways. The paths, ranges, `Accept` headers and Docker's
//! formats are not part of that crate.

mod accept;
mod content_range;
mod digest;
mod error;
mod etag;
pub(crate) mod host;
pub mod layout;
mod manifest;
mod manifest_detection;
mod manifest_keys;
mod manifest_type;
mod media_type;
mod name;
mod operation;
mod path;
mod platform;
pub(crate) mod query;
mod range;
mod referrers;
mod schema1;

pub use accept::{Accept, AcceptClass};
pub use content_range::ContentRange;
pub use digest::{Algorithm, Digest, Verifier, sha256_of_hex};
pub use error::{ErrorCode, ParseError};
pub use etag::{etag, matches_if_none_match};
pub use host::HostPattern;
pub use manifest::{Content, Descriptor, Manifest};
pub use manifest_detection::ManifestSigns;
pub use manifest_type::{DocumentType, OtherType};
pub use media_type::{MediaType, MediaTypeKind};
pub use name::{Reference, Repository, Tag};
pub use operation::Operation;
pub use path::{Endpoint, Resource, Shape, local_path};
pub use platform::Platform;
pub use range::{Adjoining, ByteRange, MAX_RANGES, Ranges, RangesError, ResolvedRange};
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
