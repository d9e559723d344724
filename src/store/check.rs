//! Whether an object has the bytes that its digest names.

use futures_util::StreamExt as _;

use super::{Store, error::Error, error_kind::ErrorKind, get::Part, names::ObjectName};
use crate::oci::{Digest, Verifier};

impl Store {
    /// Reads a blob, and distrusts it if it is another one. Returns whether it is right.
    ///
    /// # Errors
    /// It did not come: nothing is known about it.
    pub(crate) async fn check(&self, name: &ObjectName, digest: &Digest) -> Result<bool, Error> {
        let mut object = self.get(name, Part::default()).await?;
        if object.range.end.saturating_sub(object.range.start) != object.len {
            return Err(Error::new(ErrorKind::Failed, format!("a part of {name} came instead of all of it")));
        }
        let mut verifier = Verifier::new(digest.algorithm());
        while let Some(piece) = object.body.next().await {
            verifier.update(&piece?);
        }
        let is_right = verifier.digest() == *digest;
        if !is_right {
            self.distrust(name);
        }
        Ok(is_right)
    }
}
