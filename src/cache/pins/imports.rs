//! Pins that imports make: they keep what an archive brought, and end with the freeze of its tag.
//!
//! What must hold: an image is pinned before it has its name, and is held meanwhile; what an operator pinned stays pinned as
//! the operator said.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use super::{MAX_OBJECTS, PinError, Pins};
use crate::cache::{
    inventory::{ImageName, seconds},
    storage::{
        blocking,
        lru_index::{CompactKey, allocated},
    },
};

impl Pins {
    /// Pins images that an import is about to name, and that consist of these objects. The objects are held from now on;
    /// call [`Pins::note_imported`] once the images have their names.
    ///
    /// # Errors
    /// They take more than pins may keep, or the pins cannot be written.
    pub(crate) async fn pin_imports(
        &self,
        names: Arc<Vec<ImageName>>,
        objects: HashSet<CompactKey>,
    ) -> Result<(), PinError> {
        let pins = self.clone();
        blocking(move || pins.pin_imports_now(&names, objects)).await
    }

    /// Images that an import has pinned have their names now.
    pub(crate) async fn note_imported(&self, names: Arc<Vec<ImageName>>) {
        let pins = self.clone();
        blocking(move || {
            pins.0.inventory.read_again(&names);
            pins.refresh_now(SystemTime::now());
        })
        .await;
    }

    /// Nothing freezes a tag any more that an import had named: the pin of the import ends.
    pub(crate) async fn end_import(&self, name: &str) {
        if self.get(name).is_some_and(|pin| pin.is_imported) {
            let (pins, text) = (self.clone(), name.to_owned());
            blocking(move || pins.end_import_now(&text)).await;
        }
    }

    fn pin_imports_now(&self, names: &[ImageName], objects: HashSet<CompactKey>) -> Result<(), PinError> {
        let _turn = self.0.turn.lock();
        let (list, _) = self.0.list.load().in_force(seconds(SystemTime::now()));
        let list = list.with_imports(names)?;
        if list.are_too_many() {
            return Err(PinError::TooMany);
        }
        // What the names mean so far is let go.
        let texts: HashSet<String> = names.iter().map(ToString::to_string).collect();
        let wanted = |name: &ImageName| list.matches(name) && !texts.contains(&name.to_string());
        let mut all = self.0.inventory.select(wanted, MAX_OBJECTS);
        let records = allocated(1).saturating_mul(names.len() as u64);
        let new = objects.iter().filter(|object| !all.objects.contains(*object));
        let added: u64 = new.filter_map(|object| self.0.store.bytes_on_disk(object)).sum();
        all.bytes = all.bytes.saturating_add(added).saturating_add(records);
        all.objects.extend(objects);
        if all.is_cut || all.objects.len() > MAX_OBJECTS {
            return Err(PinError::TooManyObjects);
        }
        let most = self.0.store.max_operator_bytes();
        if all.bytes > most {
            return Err(PinError::TooMuch { wanted: all.bytes, most });
        }
        self.write(&list)?;
        self.put_into_force(list, &all);
        Ok(())
    }

    fn end_import_now(&self, text: &str) {
        let _turn = self.0.turn.lock();
        let list = self.0.list.load();
        if list.get(text).is_none_or(|pin| !pin.is_imported) {
            return;
        }
        let list = list.without_imports(&HashSet::from([text.to_owned()]));
        if let Err(error) = self.write(&list) {
            tracing::warn!(%error, pin = text, "the pins cannot be written: this one is there again after a restart");
        }
        let all = self.select(&list);
        self.put_into_force(list, &all);
    }
}
