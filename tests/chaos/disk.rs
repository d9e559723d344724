//! The file system of the cache: small, filled up now and then, refusing to write now and then, and shared with files
//! of others.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dice::Dice;
use forebay_test_support::real::disk::files;

pub struct Disk {
    pub root: PathBuf,
    mounted: bool,
}

/// A file of another program, and its content, which must stay.
pub struct Foreign {
    path: PathBuf,
    content: Vec<u8>,
}

impl Disk {
    /// An ext4 of its own where this process may mount one, else the plain folder.
    pub fn new(folder: &Path, bytes: u64) -> Disk {
        let (image, root) = (folder.join("disk.img"), folder.join("disk"));
        fs::create_dir_all(&root).expect("a folder can be made");
        let made = fs::File::create(&image).and_then(|file| file.set_len(bytes)).is_ok();
        let mounted = made
            && succeeds(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root));
        if !mounted {
            eprintln!("chaos: no file system of its own: the disk neither fills nor fails");
        }
        Disk { root, mounted }
    }

    /// Takes all that is left on it.
    pub fn fill(&self) {
        if !self.mounted {
            return;
        }
        let Ok(mut ballast) = fs::File::create(self.root.join("ballast")) else { return };
        let piece = vec![0; 1 << 20];
        for size in [1 << 20, 4096] {
            while ballast.write_all(piece.get(..size).unwrap_or_default()).is_ok() {}
        }
    }

    pub fn empty(&self) {
        fs::remove_file(self.root.join("ballast")).ok();
    }

    /// Nothing new can be made in tmp/ of the cache.
    pub fn fail(&self, cache: &Path) {
        if self.mounted {
            succeeds(Command::new("chattr").arg("+i").arg(cache.join("tmp")));
        }
    }

    pub fn mend(&self, cache: &Path) {
        if self.mounted {
            succeeds(Command::new("chattr").arg("-i").arg(cache.join("tmp")));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            succeeds(Command::new("umount").arg("-l").arg(&self.root));
        }
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Puts files of others beside the cache and into it.
pub fn plant(cache: &Path) -> Vec<Foreign> {
    let beside = cache.parent().expect("the cache is in a folder");
    let places = [
        beside.join("letters.txt"),
        beside.join("tmp/notes.txt"),
        cache.join("README"),
        cache.join("tmp/notes.txt"),
        cache.join("blobs/sha256/notes.txt"),
        cache.join("mine/blobs/x"),
    ];
    let plant = |path: PathBuf| {
        let content = path.display().to_string().into_bytes();
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
        fs::write(&path, &content).expect("a file can be written");
        Foreign { path, content }
    };
    places.into_iter().map(plant).collect()
}

/// Those that are not as they were.
pub fn lost(foreign: &[Foreign]) -> Vec<String> {
    let is_lost = |file: &&Foreign| fs::read(&file.path).ok().as_ref() != Some(&file.content);
    foreign.iter().filter(is_lost).map(|file| file.path.display().to_string()).collect()
}

/// The cache's blobs: the file and the digest its name claims.
pub fn blobs(cache: &Path) -> Vec<(PathBuf, String)> {
    let is_hex = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    files(&cache.join("blobs"))
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            is_hex(&name).then(|| (path, format!("sha256:{name}")))
        })
        .collect()
}

/// What broken downloads left to be gone on with: the file and the digest its name claims.
pub fn parts(cache: &Path) -> Vec<(PathBuf, String)> {
    let digest = |path: &Path| {
        let stem = path.file_name()?.to_str()?.strip_suffix(".part")?.to_owned();
        let (_, hex) = stem.rsplit_once("sha256-")?;
        Some(format!("sha256:{hex}"))
    };
    files(&cache.join("tmp")).into_iter().filter_map(|path| digest(&path).map(|digest| (path, digest))).collect()
}

/// Flips a bit of a file; its inode.
pub fn flip(dice: &mut Dice, path: &Path) -> Option<u64> {
    let file = fs::File::options().read(true).write(true).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let at = dice.below(metadata.len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).ok()?;
    file.write_all_at(&[byte[0] ^ 1], at).ok()?;
    Some(metadata.ino())
}

pub fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}
