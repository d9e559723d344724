//! The client of the store: `object_store`, as this forebay needs it.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::{
    BackoffConfig, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, Checksum},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    list::PaginatedListStore,
    multipart::MultipartStore,
    signer::Signer,
};
use url::Url;

use super::{
    config::{Config, Credentials},
    credentials::{KeyFiles, NoCredentials, from_environment},
    error::Error,
    http::{Connector, NoClient},
    location::{Location, Scheme},
};

/// All that is asked of a store.
pub(super) trait Engine: ObjectStore + MultipartStore + PaginatedListStore + Signer {}

impl<T: ObjectStore + MultipartStore + PaginatedListStore + Signer> Engine for T {}

/// The store cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    NoCredentials(#[from] NoCredentials),
    /// `key`: which key of `[store]` names the file.
    #[error("{} cannot be read", path.display())]
    Keys { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Client(#[from] NoClient),
    #[error("{0}")]
    Engine(String),
}

/// The client of the configured store, which is reached at `endpoint` if that is given.
///
/// # Errors
/// There are no credentials, or the engine does not take the configuration.
pub(super) fn open(
    config: &Config,
    endpoint: Option<&Url>,
    connector: &Connector,
) -> Result<Arc<dyn Engine>, SetupError> {
    let Location { scheme, bucket, .. } = &config.url;
    let variables = from_environment(*scheme, &config.credentials, variable)?;
    let refused = |error: object_store::Error| SetupError::Engine(Error::of_engine(&error).to_string());
    let endpoint = endpoint.map(|url| url.as_str().trim_end_matches('/').to_owned());
    // One failed attempt is one: forebay has other sources, and its own pauses.
    let no_retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, ..RetryConfig::default() };
    Ok(match scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::new()
                .with_http_connector(connector.clone())
                .with_retry(no_retry)
                .with_bucket_name(bucket)
                .with_region(region(config))
                .with_checksum_algorithm(Checksum::SHA256);
            for (name, value) in variables {
                builder = builder.with_config(name.to_ascii_lowercase().parse().map_err(refused)?, value);
            }
            if let Some(endpoint) = endpoint {
                let is_virtual = is_of_bucket(&endpoint, bucket);
                builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(is_virtual);
            }
            if let Credentials::Files { access_key_id, secret_access_key } = &config.credentials {
                let files = key_files(access_key_id, secret_access_key)?;
                builder = builder.with_credentials(Arc::new(files));
            }
            Arc::new(builder.build().map_err(refused)?)
        }
        Scheme::Gs => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_http_connector(connector.clone())
                .with_retry(no_retry)
                .with_bucket_name(bucket);
            for (name, value) in variables {
                builder = builder.with_config(name.to_ascii_lowercase().parse().map_err(refused)?, value);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_base_url(&endpoint);
            }
            Arc::new(builder.build().map_err(refused)?)
        }
        Scheme::Az => {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_http_connector(connector.clone())
                .with_retry(no_retry)
                .with_container_name(bucket);
            for (name, value) in variables {
                builder = builder.with_config(name.to_ascii_lowercase().parse().map_err(refused)?, value);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Arc::new(builder.build().map_err(refused)?)
        }
    })
}

fn key_files(access_key_id: &Path, secret_access_key: &Path) -> Result<KeyFiles, SetupError> {
    for (key, path) in [("access_key_id_file", access_key_id), ("secret_access_key_file", secret_access_key)] {
        KeyFiles::check(path).map_err(|source| SetupError::Keys { key, path: path.to_owned(), source })?;
    }
    let opened = KeyFiles::open(access_key_id.to_owned(), secret_access_key.to_owned());
    // They were replaced just now.
    opened.map_err(|source| SetupError::Keys { key: "access_key_id_file", path: access_key_id.to_owned(), source })
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn region(config: &Config) -> String {
    let configured = config.region.as_deref().map(str::to_owned);
    let found = configured.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    found.filter(|region| !region.is_empty()).unwrap_or_else(|| "us-east-1".to_owned())
}

/// Whether the host of an endpoint is that of the bucket itself: `https://bucket.oss-cn-hangzhou.aliyuncs.com`. Some
/// providers have no other.
fn is_of_bucket(endpoint: &str, bucket: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_endpoint_may_be_the_buckets_own() {
        for (endpoint, expected) in [
            ("https://images.oss-cn-hangzhou.aliyuncs.com", true),
            ("https://oss-cn-hangzhou.aliyuncs.com", false),
            ("https://imagesx.example", false),
            ("http://127.0.0.1:8333", false),
        ] {
            assert_eq!(is_of_bucket(endpoint, "images"), expected, "{endpoint}");
        }
    }
}
