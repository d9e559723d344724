//! A part of a file of the cache.

use std::{fs::File, sync::Arc};

/// Bytes that are on disk: what to send, not the bytes themselves.
#[derive(Clone, Debug)]
pub struct FileSlice {
    pub file: Arc<File>,
    pub offset: u64,
    pub len: u64,
}
