//! The object store behind this forebay, as it is configured.

use std::{path::PathBuf, sync::Arc, time::Duration};

use url::Url;

use super::location::Location;
use crate::peer::Network;

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
    /// How many bytes blobs and manifests may take there; `None`: forebay removes nothing.
    pub max_size: Option<u64>,
    /// The networks whose clients may be sent to the store for blobs.
    pub redirect_clients: Vec<Network>,
    /// Where these reach it; `None`: where forebay does.
    pub redirect_endpoint: Option<Url>,
    /// No keys.
    pub times: UpkeepTimes,
}

impl Config {
    /// Where clients reach the store, for operators.
    pub(crate) fn clients_endpoint(&self) -> String {
        let endpoint = self.redirect_endpoint.as_ref().or(self.endpoint.as_ref());
        endpoint.map_or_else(|| self.url.to_string(), |endpoint| endpoint.origin().ascii_serialization())
    }
}

/// When the store is compared with the disk, and what is too young to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepTimes {
    /// From the start to the first listing.
    pub first: Duration,
    /// From one listing to the next.
    pub interval: Duration,
    /// How long what another forebay owns is left to it.
    pub owner_time: Duration,
    /// Between two lists of what was used here.
    pub usage_interval: Duration,
    /// What was written or used within this time is not removed.
    pub least_age: Duration,
    /// Between two pages of a listing.
    pub page_pause: Duration,
}

impl Default for UpkeepTimes {
    fn default() -> Self {
        let (hour, day) = (Duration::from_secs(60 * 60), Duration::from_secs(24 * 60 * 60));
        Self {
            first: Duration::from_secs(5),
            interval: day,
            owner_time: hour,
            usage_interval: hour,
            least_age: day,
            page_pause: Duration::from_millis(100),
        }
    }
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
