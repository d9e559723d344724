//! Pins: images that an operator names are not evicted.
//!
//! A pin is a name or a pattern, and may have an end. It keeps what the images that it matches consist of: the records of
//! their tags, their manifests and their blobs, also those that come later. It freezes nothing: a tag goes on to mean what
//! the upstream says.
//!
//! What must hold: a pin is on disk before it is answered, and it is in force before the first eviction of a process; what
//! pins keep is bounded ([`DiskStore::max_operator_bytes`]), and what is over that is told.

mod file;
mod imports;
mod pin;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use self::file::PinsFileError;
pub(crate) use self::pin::Pin;
use self::pin::{MAX_PATTERNS, MAX_PINS, PinEnd, PinList};
use super::{
    DiskStore,
    inventory::{ImageName, Inventory, Selection, seconds, time_of},
    storage::{blocking, lru_index::CompactKey},
};
use crate::{
    rule::{Pattern, PatternError},
    units,
};

/// How many objects pins keep.
const MAX_OBJECTS: usize = 200_000;
/// How often ends of pins are looked for.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long the images are not looked at again after they were.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Pins(Arc<PinsInner>);

struct PinsInner {
    store: DiskStore,
    inventory: Inventory,
    /// Where the pins are kept; `None`: forebay has no state directory.
    directory: Option<PathBuf>,
    list: ArcSwap<PinList>,
    /// Held while the list changes, or is put into force.
    turn: Mutex<()>,
    /// What images consist of that an import has pinned and not named yet. Those of one import at a time.
    pending: Mutex<HashSet<CompactKey>>,
    /// What on disk is pinned, whether it is kept or not.
    wanted: AtomicU64,
}

/// What a pin does.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub pin: Pin,
    /// What it matches now.
    pub selection: Selection,
    /// What all pins keep.
    pub total: u64,
    /// What they may keep.
    pub most: u64,
}

/// How much is pinned, in bytes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinnedBytes {
    pub kept: u64,
    /// What is pinned and evicted like the rest, since it is more than pins may keep.
    pub not_kept: u64,
    pub most: u64,
}

/// Why nothing is pinned, or unpinned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("forebay has no place for pins: set state_directory")]
    NoDirectory,
    #[error("there are too many pins: there may be {MAX_PINS}, and {MAX_PATTERNS} of them with a *")]
    TooMany,
    #[error("the images have too many parts: pins keep up to {MAX_OBJECTS} manifests, blobs and records of tags")]
    TooManyObjects,
    #[error(
        "the pinned images would take {}, and pins may keep {}: 80 % of cache.max_size",
        units::bytes(*wanted),
        units::bytes(*most)
    )]
    TooMuch { wanted: u64, most: u64 },
    #[error("forebay is still reading what is on disk, and cannot tell yet what the images take; try again soon")]
    Reading,
    #[error("there is no pin {0:?}; forebay cache pin lists them")]
    Unknown(String),
    #[error("a part of the images has left the cache meanwhile; try again")]
    Gone,
    #[error("the pins cannot be written")]
    Write(#[from] io::Error),
}

impl Pins {
    /// The pins that are kept in a directory. Blocks.
    ///
    /// # Errors
    /// Its file cannot be read, or is damaged.
    pub(crate) fn load(
        directory: Option<&Path>,
        store: DiskStore,
        inventory: Inventory,
    ) -> Result<Self, PinsFileError> {
        let list = directory.map(file::read).transpose()?.unwrap_or_default();
        Ok(Self(Arc::new(PinsInner {
            store,
            inventory,
            directory: directory.map(Path::to_owned),
            list: ArcSwap::from_pointee(list),
            turn: Mutex::default(),
            pending: Mutex::default(),
            wanted: AtomicU64::new(0),
        })))
    }

    /// Puts the pins of the start into force, once it is known what is on disk and before anything is evicted. Blocks.
    pub(crate) fn begin(&self) {
        let list = self.0.list.load_full();
        if !list.is_empty() {
            self.0.inventory.rebuild();
            list.digests().for_each(|name| self.0.inventory.know_digest(&name));
            self.0.inventory.read_first(|name| self.is_pinned(name));
            self.refresh_now(SystemTime::now());
        }
    }

    /// Keeps what comes for pinned images, and ends pins, until the end.
    pub(crate) async fn run(self, end: CancellationToken) {
        let mut readings = self.0.inventory.readings();
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                // The inventory has the sender.
                _ = readings.changed() => {}
                () = sleep(INTERVAL) => {}
            }
            let pins = self.clone();
            blocking(move || pins.refresh_now(SystemTime::now())).await;
            if end.run_until_cancelled(sleep(MIN_INTERVAL)).await.is_none() {
                return;
            }
        }
    }

    /// Pins the images that a name or pattern matches, now and later; `is_upstream` says whether a name is that of an
    /// upstream. A pin of the same text gets this end. The pin is in force, and on disk, when this returns.
    ///
    /// # Errors
    /// The text is no pattern, the images take more than pins may keep, or the pin cannot be written.
    pub(crate) async fn pin(
        &self,
        text: &str,
        until: Option<SystemTime>,
        is_upstream: impl Fn(&str) -> bool,
    ) -> Result<Pinned, PinError> {
        let (pattern, text) = Pattern::typed_in_full(text, is_upstream)?;
        let own = Some(until.map_or(PinEnd::Never, |until| PinEnd::At(seconds(until))));
        let (pins, pin) = (self.clone(), Pin { text, pattern, own, is_imported: false });
        if !pin.is_name() && !self.0.inventory.until_read().await {
            return Err(PinError::Reading);
        }
        blocking(move || pins.pin_now(pin)).await
    }

    /// Whether there may be pins.
    ///
    /// # Errors
    /// They have no place.
    pub(crate) fn check_place(&self) -> Result<(), PinError> {
        self.0.directory.as_ref().map(drop).ok_or(PinError::NoDirectory)
    }

    /// Why objects, each with what it takes on disk, have no room beside what is pinned; `None`: they have.
    pub(crate) async fn lack_room(&self, objects: Vec<(CompactKey, u64)>) -> Option<PinError> {
        let pins = self.clone();
        blocking(move || pins.lack_room_now(&objects)).await
    }

    /// Removes a pin by its text.
    ///
    /// # Errors
    /// There is none, or that cannot be written.
    pub(crate) async fn unpin(&self, text: &str, is_upstream: impl Fn(&str) -> bool) -> Result<Pin, PinError> {
        let (_, text) = Pattern::typed_in_full(text, is_upstream)?;
        let pins = self.clone();
        blocking(move || pins.unpin_now(&text)).await
    }

    /// Whether a pin is about an image.
    pub(crate) fn is_pinned(&self, name: &ImageName) -> bool {
        self.0.list.load().matches(name)
    }

    /// The pin of this text.
    pub(crate) fn get(&self, text: &str) -> Option<Pin> {
        self.0.list.load().get(text).cloned()
    }

    /// The texts of the pins that are about an image, some of them.
    pub(crate) fn pins_of(&self, name: &ImageName) -> Vec<String> {
        const MOST: usize = 5;
        let list = self.0.list.load();
        list.iter().filter(|pin| pin.matches(name)).take(MOST).map(|pin| pin.text.clone()).collect()
    }

    /// All pins, by their texts.
    pub(crate) fn list(&self) -> Vec<Pin> {
        let mut pins: Vec<Pin> = self.0.list.load().iter().cloned().collect();
        pins.sort_unstable_by(|one, other| one.text.cmp(&other.text));
        pins
    }

    /// How much is pinned.
    pub(crate) fn bytes(&self) -> PinnedBytes {
        let (kept, most) = (self.0.store.operator_bytes(), self.0.store.max_operator_bytes());
        PinnedBytes { kept, not_kept: self.0.wanted.load(Ordering::Relaxed).saturating_sub(kept), most }
    }

    fn pin_now(&self, pin: Pin) -> Result<Pinned, PinError> {
        let _turn = self.0.turn.lock();
        let (list, _) = self.0.list.load().in_force(seconds(SystemTime::now()));
        let is_known = list.get(&pin.text).is_some();
        let list = list.with(pin.clone());
        let pin = list.get(&pin.text).cloned().unwrap_or(pin);
        if list.are_too_many() {
            return Err(PinError::TooMany);
        }
        if pin.is_name() {
            list.digests().for_each(|name| self.0.inventory.know_digest(&name));
            self.0.inventory.read_first(|name| pin.matches(name));
        }
        let all = self.select(&list);
        let most = self.0.store.max_operator_bytes();
        // Another end of a pin takes no room.
        if !is_known && all.is_cut {
            return Err(PinError::TooManyObjects);
        }
        if !is_known && all.bytes > most {
            return Err(PinError::TooMuch { wanted: all.bytes, most });
        }
        self.write(&list)?;
        self.put_into_force(list, &all);
        let selection = self.0.inventory.select(|name| pin.matches(name), MAX_OBJECTS);
        Ok(Pinned { pin, selection, total: self.0.store.operator_bytes(), most })
    }

    fn lack_room_now(&self, objects: &[(CompactKey, u64)]) -> Option<PinError> {
        let all = self.select(&self.0.list.load());
        let is_new = |object| !all.objects.contains(object) || self.0.store.bytes_on_disk(object).is_none();
        let new = objects.iter().filter(|(object, _)| is_new(object));
        let added = new.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        let (wanted, most) = (all.bytes.saturating_add(added), self.0.store.max_operator_bytes());
        (added > 0 && wanted > most).then_some(PinError::TooMuch { wanted, most })
    }

    fn unpin_now(&self, text: &str) -> Result<Pin, PinError> {
        let _turn = self.0.turn.lock();
        let (list, _) = self.0.list.load().in_force(seconds(SystemTime::now()));
        let pin = list.get(text).cloned().ok_or_else(|| PinError::Unknown(text.to_owned()))?;
        let list = list.without(text);
        self.write(&list)?;
        let all = self.select(&list);
        self.put_into_force(list, &all);
        Ok(pin)
    }

    /// Ends pins, and keeps what the images consist of by now. Blocks.
    fn refresh_now(&self, now: SystemTime) {
        let _turn = self.0.turn.lock();
        let before = self.0.list.load_full();
        let (list, over) = before.in_force(seconds(now));
        if before.is_empty() && self.0.store.operator_bytes() == 0 {
            return;
        }
        if !over.is_empty() {
            // A pin that is over is over also if this cannot be written.
            if let Err(error) = self.write(&list) {
                tracing::warn!(%error, "the pins cannot be written");
            }
            over.iter().for_each(|pin| tracing::info!(pin = pin.text, "the time of a pin is over"));
        }
        let was_too_much = self.bytes().not_kept > 0;
        let all = self.select(&list);
        self.put_into_force(list, &all);
        let PinnedBytes { kept, not_kept, most } = self.bytes();
        if not_kept > 0 && !was_too_much {
            tracing::warn!(kept, not_kept, most, "pinned images take more than pins may keep: some may be evicted");
        }
    }

    /// What a list keeps now, and what an import is about to name.
    fn select(&self, list: &PinList) -> Selection {
        let mut all = match list.is_empty() {
            true => Selection::default(),
            false => self.0.inventory.select(|name| list.matches(name), MAX_OBJECTS),
        };
        self.add(&mut all, &self.0.pending.lock());
        all
    }

    /// Adds objects, and what they take on disk.
    fn add(&self, all: &mut Selection, objects: &HashSet<CompactKey>) {
        for object in objects {
            if all.objects.insert(object.clone()) {
                all.bytes = all.bytes.saturating_add(self.0.store.bytes_on_disk(object).unwrap_or_default());
            }
        }
    }

    fn put_into_force(&self, list: PinList, all: &Selection) {
        self.0.inventory.mark_pinned(|name| list.matches(name));
        self.0.list.store(Arc::new(list));
        self.0.wanted.store(all.bytes, Ordering::Relaxed);
        self.0.store.hold_for_operator(&all.objects);
        self.0.inventory.look_at_pinned();
    }

    fn write(&self, list: &PinList) -> Result<(), PinError> {
        let directory = self.0.directory.as_deref().ok_or(PinError::NoDirectory)?;
        Ok(file::write(directory, list)?)
    }
}

impl Pin {
    /// When that of an operator ends, if that is known.
    pub(crate) fn end(&self) -> Option<SystemTime> {
        match self.own {
            Some(PinEnd::At(end)) => time_of(end),
            Some(PinEnd::Never) | None => None,
        }
    }

    /// Whether an operator keeps images until this time at least; `None`: without an end.
    pub(crate) fn is_own_until(&self, until: Option<SystemTime>) -> bool {
        self.own.is_some() && self.end().is_none_or(|end| until.is_some_and(|until| end >= until))
    }
}
