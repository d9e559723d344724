//! `[store]`: the object store behind forebays.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::{
    document::Document,
    error::{Error, Key},
    units::Size,
};
use crate::{
    peer::{Network, NetworkError},
    store::{Config, Credentials, Location, Scheme, UpkeepTimes},
};

/// The keys of `[store]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StoreSection {
    url: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    credentials: Option<String>,
    access_key_id_file: Option<PathBuf>,
    secret_access_key_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    max_size: Option<Size>,
    redirect_clients: Vec<String>,
    redirect_endpoint: Option<String>,
}

impl StoreSection {
    /// Whether there is a store.
    pub(super) fn is_set(&self) -> bool {
        self.url.is_some()
    }

    /// `None`: there is no store.
    pub(super) fn read(self, document: &Document<'_>) -> Result<Option<Config>, Error> {
        let section = Key::new("store");
        let redirect_clients = self.redirect_clients(document, &section.field("redirect_clients"));
        let has_clients = !self.redirect_clients.is_empty();
        let Self {
            url,
            endpoint,
            region,
            credentials,
            access_key_id_file,
            secret_access_key_file,
            ca,
            max_size,
            redirect_clients: _,
            redirect_endpoint,
        } = self;
        let Some(url) = url else {
            let is_set = endpoint.is_some()
                || region.is_some()
                || credentials.is_some()
                || access_key_id_file.is_some()
                || secret_access_key_file.is_some()
                || ca.is_some()
                || max_size.is_some()
                || has_clients
                || redirect_endpoint.is_some();
            return match is_set {
                true => Err(document.error(&section, "needs url: url = \"s3://bucket/prefix\"")),
                false => Ok(None),
            };
        };
        let url: Location = url.parse().map_err(|error| document.error(&section.field("url"), format!("{error}")))?;
        let endpoint = endpoint.map(|text| self::endpoint(document, &section.field("endpoint"), &text)).transpose()?;
        let of_redirects = section.field("redirect_endpoint");
        let redirect_endpoint =
            redirect_endpoint.map(|text| self::endpoint(document, &of_redirects, &text)).transpose()?;
        if region.as_deref().is_some_and(|region| !is_region(region)) {
            let problem = "must be the name of a region, such as \"eu-central-1\"";
            return Err(document.error(&section.field("region"), problem));
        }
        if max_size.as_ref().is_some_and(|Size(bytes)| *bytes == 0) {
            return Err(
                document.error(&section.field("max_size"), "must be more than 0; without it nothing is removed")
            );
        }
        let path = |field: &str, path: PathBuf| document.resolve(&section.field(field), &path);
        let files = match (access_key_id_file, secret_access_key_file) {
            (Some(id), Some(secret)) => Some((path("access_key_id_file", id), path("secret_access_key_file", secret))),
            (None, None) => None,
            (Some(_), None) => {
                return Err(document.error(&section, "needs secret_access_key_file beside access_key_id_file"));
            }
            (None, Some(_)) => {
                return Err(document.error(&section, "needs access_key_id_file beside secret_access_key_file"));
            }
        };
        let credentials = match (credentials.as_deref(), files) {
            (Some("environment") | None, Some(_)) if url.scheme != Scheme::S3 => {
                let problem = "is for \"s3://\" alone; other stores have their variables: see docs/store.md";
                return Err(document.error(&section.field("access_key_id_file"), problem));
            }
            (Some("environment") | None, Some((access_key_id, secret_access_key))) => {
                Credentials::Files { access_key_id, secret_access_key }
            }
            (Some("environment") | None, None) => Credentials::Environment,
            (Some("instance"), None) => Credentials::Instance,
            (Some("instance"), Some(_)) => {
                let problem = "must not be \"instance\" with access_key_id_file: one of both counts";
                return Err(document.error(&section.field("credentials"), problem));
            }
            (Some(_), _) => {
                let problem = "must be \"environment\" or \"instance\"";
                return Err(document.error(&section.field("credentials"), problem));
            }
        };
        Ok(Some(Config {
            url,
            endpoint,
            region: region.map(Into::into),
            credentials,
            ca: ca.map(|file| path("ca", file)),
            max_size: max_size.map(|Size(bytes)| bytes),
            redirect_clients,
            redirect_endpoint,
            times: UpkeepTimes::default(),
        }))
    }

    fn redirect_clients(&self, document: &Document<'_>, key: &Key) -> Vec<Network> {
        document.each(key, &self.redirect_clients, |key, text| {
            text.parse().map_err(|error: NetworkError| document.error(key, error.to_string()))
        })
    }
}

/// The URL of a server: a store is reached in the clear only where the operator writes so.
fn endpoint(document: &Document<'_>, key: &Key, text: &str) -> Result<Url, Error> {
    let problem = "must be the URL of a server, such as \"https://s3.example\" or \"http://127.0.0.1:8333\"";
    let refused = || document.error(key, problem);
    let url: Url = text.parse().map_err(|_| refused())?;
    let is_server = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_server { Ok(url) } else { Err(refused()) }
}

fn is_region(text: &str) -> bool {
    let is_ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_ours)
}
