//! Whose directory the cache directory is: a directory that holds anything but forebay's own files is never used.
//!
//! What must hold: a directory is judged before anything is created or removed in it. A new or empty one gets
//! `CACHEDIR.TAG` and [`MARKER`], which names the version of the layout; one of a forebay that wrote no marker yet is
//! adopted once.

use std::{
    fs::{DirBuilder, File, Metadata, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};

use super::OpenError;

/// The file that says which layout a directory has.
pub const MARKER: &str = "forebay-layout";
/// The marker while it is written.
const NEW_MARKER: &str = "forebay-layout.new";
/// The version of the layout, of which [`super`] has the form.
const VERSION: u64 = 1;
const MARKER_START: &str = "forebay cache directory, layout ";
/// Source: <https://bford.info/cachedir/>.
const TAG: &str = "CACHEDIR.TAG";
const TAG_SIGNATURE: &str = "Signature: 8a477f597d28d172789f06886806bc55";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is the cache of forebay; \
                        backups can leave it out. See https://bford.info/cachedir/\n";
pub const LOCK: &str = "lock";
/// The directories of the layout that are always there.
const DIRECTORIES: [&str; 4] = ["blobs", "manifests", "tags", "tmp"];
/// Made when it is needed.
const CLIENTS: &str = "clients";
/// What an earlier forebay kept here.
const KEYS: [&str; 2] = ["push.key", "push.key.new"];
/// What a file system has in its topmost directory by itself.
const OF_FILE_SYSTEM: [&str; 2] = ["lost+found", ".snapshot"];
/// The longest marker or tag that is read, in bytes.
const MAX_MARKER: u64 = 4096;
/// How many names a message has.
const MAX_NAMES: usize = 5;

/// One name in the cache directory.
struct Entry {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    /// A symbolic link, a socket, ….
    Other,
}

/// What a directory is, by its names.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing is in it yet.
    Empty,
    /// It has a marker, whose version is checked apart.
    Marked,
    /// A forebay that wrote no marker used it.
    Unmarked,
    /// These are not forebay's.
    Foreign(Vec<String>),
}

/// Whether this name at the top is forebay's, or the file system's.
pub fn is_known(name: &str) -> bool {
    is_of_layout(name) || OF_FILE_SYSTEM.contains(&name)
}

fn is_of_layout(name: &str) -> bool {
    [LOCK, CLIENTS, TAG, MARKER, NEW_MARKER].contains(&name) || DIRECTORIES.contains(&name) || KEYS.contains(&name)
}

fn is_directory(name: &str) -> bool {
    DIRECTORIES.contains(&name) || name == CLIENTS
}

/// `ours`: whether a `CACHEDIR.TAG` or a new marker in it is one that forebay writes.
fn judge(entries: &[Entry], ours: impl Fn(&str) -> bool) -> Verdict {
    let is_wrong = |entry: &&Entry| {
        let expected = if is_directory(&entry.name) { Kind::Directory } else { Kind::File };
        !OF_FILE_SYSTEM.contains(&&*entry.name) && (!is_of_layout(&entry.name) || entry.kind != expected)
    };
    let has = |name: &str| entries.iter().any(|entry| entry.name == name && entry.kind == Kind::File);
    if has(MARKER) {
        return Verdict::Marked;
    }
    let foreign: Vec<_> = entries.iter().filter(is_wrong).map(|entry| entry.name.clone()).collect();
    if !foreign.is_empty() {
        return Verdict::Foreign(foreign);
    }
    let of_layout = |entry: &&Entry| !OF_FILE_SYSTEM.contains(&&*entry.name);
    let begun = |entry: &&Entry| [TAG, NEW_MARKER].contains(&&*entry.name) && ours(&entry.name);
    let rest: Vec<_> = entries.iter().filter(of_layout).filter(|entry| !begun(entry)).collect();
    if rest.is_empty() {
        return Verdict::Empty;
    }
    if has(LOCK) {
        return Verdict::Unmarked;
    }
    Verdict::Foreign(rest.into_iter().map(|entry| entry.name.clone()).collect())
}

/// The version that a marker names.
fn version(marker: &str) -> Option<u64> {
    marker.strip_prefix(MARKER_START)?.trim_end().parse().ok()
}

/// Looks whether `root` may be used as a cache directory, and changes nothing.
///
/// # Errors
/// It is not a directory, holds files that are not forebay's, or has a layout that this forebay does not know.
pub fn check(root: &Path) -> Result<(), OpenError> {
    look(root).map(drop)
}

fn look(root: &Path) -> Result<Verdict, OpenError> {
    let failed = |source| OpenError::Io { path: root.to_owned(), source };
    let refused = |problem: String| OpenError::Refused { path: root.to_owned(), problem };
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(refused("it is not a directory".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Empty),
        Err(error) => return Err(failed(error)),
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = match entry.file_type().map_err(failed)? {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            _ => Kind::Other,
        };
        entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), kind });
    }
    let verdict = judge(&entries, |name| {
        let text = if name == TAG { TAG_TEXT.to_owned() } else { marker() };
        read_short(&root.join(name)).is_ok_and(|found| text.starts_with(&found))
    });
    match &verdict {
        Verdict::Foreign(names) => {
            let more = if names.len() > MAX_NAMES { ", …" } else { "" };
            let names = names.iter().take(MAX_NAMES).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            return Err(refused(format!(
                "it holds what is not forebay's ({names}{more}), and forebay removes files from its cache; give it a \
                 directory of its own, such as {}",
                root.join("forebay").display()
            )));
        }
        Verdict::Marked => {
            // Also in a directory with a marker: what is behind a link is not forebay's.
            let replaced = |entry: &&Entry| is_directory(&entry.name) && entry.kind != Kind::Directory;
            if let Some(entry) = entries.iter().find(replaced) {
                return Err(refused(format!(
                    "{:?} in it is not a directory; move the whole cache, or mount a file system there",
                    entry.name
                )));
            }
            match read_short(&root.join(MARKER)).map(|text| version(&text)) {
                Ok(Some(VERSION)) => {}
                Ok(Some(newer)) if newer > VERSION => {
                    return Err(refused(format!(
                        "a newer forebay wrote it (layout {newer}, this one knows {VERSION}); run that one, or give \
                         this one another directory"
                    )));
                }
                Ok(_) => {
                    return Err(refused(format!(
                        "its {MARKER} names no layout that forebay had; give forebay another directory"
                    )));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Verdict::Empty | Verdict::Unmarked => {}
    }
    one_file_system(root, &entries)?;
    Ok(verdict)
}

/// Makes the layout where it is missing. The lock is held: nobody else does so.
///
/// # Errors
/// As [`check`], and when something cannot be made.
pub fn make(root: &Path) -> Result<(), OpenError> {
    let verdict = look(root)?;
    let failed = |source| OpenError::Io { path: root.to_owned(), source };
    let metadata = root.metadata().map_err(failed)?;
    if metadata.mode() & 0o022 != 0 {
        tracing::warn!(
            path = %root.display(), mode = format!("{:o}", metadata.mode() & 0o7777),
            "other users may write to the cache directory: whoever does decides what clients get; chmod 700 it"
        );
    }
    if verdict != Verdict::Marked {
        if let Err(error) = close(root, &metadata) {
            tracing::warn!(path = %root.display(), %error, "cannot keep other users from the cache directory");
        }
        mark(root).map_err(failed)?;
    }
    if verdict == Verdict::Unmarked {
        tracing::info!(path = %root.display(), layout = VERSION, "the directory of an earlier forebay was adopted as the cache");
    }
    for name in DIRECTORIES {
        make_directory(&root.join(name)).map_err(failed)?;
    }
    one_file_system(root, &[])
}

/// Makes a directory for this user alone; one that is there is fine.
pub fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Takes the permissions of all but the owner from a file or directory of ours. A link is not followed.
pub fn close(path: &Path, metadata: &Metadata) -> io::Result<()> {
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    file.set_permissions(Permissions::from_mode(metadata.mode() & 0o700))
}

fn marker() -> String {
    format!("{MARKER_START}{VERSION}\n")
}

fn mark(root: &Path) -> io::Result<()> {
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let options =
            File::options().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(path);
        options.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
    };
    let tagged = read_short(&root.join(TAG)).is_ok_and(|text| text.starts_with(TAG_SIGNATURE));
    if !tagged {
        write(TAG, TAG_TEXT)?;
    }
    write(NEW_MARKER, &marker())?;
    std::fs::rename(root.join(NEW_MARKER), root.join(MARKER))?;
    File::open(root)?.sync_all()
}

fn read_short(path: &Path) -> io::Result<String> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_MARKER), &mut text)?;
    // What is no text is none that forebay wrote.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Files are renamed from `tmp/` into the others: they must be on one file system, and on one mount of it.
fn one_file_system(root: &Path, found: &[Entry]) -> Result<(), OpenError> {
    let names = DIRECTORIES.into_iter().chain([CLIENTS]);
    let there = names.filter(|name| found.is_empty() || found.iter().any(|entry| entry.name == *name));
    let places: Vec<_> = there.filter_map(|name| Some((name, place(&root.join(name))?))).collect();
    let Some((_, of_tmp)) = places.iter().find(|(name, _)| *name == "tmp") else { return Ok(()) };
    match places.iter().find(|(_, place)| place != of_tmp) {
        Some((name, _)) => Err(OpenError::Refused {
            path: root.to_owned(),
            problem: format!(
                "its tmp and {name} are on different file systems, so no file can be renamed from one to the other; \
                 mount one file system at the cache directory itself"
            ),
        }),
        None => Ok(()),
    }
}

/// The file system of a directory, and its mount where the kernel tells it.
fn place(path: &Path) -> Option<(u32, u32, u64)> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
    let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Some((stat.stx_dev_major, stat.stx_dev_minor, if told { stat.stx_mnt_id } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_judged_by_its_names() {
        let foreign = |names: &[&str]| Verdict::Foreign(names.iter().map(|name| (*name).to_owned()).collect());
        for (names, expected) in [
            (&[][..], Verdict::Empty),
            (&["lost+found/", ".snapshot/"], Verdict::Empty),
            (&["lock", "blobs/", "manifests/", "tags/", "tmp/"], Verdict::Unmarked),
            (&["lock", "clients/", "push.key", "tmp/", "lost+found/"], Verdict::Unmarked),
            (&["lock"], Verdict::Unmarked),
            (&["forebay-layout", "notes.txt"], Verdict::Marked),
            // /var: no lock of ours, and others' names.
            (&["tmp/", "lib/", "lock@"], foreign(&["lib", "lock"])),
            (&["tmp/", "tags/"], foreign(&["tmp", "tags"])),
            (&["lock", "tmp/", "notes.txt"], foreign(&["notes.txt"])),
            (&["lock", "tmp/", "blobs@"], foreign(&["blobs"])),
            (&["lock/", "tmp/"], foreign(&["lock"])),
            (&["forebay-layout@"], foreign(&["forebay-layout"])),
            (&[".hidden"], foreign(&[".hidden"])),
            (&["CACHEDIR.TAG"], foreign(&["CACHEDIR.TAG"])),
        ] {
            let entry = |name: &&str| match name.strip_suffix(['/', '@']) {
                Some(short) if name.ends_with('/') => Entry { name: short.to_owned(), kind: Kind::Directory },
                Some(short) => Entry { name: short.to_owned(), kind: Kind::Other },
                None => Entry { name: (*name).to_owned(), kind: Kind::File },
            };
            let entries: Vec<_> = names.iter().map(entry).collect();
            assert_eq!(judge(&entries, |_| false), expected, "{names:?}");
        }
        let tag = [Entry { name: TAG.to_owned(), kind: Kind::File }];
        assert_eq!(judge(&tag, |_| true), Verdict::Empty, "a kill while the directory was marked");
    }

    #[test]
    fn only_a_marker_of_forebay_names_a_version() {
        assert_eq!(version(&marker()), Some(VERSION));
        assert_eq!(version("forebay cache directory, layout 7\n"), Some(7));
        for text in ["", "1", "forebay cache directory, layout ", "forebay cache directory, layout x"] {
            assert_eq!(version(text), None, "{text:?}");
        }
    }
}
