//! What the store has, a page at a time.

use std::time::SystemTime;

use object_store::{list::PaginatedListOptions, path::PathPart};

use super::{Lane, REQUEST_TIMEOUT, Store, error::Error, labels::StoreOperation, names::ObjectName};

/// How many objects a page has; S3 gives no more.
const PAGE: usize = 1000;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub name: ObjectName,
    /// In bytes.
    pub len: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// Up to 1000 objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub objects: Vec<Listed>,
    /// What the next page is asked for by; `None`: this is the last.
    pub next: Option<String>,
}

impl Store {
    /// The objects whose names begin with `prefix`, in no order that could be relied on. `token`: the last page's
    /// `next`.
    ///
    /// # Errors
    /// The store did not answer.
    pub(crate) async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page, Error> {
        let of_store = match self.location().prefix.as_str() {
            "" => String::new(),
            of_store => format!("{of_store}/"),
        };
        let whole = format!("{of_store}{}", encoded(prefix));
        let options =
            PaginatedListOptions { max_keys: Some(PAGE), page_token: token, ..PaginatedListOptions::default() };
        let request = self.0.engine.list_paginated(Some(&whole), options);
        let page = self.call(Lane::List, StoreOperation::List, REQUEST_TIMEOUT, request).await?;
        let objects = page.result.objects.into_iter().take(PAGE).filter_map(|object| {
            Some(Listed {
                name: self.name_of(&object.location)?,
                len: object.size,
                modified: object.last_modified.into(),
            })
        });
        Ok(Page { objects: objects.collect(), next: page.page_token })
    }
}

/// As the engine writes names: it encodes some characters, such as the brackets of an IPv6 address.
fn encoded(prefix: &str) -> String {
    let parts = prefix.split('/').map(|part| PathPart::from(part).as_ref().to_owned());
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_as_the_engine_writes_names() {
        for (prefix, expected) in [
            ("blobs/sha256/ab/", "blobs/sha256/ab/"),
            ("tags/docker.io/library/alpine/3.20@", "tags/docker.io/library/alpine/3.20@"),
            ("tags/[::1]:5000/a/1@", "tags/%5B::1%5D:5000/a/1@"),
            ("", ""),
        ] {
            assert_eq!(encoded(prefix), expected);
            let path = object_store::path::Path::from(prefix.trim_end_matches('/'));
            assert_eq!(path.as_ref(), expected.trim_end_matches('/'));
        }
    }
}
