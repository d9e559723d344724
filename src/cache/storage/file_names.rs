//! The names of files below `tmp/`, and what a name means after a restart (pure).
//!
//! A `….part` file belongs to a download; the map at its end says which bytes it has (`partial_map`), and a later
//! download of the blob resumes it. `object-….new` and `upload-….new` files belong to unfinished writes; a restart
//! removes them, and the `….gaps` files of earlier versions.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    sync::atomic::{AtomicU64, Ordering},
};

use super::digest_of;
use crate::{
    cache::{ContentKey, Visibility},
    oci::Algorithm,
};

const PART: &str = "part";
const GAPS: &str = "gaps";
/// The prefix of the names of content that is cached per client credentials.
const CLIENTS: &str = "clients-";

/// The name below `tmp/` of this content's download.
pub(super) fn partial(id: &ContentKey) -> String {
    let of_clients = if id.visibility == Visibility::PerClient { CLIENTS } else { "" };
    format!("{of_clients}{}-{}.{PART}", id.digest.algorithm().as_str(), id.digest.hex())
}

/// Whether forebay creates files of this name below `tmp/`.
pub(super) fn is_ours(name: &str) -> bool {
    let of_download = || name.strip_suffix(GAPS).is_some_and(|front| resumable(&format!("{front}{PART}")).is_some());
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let of_object = || {
        let rest = name.strip_prefix("object-").or_else(|| name.strip_prefix("upload-"));
        rest.and_then(|rest| rest.strip_suffix(".new")).is_some_and(number)
    };
    resumable(name).is_some() || of_download() || of_object()
}

/// The content of the file with this name below `tmp/`, if a download can resume the file.
pub(super) fn resumable(name: &str) -> Option<ContentKey> {
    let (visibility, name) = match name.strip_prefix(CLIENTS) {
        Some(rest) => (Visibility::PerClient, rest),
        None => (Visibility::Shared, name),
    };
    let (algorithm, hex) = name.strip_suffix(PART)?.strip_suffix('.')?.split_once('-')?;
    let algorithm = Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm)?;
    digest_of(algorithm, hex).map(|digest| visibility.key(&digest))
}

/// A name that no other user of the machine can have given to a file before.
pub(super) fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Each `RandomState` has its own keys, derived from the randomness of the process.
    let random = RandomState::new().build_hasher().finish();
    format!("object-{random:016x}-{}.new", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The name of the upload with this number.
pub(super) fn upload(number: u64) -> String {
    format!("upload-{number:016x}.new")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn only_the_names_of_downloads_can_be_resumed() {
        for (algorithm, visibility) in
            Algorithm::ALL.into_iter().flat_map(|algorithm| Visibility::ALL.map(|visibility| (algorithm, visibility)))
        {
            let id = visibility.key(&Digest::of(algorithm, b"whatever"));
            assert_eq!(resumable(&partial(&id)), Some(id.clone()));
            let gaps = partial(&id).replace(".part", ".gaps");
            assert!(resumable(&gaps).is_none() && is_ours(&gaps));
        }
        for name in ["", ".part", "part", "sha256-.part", "sha256-0.part", "sha256part", "object-1.new", "md5-00.part"]
        {
            assert_eq!(resumable(name), None, "{name}");
        }
    }
}
