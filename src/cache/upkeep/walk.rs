//! A listing of a shelf of the object store, page by page.

use std::time::Duration;

use super::shelf::{Shelf, key_of};
use crate::{
    cache::storage::lru_index::CompactKey,
    store::{Error, ErrorKind, Listed, Store},
};

/// A listing that is under way.
pub(super) struct Walk {
    prefix: String,
    /// What the next page is asked for by.
    token: Option<String>,
    is_over: bool,
    is_cut: bool,
    /// Between two pages.
    pause: Duration,
}

impl Walk {
    pub(super) fn new(shelf: Shelf, pause: Duration) -> Self {
        Self { prefix: shelf.prefix(), token: None, is_over: false, is_cut: false, pause }
    }

    /// The next contents; `None`: that was all. It waits while the store fails, and goes on where it was.
    ///
    /// # Errors
    /// The store fails for too long. A listing that cannot be read is over: the other shelves have theirs.
    pub(super) async fn next(&mut self, objects: &Store) -> Result<Option<Vec<(Listed, CompactKey)>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        if self.token.is_some() {
            tokio::time::sleep(self.pause).await;
        }
        let page = match objects.patient().list(&self.prefix, self.token.as_deref()).await {
            Err(error) if error.kind == ErrorKind::Refused => {
                tracing::warn!(prefix = self.prefix, %error, "a part of the object store cannot be listed, and is passed over");
                (self.is_over, self.is_cut) = (true, true);
                return Ok(None);
            }
            page => page?,
        };
        (self.is_over, self.token) = (page.next.is_none(), page.next);
        let contents = page.objects.into_iter().filter_map(|object| {
            let key = key_of(&object.name)?;
            Some((object, key))
        });
        Ok(Some(contents.collect()))
    }

    /// Whether it ended before all was listed: what was not listed may be there.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }
}
