//! Keeps the object store complete, and within its size.
//!
//! Soon after the start, and then daily, the store is listed and compared with the disk. What is here and not there is uploaded:
//! so a restart, a full queue or a store that was down loses no upload. With `max_size` one forebay, which all agree on, removes
//! what was used longest ago.
//!
//! What must hold: what is removed was neither written nor used within a day; memory does not grow with the store; a listing
//! that breaks off removes nothing; what an upstream with `store = false` gave is not uploaded.

mod ages;
mod lists;
mod others;
mod pools;
mod shelf;
mod usage;
mod walk;

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};

use self::{
    ages::{Ages, Eviction, hours},
    lists::Told,
    others::Others,
    pools::Pools,
    shelf::Shelf,
    usage::Usage,
    walk::Walk,
};
use super::{
    DiskStore, UploadQueue,
    replicate::{pool_of, visibility_of},
    storage::{
        blocking,
        lru_index::{CompactKey, IndexKey, OnDisk},
    },
};
use crate::{
    cluster::Cluster,
    metrics::Metrics,
    oci::{Algorithm, Digest},
    store::{Error, Listed, Pool, Store, UpkeepTimes},
    upstream,
};

/// Its owner removes what is old.
static EVICTION: LazyLock<Digest> = LazyLock::new(|| Digest::of(Algorithm::Sha256, b"forebay: eviction of the store"));
/// After how long a listing that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How much later the first listing of each member may begin than that of another.
const MEMBER_TIME: Duration = Duration::from_secs(2);
const MAX_JITTER: Duration = Duration::from_secs(5 * 60);
/// How many contents that the store lacks are noted in a pass: as many as the queue of uploads takes.
const MAX_MISSING: usize = 100_000;
/// After so many deletions in a row that the store refuses the others are left for the next time.
const MAX_REFUSED: u32 = 10;
const MINUTE: u64 = 60;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Upkeep(Arc<UpkeepInner>);

struct UpkeepInner {
    disk: DiskStore,
    objects: Store,
    uploads: UploadQueue,
    cluster: Option<Cluster>,
    metrics: Metrics,
    max_size: Option<u64>,
    times: UpkeepTimes,
    pools: Pools,
    /// In the names of this process's lists.
    process: String,
}

/// What the store lacks.
#[derive(Default)]
struct Missing {
    /// What this forebay owns.
    owned: Vec<(CompactKey, OnDisk)>,
    others: Vec<(CompactKey, OnDisk)>,
}

impl Upkeep {
    /// `state`: the state directory. Blocks.
    pub(crate) fn new(
        (disk, objects): (DiskStore, Store),
        uploads: UploadQueue,
        cluster: Option<Cluster>,
        metrics: Metrics,
        config: &crate::store::Config,
        state: Option<&Path>,
    ) -> Self {
        let (pools, process) = (Pools::read(state.map(Path::to_owned)), lists::process_name());
        let (max_size, times) = (config.max_size, config.times);
        Self(Arc::new(UpkeepInner { disk, objects, uploads, cluster, metrics, max_size, times, pools, process }))
    }

    /// Takes over which upstreams there are.
    pub(crate) fn set_upstreams(&self, upstreams: &[upstream::Config]) {
        let is_news = self.0.pools.set(upstreams);
        self.tell_uploads();
        if is_news {
            let pools = self.0.pools.clone();
            tokio::task::spawn_blocking(move || pools.write());
        }
    }

    fn tell_uploads(&self) {
        self.0.uploads.set_comparable(|| self.0.pools.comparable().into_iter().map(visibility_of).collect());
    }

    /// Has a pool compared again if nothing of it is on disk.
    async fn release_empty_pools(&self) {
        let disk = self.0.disk.clone();
        let is_on_disk = move |pool: &Pool| {
            disk.contents(|key, _| key.place().is_some_and(|(visibility, ..)| pool_of(visibility) == *pool)).next()
        };
        let empty = move || Pool::ALL.into_iter().filter(|pool| is_on_disk(pool).is_none()).collect::<Vec<_>>();
        let empty = blocking(empty).await;
        if empty.into_iter().filter(|pool| self.0.pools.release(*pool)).count() > 0 {
            self.tell_uploads();
            let pools = self.0.pools.clone();
            blocking(move || pools.write()).await;
        }
    }

    /// Never returns.
    pub(crate) async fn run(&self) -> Infallible {
        self.0.disk.until_scanned().await;
        sleep(self.0.times.first + jitter(self.0.cluster.as_ref().map_or(1, Cluster::len))).await;
        let passes = async {
            let mut others = Others::new(self.0.times.owner_time);
            loop {
                let pause = match self.pass(&mut others).await {
                    Ok(()) => others.pause(self.0.times.interval, Instant::now()),
                    Err(error) => {
                        tracing::warn!(%error, "the object store could not be listed");
                        RETRY_INTERVAL
                    }
                };
                sleep(pause).await;
            }
        };
        match self.0.max_size {
            Some(_) => tokio::join!(passes, self.tell_usage()).0,
            None => passes.await,
        }
    }

    /// Compares, uploads, and removes.
    async fn pass(&self, others: &mut Others) -> Result<(), Error> {
        self.release_empty_pools().await;
        let max_size = self.0.max_size;
        let evicts = max_size.is_some() && self.0.cluster.as_ref().is_none_or(|cluster| cluster.owns(&EVICTION));
        let told = if evicts { self.collect_usage().await? } else { Told::default() };
        let (ages, missing) = self.compare(&told.usage).await?;
        let uploaded = self.upload(missing, max_size.map(|max_size| ages.room(max_size)), others);
        // What is to be uploaded waits when the size is told.
        self.0.metrics.store_size(ages.total);
        let eviction = max_size.filter(|_| evicts).and_then(|max| ages.eviction(max, self.0.times.least_age));
        let evicted = match eviction {
            Some(eviction) => self.evict(eviction, &told.usage).await?,
            None => 0,
        };
        let (objects, bytes) = (ages.objects, ages.total);
        tracing::info!(objects, bytes, uploaded, evicted, "the object store was compared with the disk");
        // A store that was full has room for it now.
        self.sum_up(told).await;
        Ok(())
    }

    async fn compare(&self, usage: &Usage) -> Result<(Ages, Missing), Error> {
        let (mut ages, mut missing, now) = (Ages::default(), Missing::default(), hours(SystemTime::now()));
        for shelf in Shelf::all() {
            let (mut here, mut walk) = (self.on_disk(shelf).await, self.walk(shelf));
            while let Some(page) = walk.next(&self.0.objects).await? {
                for (object, key) in page {
                    here.remove(&key);
                    ages.add(age(&object, &key, usage, now), object.len);
                }
            }
            if !walk.is_cut() && self.0.pools.comparable().contains(&shelf.pool()) {
                self.note_missing(here, &mut missing);
            }
        }
        Ok((ages, missing))
    }

    async fn on_disk(&self, shelf: Shelf) -> HashMap<CompactKey, OnDisk> {
        let disk = self.0.disk.clone();
        blocking(move || disk.contents(|key, _| shelf.has(key)).collect()).await
    }

    fn note_missing(&self, here: HashMap<CompactKey, OnDisk>, missing: &mut Missing) {
        for (key, object) in here {
            let is_owned = match key.key() {
                IndexKey::Blob(id) | IndexKey::Manifest(id) => {
                    self.0.cluster.as_ref().is_none_or(|cluster| cluster.owns(&id.digest))
                }
                IndexKey::Tag(_) | IndexKey::Partial(_) => continue,
            };
            let list = if is_owned { &mut missing.owned } else { &mut missing.others };
            if list.len() < MAX_MISSING {
                list.push((key, object));
            }
        }
    }

    /// Has uploaded what the store lacks: first what this forebay owns, then what its owner has not uploaded in time.
    /// What was not used for long may have been removed for its age: its owner sends it again as far as there is
    /// `room`. Returns how many contents wait.
    fn upload(&self, missing: Missing, room: Option<u64>, others: &mut Others) -> usize {
        let since = minutes(SystemTime::now()).saturating_sub(self.0.times.least_age.as_secs() / MINUTE);
        let (mut room, is_limited) = (room.unwrap_or(u64::MAX), room.is_some());
        let is_recent = |object: OnDisk| u64::from(object.minute) >= since;
        let owned = missing.owned.into_iter().filter(|(_, object)| {
            let fits = object.len <= room;
            if fits && !is_recent(*object) {
                room -= object.len;
            }
            fits || is_recent(*object)
        });
        let of_others = missing.others.into_iter().filter(|(_, object)| !is_limited || is_recent(*object));
        let due = others.due(of_others.map(|(key, _)| key).collect(), Instant::now());
        let owned = owned.map(|(key, _)| key);
        owned.chain(due).take_while(|key| self.0.uploads.add_lacking(key.clone())).count()
    }

    /// Removes what was not used for so long, until so many bytes are gone; returns how many are.
    async fn evict(&self, eviction: Eviction, usage: &Usage) -> Result<u64, Error> {
        let (mut evicted, mut refused, now) = (0_u64, 0, SystemTime::now());
        for shelf in Shelf::all() {
            let mut walk = self.walk(shelf);
            while evicted < eviction.bytes
                && let Some(page) = walk.next(&self.0.objects).await?
            {
                for (object, key) in page {
                    let is_old = now.duration_since(object.modified).is_ok_and(|age| age >= self.0.times.least_age);
                    let is_unused = age(&object, &key, usage, hours(now)) >= eviction.hours;
                    if evicted >= eviction.bytes || !is_old || !is_unused {
                        continue;
                    }
                    match self.0.objects.patient().delete(&object.name).await {
                        Ok(()) => {
                            self.0.metrics.store_evicted(object.len);
                            (evicted, refused) = (evicted.saturating_add(object.len), 0);
                        }
                        Err(error) if refused >= MAX_REFUSED => return Err(error),
                        // The bucket may hold this one back.
                        Err(error) => {
                            tracing::warn!(name = %object.name, %error, "an object of the store is not deleted");
                            refused += 1;
                        }
                    }
                }
            }
        }
        Ok(evicted)
    }

    fn walk(&self, shelf: Shelf) -> Walk {
        Walk::new(shelf, self.0.times.page_pause)
    }
}

/// For how many hours an object was neither written nor used.
fn age(object: &Listed, key: &CompactKey, usage: &Usage, now: u32) -> u32 {
    let used = match key.key() {
        IndexKey::Blob(id) | IndexKey::Manifest(id) => usage.of(&id.digest),
        IndexKey::Tag(_) | IndexKey::Partial(_) => None,
    };
    now.saturating_sub(hours(object.modified).max(used.unwrap_or_default()))
}

/// Members of a cluster that start at once do not list the store at once.
fn jitter(members: usize) -> Duration {
    let members = u32::try_from(members.saturating_sub(1)).unwrap_or(u32::MAX);
    let most = MEMBER_TIME.saturating_mul(members).min(MAX_JITTER);
    let random = RandomState::new().build_hasher().finish() >> 32;
    most.mul_f64(random as f64 / f64::from(u32::MAX))
}

/// Minutes since 1970.
fn minutes(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / MINUTE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_forebay_waits_for_nobody() {
        assert_eq!(jitter(1), Duration::ZERO);
        assert!((0..100).all(|_| jitter(10) <= MEMBER_TIME * 9 && jitter(100_000) <= MAX_JITTER));
    }
}
