//! Placeholders: buffers that stand for parts of files, in memory that is never read.

use std::sync::LazyLock;

use bytes::Bytes;

/// The longest part that one placeholder stands for, in bytes.
pub(crate) const MAX_PART: u64 = 2 * 1024 * 1024;
/// How many sequence numbers are told apart; a connection has a few parts in its queue at most.
pub(super) const SEQUENCES: usize = 1024;

/// Allocated zeroed: the kernel gives address space, and no memory as long as it is not touched.
static MEMORY: LazyLock<&'static [u8]> = LazyLock::new(|| Box::leak(vec![0; MAX_PART as usize + SEQUENCES].into()));

/// A placeholder of `len` bytes, at most [`MAX_PART`]. Where in the memory it begins is its sequence number.
pub(super) fn placeholder(sequence: usize, len: usize) -> Bytes {
    Bytes::from_static(&MEMORY[sequence..sequence + len])
}

/// Whether a buffer is the placeholder of this sequence number without its first `sent` bytes.
pub(super) fn continues(buffer: &[u8], sequence: usize, sent: usize) -> bool {
    buffer.as_ptr().addr() == MEMORY.as_ptr().addr() + sequence + sent
}

/// Whether a buffer is a placeholder, or the rest of one.
pub(crate) fn is_placeholder(buffer: &[u8]) -> bool {
    MEMORY.as_ptr_range().contains(&buffer.as_ptr())
}

/// A placeholder that stands for nothing.
pub(super) fn sample(len: usize) -> Bytes {
    placeholder(0, len.min(MEMORY.len()))
}
