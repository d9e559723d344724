//! Whether a directory is forebay's: forebay never uses a directory that holds other files than its own.
//!
//! What must hold: forebay judges a directory before it creates or removes anything in it. A new or empty directory
//! gets `CACHEDIR.TAG` and [`MARKER`], which names the version of the layout; a directory of an early forebay, which
//! wrote no marker, is adopted once.

use std::{
    fs::{DirBuilder, File, Metadata, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};

use super::{OpenError, file_names};
use crate::oci::Algorithm;

/// The file that names the layout of a directory.
pub(super) const MARKER: &str = "forebay-layout";
/// The name of the marker while it is written.
const NEW_MARKER: &str = "forebay-layout.new";
/// The version of the layout that [`super`] describes.
const VERSION: u64 = 1;
const MARKER_START: &str = "forebay cache directory, layout ";
/// Source: <https://bford.info/cachedir/>.
const TAG: &str = "CACHEDIR.TAG";
const TAG_SIGNATURE: &str = "Signature: 8a477f597d28d172789f06886806bc55";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is the cache of forebay; \
                        backups can leave it out. See https://bford.info/cachedir/\n";
pub(super) const LOCK: &str = "lock";
/// The directories of the layout that always exist.
const DIRECTORIES: [&str; 4] = ["blobs", "manifests", "tags", "tmp"];
/// The directory that forebay creates when it first needs it.
const CLIENTS: &str = "clients";
/// Files that an earlier forebay kept here.
const KEYS: [&str; 2] = ["push.key", "push.key.new"];
/// Names that a file system itself creates in its root directory.
const OF_FILE_SYSTEM: [&str; 2] = ["lost+found", ".snapshot"];
/// The longest marker or tag that forebay reads, in bytes.
const MAX_MARKER: u64 = 4096;
/// Directories for the temporary files of all users; they may be empty.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// How many names a message lists.
const MAX_NAMES: usize = 5;

/// One entry of the cache directory.
struct DirectoryEntry {
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

/// Whose directory it is, judged by its entries.
#[derive(Debug, PartialEq, Eq)]
enum Ownership {
    /// It has no entries yet.
    Empty,
    /// It has a marker; the marker's version is checked separately.
    Marked,
    /// An early forebay, which wrote no marker, used it.
    Unmarked,
    /// These entries are not forebay's.
    Foreign(Vec<String>),
}

/// Whether an entry of this name in the cache directory is forebay's or the file system's.
pub(super) fn is_known(name: &str) -> bool {
    is_of_layout(name) || OF_FILE_SYSTEM.contains(&name)
}

fn is_of_layout(name: &str) -> bool {
    [LOCK, CLIENTS, TAG, MARKER, NEW_MARKER].contains(&name) || DIRECTORIES.contains(&name) || KEYS.contains(&name)
}

fn is_directory(name: &str) -> bool {
    DIRECTORIES.contains(&name) || name == CLIENTS
}

/// Who created an entry that has a name of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    /// forebay created the entry: it writes files of this content, or every name in the directory.
    Forebay,
    /// Possibly another program; the entry may lie next to forebay's own files.
    Any,
    Others,
}

fn judge(entries: &[DirectoryEntry], maker: impl Fn(&str) -> Maker) -> Ownership {
    let is_foreign = |entry: &&DirectoryEntry| {
        let name = &*entry.name;
        let expected = if is_directory(name) { Kind::Directory } else { Kind::File };
        let is_right = is_of_layout(name) && entry.kind == expected;
        !OF_FILE_SYSTEM.contains(&name) && (!is_right || (!is_directory(name) && maker(name) == Maker::Others))
    };
    let has = |name: &str| entries.iter().any(|entry| entry.name == name && entry.kind == Kind::File);
    if has(MARKER) {
        return Ownership::Marked;
    }
    let names = |entries: Vec<&DirectoryEntry>| entries.into_iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    let foreign = names(entries.iter().filter(is_foreign).collect());
    if !foreign.is_empty() {
        return Ownership::Foreign(foreign);
    }
    // The entries that forebay creates first: a kill at that time leaves no others.
    let is_first = |entry: &&DirectoryEntry| match &*entry.name {
        LOCK => true,
        TAG | NEW_MARKER => maker(&entry.name) == Maker::Forebay,
        name => OF_FILE_SYSTEM.contains(&name),
    };
    let rest: Vec<_> = entries.iter().filter(|entry| !is_first(entry)).collect();
    if rest.is_empty() {
        return Ownership::Empty;
    }
    if !has(LOCK) {
        return Ownership::Foreign(names(rest));
    }
    // Other programs also create a `lock` and a `tmp`; an early forebay always created all of its directories.
    let is_complete = DIRECTORIES.iter().all(|name| rest.iter().any(|entry| entry.name == *name));
    let is_of_others =
        |entry: &&DirectoryEntry| !is_complete && is_directory(&entry.name) && maker(&entry.name) != Maker::Forebay;
    match names(rest.into_iter().filter(is_of_others).collect()) {
        foreign if foreign.is_empty() => Ownership::Unmarked,
        foreign => Ownership::Foreign(foreign),
    }
}

/// The version that a marker names.
fn version(marker: &str) -> Option<u64> {
    let number = marker.strip_prefix(MARKER_START)?.trim_end();
    // `parse` accepts a sign.
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

fn maker(root: &Path, name: &str) -> Maker {
    let path = root.join(name);
    let is_forebays = match name {
        LOCK => path.symlink_metadata().is_ok_and(|metadata| metadata.len() == 0),
        TAG => match read_short(&path) {
            Ok(text) if text == TAG_TEXT => true,
            // Another program wrote it for backup tools; forebay leaves it as it is.
            Ok(text) if text.starts_with(TAG_SIGNATURE) => return Maker::Any,
            Ok(_) | Err(_) => false,
        },
        NEW_MARKER => read_short(&path).is_ok_and(|text| TAG_TEXT.starts_with(&text) || marker().starts_with(&text)),
        _ if is_directory(name) => std::fs::read_dir(&path).is_ok_and(|mut entries| {
            entries.all(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(|inner| is_made(name, inner)))
            })
        }),
        _ => return Maker::Any,
    };
    if is_forebays { Maker::Forebay } else { Maker::Others }
}

/// Whether forebay creates an entry of this name in that directory of its layout.
fn is_made(directory: &str, name: &str) -> bool {
    match directory {
        "tmp" => file_names::is_ours(name),
        "blobs" | "manifests" => Algorithm::ALL.into_iter().any(|known| known.as_str() == name),
        CLIENTS => name != "tmp" && DIRECTORIES.contains(&name),
        // The entries are the upstreams' names.
        _ => true,
    }
}

/// Checks whether `root` may be used as a cache directory, and changes nothing.
///
/// # Errors
/// It is not a directory, holds files that are not forebay's, or has a layout that this forebay does not know.
pub(super) fn check(root: &Path) -> Result<(), OpenError> {
    look(root).map(drop)
}

fn look(root: &Path) -> Result<Ownership, OpenError> {
    let failed = |source| OpenError::Io { path: root.to_owned(), source };
    let refused = |problem: String| OpenError::Refused { path: root.to_owned(), problem };
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(refused("it is not a directory".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ownership::Empty),
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
        entries.push(DirectoryEntry { name: entry.file_name().to_string_lossy().into_owned(), kind });
    }
    let verdict = judge(&entries, |name| maker(root, name));
    match &verdict {
        Ownership::Foreign(names) => {
            let more = if names.len() > MAX_NAMES { ", …" } else { "" };
            let names = names.iter().take(MAX_NAMES).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            return Err(refused(format!(
                "it holds what is not forebay's ({names}{more}), and forebay removes files from its cache; give it a \
                 directory of its own, such as {}",
                root.join("forebay").display()
            )));
        }
        Ownership::Marked => check_marked(root, &entries)?,
        Ownership::Empty | Ownership::Unmarked if is_shared(root) => {
            return Err(refused(format!(
                "it is for the temporary files of all users; give forebay a directory of its own, such as {}",
                root.join("forebay").display()
            )));
        }
        Ownership::Empty | Ownership::Unmarked => {}
    }
    one_file_system(root)?;
    Ok(verdict)
}

/// Checks a directory that has forebay's marker: the kinds of its entries, and the version of its layout.
fn check_marked(root: &Path, entries: &[DirectoryEntry]) -> Result<(), OpenError> {
    let refused = |problem: String| OpenError::Refused { path: root.to_owned(), problem };
    // This applies to a directory with a marker, too: the target of a link is not forebay's.
    let replaced = |entry: &&DirectoryEntry| is_directory(&entry.name) && entry.kind != Kind::Directory;
    if let Some(entry) = entries.iter().find(replaced) {
        return Err(refused(format!(
            "{:?} in it is not a directory; move the whole cache, or mount a file system there",
            entry.name
        )));
    }
    if entries.iter().any(|entry| entry.name == LOCK && entry.kind != Kind::File) {
        return Err(refused(format!("{LOCK:?} in it is not a file; forebay makes one when that is removed")));
    }
    let text = match read_short(&root.join(MARKER)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(String::new()),
        read => read,
    };
    match text.map(|text| version(&text)) {
        Ok(Some(VERSION)) => Ok(()),
        Ok(Some(newer)) if newer > VERSION => Err(refused(format!(
            "a newer forebay wrote it (layout {newer}, this one knows {VERSION}); run that one, or give \
                 this one another directory"
        ))),
        Ok(_) => Err(refused(format!("its {MARKER} names no layout that forebay had; give forebay another directory"))),
        Err(error) => Err(OpenError::Io { path: root.to_owned(), source: error }),
    }
}

fn is_shared(root: &Path) -> bool {
    root.canonicalize().is_ok_and(|root| SHARED.iter().any(|shared| root == Path::new(shared)))
}

/// Creates whatever is missing of the layout. The caller holds the lock, so no other process does so.
///
/// # Errors
/// As [`check`], and when something cannot be created.
pub(super) fn make(root: &Path) -> Result<(), OpenError> {
    let verdict = look(root)?;
    let failed = |source| OpenError::Io { path: root.to_owned(), source };
    let metadata = root.metadata().map_err(failed)?;
    if metadata.mode() & 0o022 != 0 {
        tracing::warn!(
            path = %root.display(), mode = format!("{:o}", metadata.mode() & 0o7777),
            "other users may write to the cache directory, and so choose what clients get; chmod 700 it"
        );
    }
    if verdict != Ownership::Marked {
        if let Err(error) = close(root, &metadata) {
            tracing::warn!(path = %root.display(), %error, "cannot keep other users from the cache directory");
        }
        mark(root).map_err(failed)?;
    }
    if verdict == Ownership::Unmarked {
        tracing::info!(path = %root.display(), layout = VERSION, "the directory of an earlier forebay was adopted as the cache");
    }
    for name in DIRECTORIES {
        make_directory(&root.join(name)).map_err(failed)?;
    }
    one_file_system(root)
}

/// Creates a directory that only this user can access; an existing directory is no error.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Takes the permissions of all other users from one of forebay's files or directories. A link is not followed.
pub(super) fn close(path: &Path, metadata: &Metadata) -> io::Result<()> {
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
        let new = root.join(NEW_MARKER);
        // Creates a new file, since the file that an earlier start left may have another hard link.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, root.join(name))
    };
    if !root.join(TAG).try_exists()? {
        write(TAG, TAG_TEXT)?;
    }
    write(MARKER, &marker())?;
    File::open(root)?.sync_all()
}

/// Reads a short text; a longer one is not forebay's.
fn read_short(path: &Path) -> io::Result<String> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_MARKER + 1), &mut text)?;
    if text.len() as u64 > MAX_MARKER { Err(io::ErrorKind::InvalidData.into()) } else { Ok(text) }
}

/// Checks that all directories are on one file system and one mount, since files are renamed from `tmp/` into the
/// others.
fn one_file_system(root: &Path) -> Result<(), OpenError> {
    let refused = |problem: String| OpenError::Refused { path: root.to_owned(), problem };
    // `.` resolves a link at the cache directory itself.
    let Some(of_root) = place(&root.join(".")) else { return Ok(()) };
    for name in parts(root) {
        if place(&root.join(&name)).is_some_and(|place| place != of_root) {
            return Err(refused(format!(
                "its {name} is on another file system, or mounted by itself, so no file can be renamed from one directory to \
                 the other; mount one file system at the cache directory itself"
            )));
        }
    }
    Ok(())
}

/// The directories that files are renamed into, down to those named after algorithms, and the existing ones named after
/// upstreams.
fn parts(root: &Path) -> Vec<String> {
    let mut parts = Vec::from([CLIENTS.to_owned()]);
    for visibility in ["", "clients/"] {
        for directory in DIRECTORIES.into_iter().filter(|name| visibility.is_empty() || *name != "tmp") {
            let path = format!("{visibility}{directory}");
            match directory {
                "blobs" | "manifests" => {
                    parts.extend(Algorithm::ALL.into_iter().map(|known| format!("{path}/{}", known.as_str())));
                }
                "tags" => {
                    let upstreams = std::fs::read_dir(root.join(&path)).into_iter().flatten().flatten();
                    let directories = upstreams.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                    parts.extend(directories.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())));
                }
                _ => {}
            }
            parts.push(path);
        }
    }
    // The outer directories come first, so that the error names them.
    parts.sort_unstable_by_key(|part| part.matches('/').count());
    parts
}

/// The file system of a directory, and its mount ID where the kernel supplies it.
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
        let foreign = |names: &[&str]| Ownership::Foreign(names.iter().map(|name| (*name).to_owned()).collect());
        // Another program created the entries that end with `!`, and perhaps those that end with `?`.
        for (names, expected) in [
            (&[][..], Ownership::Empty),
            (&["lost+found/", ".snapshot/"], Ownership::Empty),
            (&["lock", "blobs/", "manifests/", "tags/", "tmp/"], Ownership::Unmarked),
            (&["lock", "clients/", "push.key", "tmp/", "lost+found/"], Ownership::Unmarked),
            (&["lock", "blobs/!", "manifests/!", "tags/", "tmp/!", "clients/!"], Ownership::Unmarked),
            (&["lock", "blobs/", "manifests/", "tags/", "tmp/", "CACHEDIR.TAG?"], Ownership::Unmarked),
            (&["lock", "CACHEDIR.TAG?"], Ownership::Unmarked),
            (&["forebay-layout", "notes.txt"], Ownership::Marked),
            // forebay was killed while it marked the directory.
            (&["lock"], Ownership::Empty),
            (&["lock", "CACHEDIR.TAG", "forebay-layout.new"], Ownership::Empty),
            (&["CACHEDIR.TAG"], Ownership::Empty),
            // /var: it has no lock of forebay's, and other programs' names.
            (&["tmp/", "lib/", "lock@"], foreign(&["lib", "lock"])),
            (&["tmp/", "tags/"], foreign(&["tmp", "tags"])),
            (&["lock", "tmp/", "notes.txt"], foreign(&["notes.txt"])),
            (&["lock", "tmp/", "blobs@"], foreign(&["blobs"])),
            (&["lock", "tmp"], foreign(&["tmp"])),
            (&["lock/", "tmp/"], foreign(&["lock"])),
            (&["forebay-layout@"], foreign(&["forebay-layout"])),
            (&["forebay-layout/", "lock"], foreign(&["forebay-layout"])),
            (&[".hidden"], foreign(&[".hidden"])),
            (&["CACHEDIR.TAG?"], foreign(&["CACHEDIR.TAG"])),
            (&["CACHEDIR.TAG!", "lock", "blobs/", "manifests/", "tags/", "tmp/"], foreign(&["CACHEDIR.TAG"])),
            (&["forebay-layout.new!", "lock"], foreign(&["forebay-layout.new"])),
            // The files of another program.
            (&["lock!"], foreign(&["lock"])),
            (&["lock", "tmp/!"], foreign(&["tmp"])),
            (&["lock", "tmp/", "blobs/!", "tags/"], foreign(&["blobs"])),
        ] {
            let kind = |name: &str| match name.trim_end_matches(['!', '?']).chars().last() {
                Some('/') => Kind::Directory,
                Some('@') => Kind::Other,
                _ => Kind::File,
            };
            let short = |name: &str| name.trim_end_matches(['!', '?', '/', '@']).to_owned();
            let entries: Vec<_> =
                names.iter().map(|name| DirectoryEntry { name: short(name), kind: kind(name) }).collect();
            let maker = |wanted: &str| match names.iter().find(|name| short(name) == wanted) {
                Some(name) if name.ends_with('!') => Maker::Others,
                Some(name) if name.ends_with('?') => Maker::Any,
                _ => Maker::Forebay,
            };
            assert_eq!(judge(&entries, maker), expected, "{names:?}");
        }
    }

    #[test]
    fn the_directories_of_all_users_are_known_by_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        for (path, shared) in [
            (Path::new("/tmp"), true),
            (Path::new("/tmp/"), true),
            (Path::new("/tmp/../tmp/."), true),
            (&link, true),
            (directory.path(), false),
            (Path::new("/"), false),
            (Path::new("/nothing/of/that/name"), false),
        ] {
            assert_eq!(is_shared(path), shared, "{}", path.display());
        }
    }

    #[test]
    fn only_a_marker_of_forebay_names_a_version() {
        assert_eq!(version(&marker()), Some(VERSION));
        assert_eq!(version("forebay cache directory, layout 7\n"), Some(7));
        for number in ["", "x", "+1", "-1", "1 2", "0x1", "1.0", "99999999999999999999", "\u{661}"] {
            assert_eq!(version(&format!("{MARKER_START}{number}\n")), None, "{number:?}");
        }
        for text in ["", "1", "forebay cache directory", "Forebay cache directory, layout 1\n", "\0"] {
            assert_eq!(version(text), None, "{text:?}");
        }
    }
}
