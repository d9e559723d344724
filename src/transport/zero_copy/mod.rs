//! How bytes of files reach sockets without a copy in this process.

pub(crate) mod buffer_pool;
pub(crate) mod buffers;
pub(crate) mod file_system;
pub(crate) mod hyper_contract;
pub(crate) mod page_cache;
pub(crate) mod placeholder;
pub(crate) mod queue;
pub(crate) mod splice;
pub(crate) mod unacknowledged;
