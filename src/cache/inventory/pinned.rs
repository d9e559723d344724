//! Pinned images of which something is missing that forebay cannot tell to come: a person has to look at them.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, SystemTime},
};

use super::{Inventory, names::Unread, page::is_shown, seconds, survey::Survey};
use crate::cache::{Visibility, storage::lru_index::CompactKey};

/// How long an image that has no complete platform yet may be on its way: clients pull it layer by layer.
const ARRIVAL: Duration = Duration::from_secs(10 * 60);

/// The pinned images as they were when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct PinnedState {
    /// By the manifest of the image: how many of its platforms have been complete.
    complete: HashMap<CompactKey, usize>,
    incomplete: IncompletePins,
}

/// How many pinned images are not complete, and the first of their names. Images of upstreams that authorize each client are
/// left out: their names are not for all to read, and forebay cannot fetch them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IncompletePins {
    pub images: usize,
    pub first: Option<String>,
}

impl Inventory {
    /// What was missing of pinned images when they were last looked at.
    pub(crate) fn incomplete_pins(&self) -> IncompletePins {
        self.0.pinned.lock().incomplete.clone()
    }

    /// Looks at the images that are pinned. Blocks. Of its callers one runs at a time.
    pub(crate) fn look_at_pinned(&self) {
        self.look_at_pinned_of(&self.on_disk());
    }

    /// `on_disk`: the bytes that an object takes, if it is there. It is asked while no lock of the pinned images is held:
    /// [`Inventory::incomplete_pins`] waits for none of this.
    pub(super) fn look_at_pinned_of(&self, on_disk: &dyn Fn(&CompactKey) -> Option<u64>) {
        let is_it = |is_pinned, visibility| is_pinned && visibility == Visibility::Shared;
        let pinned = self.0.names.list(|name, state| is_it(state.is_pinned, name.visibility) && is_shown(state));
        let recently = SystemTime::now().checked_sub(ARRIVAL).map_or(0, seconds);
        let before = mem::take(&mut self.0.pinned.lock().complete);
        let summaries = self.0.summaries.read();
        let mut survey = Survey::new(&summaries, on_disk);
        let mut now = PinnedState::default();
        for named in &pinned {
            let state = &named.state;
            let Some(manifest) = state.manifest.as_ref().filter(|_| state.unread == Unread::Nothing) else { continue };
            if !survey.is_read(state) {
                continue;
            }
            let complete = survey.complete_platforms(state);
            let most = before.get(manifest).copied().unwrap_or_default();
            if complete.max(most) > 0 {
                now.complete.insert(manifest.clone(), complete.max(most));
            }
            // A client may fetch a part of a further platform, or its manifest alone.
            let is_lost = complete < most;
            if is_lost || (complete == 0 && state.last_use.max(state.confirmed) < recently) {
                now.incomplete.images += 1;
                let name = named.name.to_string();
                if now.incomplete.first.as_ref().is_none_or(|first| name < *first) {
                    now.incomplete.first = Some(name);
                }
            }
        }
        *self.0.pinned.lock() = now;
    }
}
