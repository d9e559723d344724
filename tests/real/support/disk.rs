//! What is on disk below a folder that somebody else is changing.

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

/// Bytes of the blocks that the files and folders below `folder` occupy: what `du -s` says.
pub fn usage(folder: &Path) -> u64 {
    let mut bytes = 0;
    // st_blocks counts in units of 512 bytes, whatever the file system's block size (stat(2)).
    visit(folder, &mut |_, metadata| bytes += metadata.blocks() * 512);
    bytes
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
