//! Where the store's credentials come from.
//!
//! What must hold: no service for metadata is dialled unless the operator says so. The engine does that where it finds
//! nothing else, and a service of the network would then get a say about what forebay reads.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use object_store::{aws::AwsCredential, client::CredentialProvider};
use parking_lot::Mutex;

use super::{config::Credentials, location::Scheme};
use crate::small_file;

/// The longest key, in bytes.
const MAX_KEY: u64 = 4 * 1024;

/// The variables that tell the engine about credentials. Others, which would change where it sends requests or whether
/// it checks certificates, have no effect.
const OF_S3: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
const OF_GS: &[&str] = &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"];
const OF_AZ: &[&str] = &[
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
];

/// Sets of variables, each of which is enough.
const ENOUGH_FOR_S3: &[&[&str]] = &[
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
    &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
    &["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
];
const ENOUGH_FOR_GS: &[&[&str]] =
    &[&["GOOGLE_APPLICATION_CREDENTIALS"], &["GOOGLE_SERVICE_ACCOUNT"], &["GOOGLE_SERVICE_ACCOUNT_KEY"]];
const ENOUGH_FOR_AZ: &[&[&str]] = &[
    &["AZURE_STORAGE_ACCOUNT_KEY"],
    &["AZURE_STORAGE_SAS_KEY"],
    &["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"],
    &["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"],
];

/// There are no credentials for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", sentence(.0))]
pub struct NoCredentials(Scheme);

fn sentence(scheme: &Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "no credentials: set the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or those of a web identity \
             or a container role), or access_key_id_file and secret_access_key_file; on an instance with a role: \
             credentials = \"instance\""
        }
        Scheme::Gs => {
            "no credentials: set the variable GOOGLE_APPLICATION_CREDENTIALS to the file of a service account; on an \
             instance with one: credentials = \"instance\""
        }
        Scheme::Az => {
            "no credentials: set the variables AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or those of a \
             workload identity); on an instance with an identity: credentials = \"instance\""
        }
    }
}

/// The variables to give to the engine, by what the environment has.
///
/// # Errors
/// They are not enough.
pub(super) fn from_environment(
    scheme: Scheme,
    credentials: &Credentials,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(&'static str, String)>, NoCredentials> {
    let (names, enough) = match scheme {
        Scheme::S3 => (OF_S3, ENOUGH_FOR_S3),
        Scheme::Gs => (OF_GS, ENOUGH_FOR_GS),
        Scheme::Az => (OF_AZ, ENOUGH_FOR_AZ),
    };
    let found: Vec<(&'static str, String)> =
        names.iter().filter_map(|name| Some((*name, lookup(name).filter(|value| !value.is_empty())?))).collect();
    let has = |name: &&str| found.iter().any(|(found, _)| found == name);
    let is_of_account = |(name, _): &(&str, String)| matches!(*name, "AZURE_STORAGE_ACCOUNT_NAME" | "AZURE_CLIENT_ID");
    match credentials {
        Credentials::Environment if enough.iter().any(|set| set.iter().all(has)) => Ok(found),
        Credentials::Environment => Err(NoCredentials(scheme)),
        // Which account, and which of an instance's identities.
        Credentials::Instance | Credentials::Files { .. } => Ok(found.into_iter().filter(is_of_account).collect()),
    }
}

/// Two files with the keys, read again when they change.
pub(super) struct KeyFiles {
    access_key_id: PathBuf,
    secret_access_key: PathBuf,
    known: Mutex<Option<(Stamps, Arc<AwsCredential>)>>,
}

/// When both files were changed.
type Stamps = [SystemTime; 2];

impl KeyFiles {
    /// Reads them. Blocks.
    ///
    /// # Errors
    /// A file cannot be read, or is empty.
    pub(super) fn open(access_key_id: PathBuf, secret_access_key: PathBuf) -> std::io::Result<Self> {
        let files = Self { access_key_id, secret_access_key, known: Mutex::default() };
        files.read()?;
        Ok(files)
    }

    /// Whether a key can be read from this file. Blocks.
    pub(super) fn check(path: &Path) -> std::io::Result<()> {
        key_in(path).map(drop)
    }

    fn read(&self) -> std::io::Result<Arc<AwsCredential>> {
        let stamp = |path: &PathBuf| std::fs::metadata(path)?.modified();
        let stamps = [stamp(&self.access_key_id)?, stamp(&self.secret_access_key)?];
        let mut known = self.known.lock();
        if let Some((of, credential)) = &*known
            && *of == stamps
        {
            return Ok(credential.clone());
        }
        let credential = Arc::new(AwsCredential {
            key_id: key_in(&self.access_key_id)?,
            secret_key: key_in(&self.secret_access_key)?,
            token: None,
        });
        *known = Some((stamps, credential.clone()));
        Ok(credential)
    }

    /// What was read last.
    fn last(&self) -> Option<Arc<AwsCredential>> {
        self.known.lock().as_ref().map(|(_, credential)| credential.clone())
    }
}

fn key_in(path: &Path) -> std::io::Result<String> {
    let text = small_file::read_text(path, MAX_KEY)?.trim().to_owned();
    match text.is_empty() {
        true => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is empty")),
        false => Ok(text),
    }
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFiles").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for KeyFiles {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Two small files that are looked at with each request, as those of the upstreams are.
        match self.read() {
            Ok(credential) => Ok(credential),
            // While the files are replaced, the old keys may be good.
            Err(error) => {
                self.last().ok_or_else(|| object_store::Error::Generic { store: "S3", source: Box::new(error) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_enough_or_the_start_says_what_to_set() {
        for (scheme, set, expected) in [
            (Scheme::S3, &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"][..], true),
            (Scheme::S3, &["AWS_ACCESS_KEY_ID"], false),
            (Scheme::S3, &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"], true),
            (Scheme::S3, &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"], true),
            (Scheme::S3, &["AWS_CONTAINER_CREDENTIALS_FULL_URI"], false),
            (Scheme::S3, &[], false),
            (Scheme::Gs, &["GOOGLE_APPLICATION_CREDENTIALS"], true),
            (Scheme::Gs, &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], false),
            (Scheme::Az, &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"], true),
            (Scheme::Az, &["AZURE_STORAGE_ACCOUNT_NAME"], false),
        ] {
            let lookup = |name: &str| set.contains(&name).then(|| "x".to_owned());
            let found = from_environment(scheme, &Credentials::Environment, lookup);
            assert_eq!(found.is_ok(), expected, "{scheme:?} {set:?}");
            assert!(from_environment(scheme, &Credentials::Instance, lookup).is_ok());
        }
        let empty = |_: &str| Some(String::new());
        assert!(from_environment(Scheme::S3, &Credentials::Environment, empty).is_err());
    }

    #[test]
    fn variables_that_change_where_requests_go_have_no_effect() {
        let all = |_: &str| Some("x".to_owned());
        let found = from_environment(Scheme::S3, &Credentials::Environment, all).unwrap();
        for refused in
            ["AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_SKIP_SIGNATURE", "AWS_BUCKET", "AWS_METADATA_ENDPOINT"]
        {
            assert!(found.iter().all(|(name, _)| *name != refused), "{refused}");
        }
    }

    #[test]
    fn keys_in_files_are_read_again_and_kept_while_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(KeyFiles::open(path("id"), path("secret")).is_err());
        std::fs::write(path("id"), "one\n").unwrap();
        std::fs::write(path("secret"), "first\n").unwrap();
        let files = KeyFiles::open(path("id"), path("secret")).unwrap();
        assert_eq!(files.read().unwrap().key_id, "one");
        std::fs::write(path("id"), "two").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(9);
        std::fs::File::options().write(true).open(path("id")).unwrap().set_modified(later).unwrap();
        assert_eq!(files.read().unwrap().key_id, "two");
        std::fs::remove_file(path("id")).unwrap();
        assert!(files.read().is_err());
        assert_eq!(files.last().unwrap().secret_key, "first");
        assert!(!format!("{files:?}").contains("first"));
    }
}
