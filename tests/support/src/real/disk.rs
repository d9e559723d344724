//! Files and disk usage below a folder that another process is changing.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every file below the folder; a folder that is not there has none.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    visit(folder, &mut |path, metadata| {
        if metadata.is_file() {
            found.push(path.to_owned());
        }
    });
    found
}

/// Bytes of the blocks that the files and folders below `folder` occupied at one moment: what `du -s` says.
///
/// A walk takes its time, and what is renamed or removed meanwhile may be counted with what took its place. So it is
/// walked twice: when all that the first walk saw is still there in the second, it was there all at once in between.
/// `None` when it was not.
pub fn usage(folder: &Path) -> Option<u64> {
    let first = occupied(folder);
    let second = occupied(folder);
    first.keys().all(|inode| second.contains_key(inode)).then(|| first.values().sum())
}

/// The bytes that each inode occupies.
fn occupied(folder: &Path) -> HashMap<u64, u64> {
    let mut inodes = HashMap::new();
    // st_blocks counts in units of 512 bytes, whatever the file system's block size (stat(2)).
    visit(folder, &mut |_, metadata| {
        inodes.insert(metadata.ino(), metadata.blocks() * 512);
    });
    inodes
}

fn visit(folder: &Path, see: &mut impl FnMut(&Path, &fs::Metadata)) {
    // What vanishes between being listed and being looked at was not there.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        see(&path, &metadata);
        if metadata.is_dir() {
            visit(&path, see);
        }
    }
}
