//! The object store behind this forebay, as it is configured.

use std::{path::PathBuf, sync::Arc};

use url::Url;

use super::location::Location;

/// The object store behind this forebay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub url: Location,
    /// Where it is reached; `None`: where its provider is.
    pub endpoint: Option<Url>,
    /// `None`: as the environment says, else `us-east-1`.
    pub region: Option<Arc<str>>,
    pub credentials: Credentials,
    /// The file of the CAs that sign the store's certificate, beside those of the system.
    pub ca: Option<PathBuf>,
}

/// Where the credentials for the store come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// The variables that the provider's own tools read.
    #[default]
    Environment,
    /// The metadata service of the instance.
    Instance,
    /// Two files, which are read again when they change.
    Files { access_key_id: PathBuf, secret_access_key: PathBuf },
}
