//! Pins that imports make: they keep what an archive brought, and end with the freeze of its tag.
//!
//! What must hold: an image is pinned before it has its name, and all of it is here then and held until it has the name;
//! what an operator pinned stays pinned as the operator said.

use std::{collections::HashSet, time::SystemTime};

use super::{MAX_OBJECTS, PinError, PinList, Pins};
use crate::cache::{
    inventory::{ImageName, seconds},
    storage::{
        blocking,
        lru_index::{CompactKey, allocated},
    },
};

/// Images that an import has pinned and has not named yet. What they consist of is held until this is dropped, whatever
/// happens to pins meanwhile.
#[must_use]
pub(crate) struct PinnedImport {
    pins: Pins,
    /// The names that no import had pinned before.
    new: HashSet<String>,
}

impl PinnedImport {
    /// These images have their names now, and are pinned, whatever ended pins of imports meanwhile. The pins of the others
    /// end.
    ///
    /// # Errors
    /// The pins cannot be written: they are in force, and not there after a restart.
    pub(crate) async fn end(self, named: Vec<ImageName>) -> Result<(), PinError> {
        blocking(move || self.end_now(&named)).await
    }

    fn end_now(mut self, named: &[ImageName]) -> Result<(), PinError> {
        let pins = self.pins.clone();
        pins.0.inventory.read_again(named);
        let _turn = pins.0.turn.lock();
        for name in named {
            self.new.remove(&name.to_string());
        }
        let before = pins.0.list.load_full();
        let list = before.without_imports(&self.new).with_imports(named)?;
        // From now on the names keep what was held.
        drop(self);
        let written = if list == *before { Ok(()) } else { pins.write(&list) };
        let all = pins.select(&list);
        pins.put_into_force(list, &all);
        written
    }
}

impl Drop for PinnedImport {
    fn drop(&mut self) {
        self.pins.0.pending.lock().clear();
    }
}

impl Pins {
    /// Pins images that an import is about to name, and that consist of these objects. The objects are held from now on;
    /// call [`PinnedImport::end`] once the images have their names. One import at a time may do so.
    ///
    /// # Errors
    /// They take more than pins may keep, one of the objects is not here any more, or the pins cannot be written. Then
    /// nothing is pinned.
    pub(crate) async fn pin_imports(
        &self,
        names: Vec<ImageName>,
        objects: HashSet<CompactKey>,
    ) -> Result<PinnedImport, PinError> {
        let pins = self.clone();
        blocking(move || pins.pin_imports_now(&names, objects)).await
    }

    /// Nothing freezes a tag any more that an import had named: the pin of the import ends.
    pub(crate) async fn end_import(&self, name: &str) {
        if self.get(name).is_some_and(|pin| pin.is_imported) {
            let (pins, text) = (self.clone(), name.to_owned());
            blocking(move || pins.end_import_now(&text)).await;
        }
    }

    fn pin_imports_now(&self, names: &[ImageName], objects: HashSet<CompactKey>) -> Result<PinnedImport, PinError> {
        let _turn = self.0.turn.lock();
        let before = self.0.list.load_full();
        let (list, _) = before.in_force(seconds(SystemTime::now()));
        let list = list.with_imports(names)?;
        if list.are_too_many() {
            return Err(PinError::TooMany);
        }
        // What the names mean so far is let go.
        let mut new: HashSet<String> = names.iter().map(ToString::to_string).collect();
        let wanted = |name: &ImageName| list.matches(name) && !new.contains(&name.to_string());
        let mut all = self.0.inventory.select(wanted, MAX_OBJECTS);
        self.add(&mut all, &objects);
        all.bytes = all.bytes.saturating_add(allocated(1).saturating_mul(names.len() as u64));
        if all.is_cut || all.objects.len() > MAX_OBJECTS {
            return Err(PinError::TooManyObjects);
        }
        let most = self.0.store.max_operator_bytes();
        if all.bytes > most {
            return Err(PinError::TooMuch { wanted: all.bytes, most });
        }
        self.put_into_force(list.clone(), &all);
        // What is held stays, so only what left before that is missed.
        let is_gone = objects.iter().any(|object| self.0.store.bytes_on_disk(object).is_none());
        let written = if is_gone { Err(PinError::Gone) } else { self.write(&list) };
        if let Err(error) = written {
            let all = self.select(&before);
            self.put_into_force(PinList::clone(&before), &all);
            return Err(error);
        }
        *self.0.pending.lock() = objects;
        new.retain(|text| before.get(text).is_none_or(|pin| !pin.is_imported));
        Ok(PinnedImport { pins: self.clone(), new })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheContext, Visibility, storage::lru_index::IndexKey};
    use crate::oci::{Algorithm, Digest};

    fn name(text: &str) -> ImageName {
        ImageName::parse(Visibility::Shared, text).unwrap()
    }

    /// A blob of this content, which is written if `is_here`.
    async fn object(context: &CacheContext, content: &'static str, is_here: bool) -> CompactKey {
        let key = IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, content.as_bytes())));
        if is_here {
            context.store.write(key.clone(), content.into()).await.unwrap();
        }
        CompactKey::from(&key)
    }

    /// The texts of the pins that imports made.
    fn imported(pins: &Pins) -> Vec<String> {
        pins.list().into_iter().filter(|pin| pin.is_imported).map(|pin| pin.text).collect()
    }

    #[tokio::test]
    async fn what_is_not_named_yet_stays_held_whatever_pins_do() {
        let directory = tempfile::tempdir().unwrap();
        let context = CacheContext::of_test(directory.path()).await;
        let (store, pins) = (&context.store, &context.pins);
        let here = object(&context, "here", true).await;
        let import = pins.pin_imports(vec![name("hub/a:1")], HashSet::from([here.clone()])).await.unwrap();
        pins.refresh_now(SystemTime::now());
        assert!(store.is_held_for_operator(&here) && store.operator_bytes() > 0);
        let is_upstream = |name: &str| name == "hub";
        pins.pin("hub/b:1", None, is_upstream).await.unwrap();
        assert!(store.is_held_for_operator(&here));
        pins.unpin("hub/b:1", is_upstream).await.unwrap();
        pins.unpin("hub/a:1", is_upstream).await.unwrap();
        assert!(store.is_held_for_operator(&here));
        // A dropped one is let go, even if there is no pin.
        drop(import);
        pins.refresh_now(SystemTime::now());
        assert!(!store.is_held_for_operator(&here));
    }

    #[tokio::test]
    async fn an_import_that_misses_a_part_pins_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let context = CacheContext::of_test(directory.path()).await;
        let (here, gone) = (object(&context, "here", true).await, object(&context, "gone", false).await);
        let objects = HashSet::from([here.clone(), gone]);
        let error = context.pins.pin_imports(vec![name("hub/a:1")], objects).await.err().unwrap();
        assert!(matches!(error, PinError::Gone), "{error}");
        assert_eq!(imported(&context.pins), [""; 0]);
        assert!(!context.store.is_held_for_operator(&here));
        let again = Pins::load(context.pins.0.directory.as_deref(), context.store.clone(), context.inventory.clone());
        assert_eq!(imported(&again.unwrap()), [""; 0]);
    }

    #[tokio::test]
    async fn what_has_a_name_in_the_end_is_pinned_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let context = CacheContext::of_test(directory.path()).await;
        let pins = &context.pins;
        let [before, ended, failed] = ["hub/a:before", "hub/a:ended", "hub/a:failed"].map(name);
        let import = pins.pin_imports(vec![before.clone()], HashSet::new()).await.unwrap();
        import.end(vec![before.clone()]).await.unwrap();
        let names = vec![before, ended.clone(), failed];
        let import = pins.pin_imports(names, HashSet::new()).await.unwrap();
        assert_eq!(imported(pins), ["hub/a:before", "hub/a:ended", "hub/a:failed"]);
        // A refresh of an earlier import comes between.
        pins.end_import("hub/a:ended").await;
        import.end(vec![ended]).await.unwrap();
        let again = Pins::load(pins.0.directory.as_deref(), context.store.clone(), context.inventory.clone()).unwrap();
        for pins in [pins, &again] {
            assert_eq!(imported(pins), ["hub/a:before", "hub/a:ended"]);
        }
    }
}
