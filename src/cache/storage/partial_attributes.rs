//! The extended attributes of a `….part` file.

use std::fs::File;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

/// How many bytes from the front have no gaps; without the attribute, the whole file has none.
pub(super) const PREFIX: &str = "user.forebay.front";
/// The fingerprint of the registry that sent the bytes.
pub(super) const REGISTRY: &str = "user.forebay.registry";
/// Present if a download has resumed the file in vain.
const FAILED: &str = "user.forebay.failed";

/// Notes that the first `len` bytes have no gaps; returns whether the attribute could be set.
pub(super) fn note_prefix(file: &File, len: u64) -> bool {
    fsetxattr(file, PREFIX, len.to_string().as_bytes(), XattrFlags::empty()).is_ok()
}

pub(super) fn noted_prefix(file: &File) -> Option<u64> {
    let mut value = [0; 20];
    let read = fgetxattr(file, PREFIX, &mut value).ok()?;
    std::str::from_utf8(value.get(..read)?).ok()?.parse().ok()
}

/// Notes the registry. Where that fails, no download resumes the file.
pub(super) fn note_registry(file: &File, fingerprint: &str) {
    if let Err(error) = fsetxattr(file, REGISTRY, fingerprint.as_bytes(), XattrFlags::empty()) {
        tracing::debug!(%error, "the file system of the cache has no extended attributes: downloads are not resumed");
    }
}

pub(super) fn noted_registry(file: &File) -> Option<String> {
    let mut value = [0; 16];
    let read = fgetxattr(file, REGISTRY, &mut value).ok()?;
    Some(std::str::from_utf8(value.get(..read)?).ok()?.to_owned())
}

/// Notes that a download resumed the file in vain; returns whether the attribute could be set.
pub(super) fn note_failure(file: &File) -> bool {
    fsetxattr(file, FAILED, b"1", XattrFlags::empty()).is_ok()
}

/// Removes that note; returns whether there was one.
pub(super) fn take_failure(file: &File) -> bool {
    fremovexattr(file, FAILED).is_ok()
}

/// Removes the notes that a finished object does not need.
pub(super) fn remove_notes(file: &File) {
    for attribute in [PREFIX, REGISTRY] {
        let _ = fremovexattr(file, attribute);
    }
}

pub(super) fn remove_prefix(file: &File) {
    let _ = fremovexattr(file, PREFIX);
}
