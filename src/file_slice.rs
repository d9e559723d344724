//! A part of an open file.

use std::{fs::File, sync::Arc};

/// Where the bytes are: cheap to clone and to hand on, since it carries none of them.
#[derive(Clone, Debug)]
pub(crate) struct FileSlice {
    pub file: Arc<File>,
    pub offset: u64,
    pub len: u64,
}
