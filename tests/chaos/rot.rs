//! Which blobs of the cache were damaged by this program, and for how long they were there; and which parts of downloads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use crate::{dice::Dice, disk};

#[derive(Default)]
pub struct Rot {
    flipped: Mutex<HashMap<String, Flipped>>,
    /// Digests of which a part that a broken download left was damaged, and when that was last.
    parts: Mutex<HashMap<String, Instant>>,
}

struct Flipped {
    path: PathBuf,
    inode: u64,
    /// When the damaged file was seen to be gone.
    gone: Option<Instant>,
}

impl Rot {
    /// Damages one of the cache's blobs.
    pub fn flip_one(&self, dice: &mut Dice, cache: &Path) -> bool {
        let mut blobs = disk::blobs(cache);
        blobs.sort();
        if blobs.is_empty() {
            return false;
        }
        let (path, digest) = dice.one_of(&blobs).clone();
        // Noted first: it may be read at once.
        let Some(inode) = disk::inode(&path) else { return false };
        self.flipped.lock().unwrap().insert(digest, Flipped { path: path.clone(), inode, gone: None });
        disk::flip(dice, &path).is_some()
    }

    /// Damages what a broken download left: it must not come to light as the blob.
    pub fn flip_a_part(&self, dice: &mut Dice, cache: &Path) -> bool {
        let mut parts = disk::parts(cache);
        parts.sort();
        let Some((path, digest)) = parts.into_iter().next() else { return false };
        self.parts.lock().unwrap().insert(digest, Instant::now());
        disk::flip(dice, &path).is_some()
    }

    /// A part of a download in flight may be wrong by our own doing: only the whole can be verified.
    pub fn has_damaged_a_part_of(&self, digest: &str) -> bool {
        self.parts.lock().unwrap().contains_key(digest)
    }

    /// What was queued for a socket when forebay was killed are references to the file's pages: who reads it slowly gets
    /// what this test wrote into them since.
    pub fn has_damaged_a_part_since(&self, digest: &str, began: Instant) -> bool {
        self.parts.lock().unwrap().get(digest).is_some_and(|last| *last >= began)
    }

    /// Looks which of the damaged files are gone.
    pub fn look(&self) {
        for flipped in self.flipped.lock().unwrap().values_mut() {
            if flipped.gone.is_none() && disk::inode(&flipped.path) != Some(flipped.inode) {
                flipped.gone = Some(Instant::now());
            }
        }
    }

    /// A wrong answer to a request that began then may be our own doing.
    pub fn explains(&self, digest: &str, began: Instant) -> bool {
        self.flipped.lock().unwrap().get(digest).is_some_and(|flipped| flipped.gone.is_none_or(|gone| began < gone))
    }

    /// Damaged blobs, and those of them that forebay has found.
    pub fn counts(&self) -> (usize, usize) {
        let flipped = self.flipped.lock().unwrap();
        (flipped.len(), flipped.values().filter(|flipped| flipped.gone.is_some()).count())
    }
}
