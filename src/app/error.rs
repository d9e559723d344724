//! Why the mirror does not start, or why a reload changes nothing.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    auth,
    cache::storage,
    metrics,
    push::KeyError,
    state_dir,
    transport::{ListenError, TlsError},
    upstream::{NoRandomSource, SetupError, proxy::ProxyError},
};

/// Why the mirror does not start, or a reload changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the metrics cannot be registered")]
    Metrics(#[from] metrics::Error),
    #[error("the cache cannot be used")]
    Cache(#[from] storage::OpenError),
    #[error("upstream[{index}] ({name})")]
    Upstream { index: usize, name: Arc<str>, source: SetupError },
    #[error("access")]
    Access(#[from] auth::Error),
    #[error("push.key_file")]
    PushKey(#[from] KeyError),
    #[error("state_directory")]
    State(#[from] state_dir::Error),
    #[error("state_directory")]
    StateKey(#[source] KeyError),
    #[error("state_directory must be given: this user has no home directory")]
    NoState,
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("server.tls")]
    Tls(#[from] TlsError),
    #[error("cannot make the key that distinguishes clients")]
    Randomness(#[from] NoRandomSource),
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    #[error("cannot listen on the admin address {address}")]
    Admin { address: SocketAddr, source: io::Error },
}

impl Error {
    /// Whether the configuration, or a file that it names, is wrong: then another try cannot help, and the message begins with the
    /// key.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Upstream { .. }
            | Self::Access(_)
            | Self::PushKey(_)
            | Self::NoState
            | Self::Proxy(_)
            | Self::StateKey(KeyError::Short { .. })
            | Self::Tls(_) => true,
            Self::State(error) => error.is_configuration(),
            Self::Cache(error) => error.is_configuration(),
            Self::Metrics(_) | Self::StateKey(_) | Self::Randomness(_) | Self::Listen(_) | Self::Admin { .. } => false,
        }
    }
}
