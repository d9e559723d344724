//! Records of tags in the object store.
//!
//! What must hold: a record that a change through forebay outdates does not stay there; what the store says counts only with a
//! code of the cluster.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    known::{Says, is_news},
    signed_record::{self, MAX_LEN},
    tier::{ObjectTier, READ_TIMEOUT},
};
use crate::{
    cache::storage::tag_record::{TagKey, TagRecord},
    store::{ErrorKind, IfPresent},
};

/// How often a write is tried. After that the next confirmation of the tag tries again.
const MAX_ATTEMPTS: u32 = 5;
/// Before an attempt while writes pause.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl ObjectTier {
    /// The record of a tag, unless it was looked for within the last minute.
    pub(in crate::cache::manifest) async fn find(&self, key: &TagKey) -> Option<Arc<TagRecord>> {
        let is_asked = self.0.signer.is_some()
            && self.0.objects.may_read()
            && self.known(key).may_read(Instant::now())
            && !self.0.removals.has_tag(key);
        if !is_asked {
            return None;
        }
        let flight = self.0.lookups.run(key.clone(), false, || {
            let (tier, key) = (self.clone(), key.clone());
            async move { tier.read(&key).await }
        });
        flight.await.ok()?.response.flatten()
    }

    async fn read(&self, key: &TagKey) -> Option<Arc<TagRecord>> {
        let found = self.read_now(key).await.ok()?.map(Arc::new);
        self.note(key, |known| {
            known.read = Some(Instant::now());
            known.says = found.as_deref().map(Says::from);
        });
        found
    }

    /// # Errors
    /// The store did not answer.
    async fn read_now(&self, key: &TagKey) -> Result<Option<TagRecord>, crate::store::Error> {
        match self.0.objects.get_small(&Self::name(key), MAX_LEN, READ_TIMEOUT).await {
            Ok(object) => Ok(self.accept(key, &object)),
            Err(error) if matches!(error.kind, ErrorKind::Missing | ErrorKind::TooLong) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn accept(&self, key: &TagKey, object: &[u8]) -> Option<TagRecord> {
        let signer = self.0.signer.as_ref()?;
        match signed_record::decode(signer, key, object, SystemTime::now()) {
            Ok(record) => Some(record),
            Err(refusal) => {
                self.0.metrics.store_record_refused(refusal);
                if let Some(left_out) = self.0.lines.admit(refusal) {
                    let (object, refusal) = (Self::name(key), crate::metrics::Label::as_str(refusal));
                    tracing::warn!(%object, refusal, left_out, "a tag's record in the object store does not count");
                }
                None
            }
        }
    }

    /// Has a record written that the upstream has just confirmed, if that is due. `is_current`: no change was made through forebay
    /// since the upstream was asked.
    pub(in crate::cache::manifest) fn offer(
        &self,
        key: &TagKey,
        record: &Arc<TagRecord>,
        is_current: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let now = Instant::now();
        if self.0.signer.is_none() || !self.known(key).may_write(record, now) {
            return;
        }
        let is_first = self.note(key, |known| {
            let may_write = known.may_write(record, now);
            if may_write {
                known.tried = Some(now);
            }
            may_write
        });
        if is_first != Some(true) {
            return;
        }
        let (tier, key, record) = (self.clone(), key.clone(), record.clone());
        // One that finds no room is due again a minute later.
        self.0.background.run(MAX_LEN, async move { tier.write(&key, &record, is_current).await });
    }

    /// Writes a record. While the store refuses writes, it waits as all of them do.
    async fn write(&self, key: &TagKey, record: &TagRecord, is_current: impl Fn() -> bool) {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(pause) = self.0.objects.write_pause() {
                tokio::time::sleep(pause.clamp(MIN_PAUSE, MAX_PAUSE)).await;
            }
            let written = {
                let _lock = self.lock(key).await;
                if !is_current() {
                    return;
                }
                self.write_locked(key, record).await
            };
            match written {
                Ok(says) => {
                    self.note(key, |known| known.says = Some(says));
                    break;
                }
                Err(error) => {
                    tracing::debug!(object = %Self::name(key), %error, "a tag's record is not written");
                    tokio::time::sleep(MIN_PAUSE).await;
                }
            }
        }
        // The change may have been made while the record was on its way.
        if !is_current() {
            self.remove_tag(key).await;
        }
    }

    /// Writes a record, unless the store has one that counts more; returns what it has then.
    async fn write_locked(&self, key: &TagKey, record: &TagRecord) -> Result<Says, crate::store::Error> {
        // Another forebay may have written it.
        if let Some(stored) = self.read_now(key).await?.as_ref().map(Says::from)
            && !is_news(record, Some(&stored))
        {
            return Ok(stored);
        }
        if let Some(signer) = &self.0.signer {
            let object = signed_record::encode(signer, key, record);
            self.0.objects.put(&Self::name(key), object.into(), IfPresent::Replace).await?;
        }
        Ok(record.into())
    }
}
