//! URLs by which others may read an object for a while.

use std::time::Duration;

use http::Method;
use url::Url;

use super::{Store, error::Error, names::ObjectName};

impl Store {
    /// A URL that answers a GET, and no other method, for this long, at the endpoint that clients reach. It is a secret. Takes no request, except where the
    /// credentials themselves have to be fetched.
    ///
    /// # Errors
    /// There are no credentials to sign with.
    pub(crate) async fn signed_url(&self, name: &ObjectName, valid: Duration) -> Result<Url, Error> {
        let path = self.path(name);
        let signed = tokio::time::timeout(super::REQUEST_TIMEOUT, self.0.signer.signed_url(Method::GET, &path, valid));
        match signed.await {
            Ok(signed) => signed.map_err(|error| Error::of_engine(&error)),
            Err(_) => Err(Error::timeout(super::REQUEST_TIMEOUT)),
        }
    }
}
