//! Why the mirror does not start, or why a reload changes nothing.

use std::{error::Error as _, io, net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{
    admin::{TokenError, control_socket::SocketError},
    auth,
    cache::{pins::PinsFileError, storage},
    cluster::{KeyError as ClusterKeyError, NoClient},
    config::{Config, Key, Loaded, Mistake},
    error_chain::ErrorChain,
    metrics,
    push::KeyError,
    state_dir, store,
    transport::{ListenError, TlsConfig, TlsError},
    upstream::{CredentialSource, NoRandomSource, SetupError, proxy::ProxyError},
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
    #[error("must be given: this user has no home directory")]
    NoState,
    #[error("state_directory")]
    Pins(#[from] PinsFileError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("server.tls")]
    Tls(#[from] TlsError),
    #[error("cannot make the key that distinguishes clients")]
    Randomness(#[from] NoRandomSource),
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    #[error("admin.token_file")]
    AdminToken(#[from] TokenError),
    #[error("admin.socket")]
    Control(#[from] SocketError),
    #[error("cluster.key_file {}", path.display())]
    ClusterKey { path: PathBuf, source: ClusterKeyError },
    #[error("cluster.ca")]
    ClusterTls(#[source] SetupError),
    #[error("cluster.peers")]
    ClusterPeers(#[from] NoClient),
    #[error("store.ca")]
    StoreTls(#[source] SetupError),
    #[error("store")]
    Store(#[from] store::SetupError),
    #[error("cannot listen on the admin address {address}")]
    Admin { address: SocketAddr, source: io::Error },
}

impl Error {
    /// Whether the configuration, or a file that it names, is wrong: then another try cannot help, and the message begins
    /// with the key.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Upstream { .. }
            | Self::Access(_)
            | Self::PushKey(_)
            | Self::NoState
            | Self::Pins(_)
            | Self::Proxy(_)
            | Self::StateKey(KeyError::Short { .. })
            | Self::AdminToken(_)
            | Self::ClusterKey { .. }
            | Self::ClusterTls(_)
            | Self::ClusterPeers(_)
            | Self::StoreTls(_)
            | Self::Store(_)
            | Self::Tls(_) => true,
            Self::State(error) => error.is_configuration(),
            Self::Control(error) => error.is_configuration(),
            Self::Cache(error) => error.is_configuration(),
            Self::Metrics(_) | Self::StateKey(_) | Self::Randomness(_) | Self::Listen(_) | Self::Admin { .. } => false,
        }
    }

    /// The key whose value, or whose file, is wrong; `None` if it is no key's fault.
    pub fn key(&self, config: &Config) -> Option<Key> {
        Some(match self {
            Self::Upstream { index, source, .. } => {
                let section = Key::new("upstream").item(*index);
                let field = config.upstreams.get(*index).and_then(|upstream| field_of(upstream, source));
                field.map_or(section.clone(), |field| section.field(field))
            }
            Self::Access(auth::Error::UnknownPushUser { .. }) => Key::new("access").field("push_users"),
            Self::Access(_) => Key::new("access").field("htpasswd"),
            Self::PushKey(_) => Key::new("push").field("key_file"),
            Self::State(_) | Self::StateKey(_) | Self::NoState | Self::Pins(_) => Key::new("state_directory"),
            Self::Cache(_) => Key::new("cache").field("directory"),
            Self::Tls(error) => {
                let section = Key::new("server").field("tls");
                let field = config.server.tls.as_ref().and_then(|tls| field_of_tls(tls, error));
                field.map_or(section.clone(), |field| section.field(field))
            }
            Self::AdminToken(_) => Key::new("admin").field("token_file"),
            Self::Control(SocketError::NoGroup { .. } | SocketError::Group { .. }) => {
                Key::new("admin").field("socket_group")
            }
            Self::Control(_) => Key::new("admin").field("socket"),
            Self::ClusterKey { .. } => Key::new("cluster").field("key_file"),
            Self::ClusterTls(_) => Key::new("cluster").field("ca"),
            Self::ClusterPeers(_) => Key::new("cluster").field("peers"),
            Self::StoreTls(_) => Key::new("store").field("ca"),
            Self::Store(store::SetupError::Keys { key, .. }) => Key::new("store").field(key),
            Self::Store(_) => Key::new("store").field("url"),
            Self::Listen(_) => Key::new("server").field("listen"),
            Self::Admin { .. } => Key::new("admin").field("listen"),
            Self::Metrics(_) | Self::Proxy(_) | Self::Randomness(_) => return None,
        })
    }

    /// What is wrong, at the place of the key whose value, or whose file, it is.
    pub fn mistake(&self, loaded: &Loaded) -> Mistake {
        match self.key(&loaded.config) {
            Some(key) => loaded.origins.mistake(&key, self.problem()),
            None => Mistake::of_no_key(self.problem()),
        }
    }

    /// What is wrong, without the key.
    pub fn problem(&self) -> String {
        match self {
            Self::Upstream { .. }
            | Self::Access(_)
            | Self::PushKey(_)
            | Self::State(_)
            | Self::StateKey(_)
            | Self::Pins(_)
            | Self::AdminToken(_)
            | Self::Control(_)
            | Self::ClusterKey { .. }
            | Self::ClusterTls(_)
            | Self::ClusterPeers(_)
            | Self::StoreTls(_)
            | Self::Store(_)
            | Self::Tls(_) => self.source().map(|source| ErrorChain(source).to_string()).unwrap_or_default(),
            _ => ErrorChain(self).to_string(),
        }
    }
}

/// The field of `[server.tls]` whose file is wrong.
fn field_of_tls(tls: &TlsConfig, error: &TlsError) -> Option<&'static str> {
    match error {
        TlsError::NoKey { .. } | TlsError::Key { .. } | TlsError::Mismatch { .. } => Some("key"),
        TlsError::ClientCa { .. } | TlsError::Verifier { .. } => Some("client_ca"),
        TlsError::Setup { .. } => None,
        TlsError::Read { path, .. }
        | TlsError::Pem { path, .. }
        | TlsError::NoCertificate { path }
        | TlsError::Certificate { path, .. }
        | TlsError::Expired { path, .. }
        | TlsError::NotYetValid { path, .. } => {
            let files = [
                ("certificate", Some(&tls.certificate)),
                ("key", Some(&tls.key)),
                ("client_ca", tls.client_ca.as_ref()),
            ];
            files.into_iter().find(|(_, file)| *file == Some(path)).map(|(field, _)| field)
        }
    }
}

/// The field of an upstream whose file is wrong.
fn field_of(upstream: &crate::upstream::Config, error: &SetupError) -> Option<&'static str> {
    match error {
        SetupError::ReadCa { .. } | SetupError::ParseCa { .. } | SetupError::EmptyCa { .. } => Some("ca"),
        SetupError::Tls { .. } if upstream.ca.is_some() => Some("ca"),
        SetupError::Credentials { .. } => Some(match upstream.credential {
            CredentialSource::DockerConfig(_) => "docker_config",
            CredentialSource::Helper(_) => "credential_helper",
            CredentialSource::Password { .. } | CredentialSource::Anonymous => "password_file",
        }),
        SetupError::Helper { .. } => Some("credential_helper"),
        SetupError::NoUrl { .. } => Some("urls"),
        SetupError::Tls { .. } | SetupError::Client { .. } | SetupError::Via => None,
    }
}
