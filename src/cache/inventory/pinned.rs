//! Pinned images of which something is missing that forebay cannot tell to come: a person has to look at them.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{Inventory, names::Unread, page::is_shown, seconds, survey::Survey};
use crate::cache::{Visibility, storage::lru_index::CompactKey};

/// How long an image that was never whole may be on its way: clients pull it layer by layer.
const ARRIVAL: Duration = Duration::from_secs(10 * 60);

/// The pinned images as they were when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct PinnedState {
    /// The manifests of images that have been whole.
    whole: HashSet<CompactKey>,
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

    /// Looks at the images that are pinned. Blocks.
    pub(crate) fn look_at_pinned(&self) {
        let is_it = |is_pinned, visibility| is_pinned && visibility == Visibility::Shared;
        let pinned = self.0.names.list(|name, state| is_it(state.is_pinned, name.visibility) && is_shown(state));
        let recently = SystemTime::now().checked_sub(ARRIVAL).map_or(0, seconds);
        let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
        let mut survey = Survey::new(&summaries, &on_disk);
        let mut state_of_pins = self.0.pinned.lock();
        let mut now = PinnedState::default();
        for named in &pinned {
            let state = &named.state;
            let Some(manifest) = state.manifest.as_ref().filter(|_| state.unread == Unread::Nothing) else { continue };
            if !survey.is_read(state) {
                continue;
            }
            let platforms = survey.platforms(state);
            let is_whole = survey.is_image_complete(state, &platforms);
            let was_whole = state_of_pins.whole.contains(manifest);
            if is_whole || was_whole {
                now.whole.insert(manifest.clone());
            }
            if !is_whole && (was_whole || state.last_use.max(state.confirmed) < recently) {
                now.incomplete.images += 1;
                let name = named.name.to_string();
                if now.incomplete.first.as_ref().is_none_or(|first| name < *first) {
                    now.incomplete.first = Some(name);
                }
            }
        }
        *state_of_pins = now;
    }
}
