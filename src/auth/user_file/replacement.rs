//! A file that takes the place of another one: with its owner, group, mode and access control list.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{XattrFlags, fsetxattr, lgetxattr},
    io::Errno,
    process::{getegid, geteuid},
};

/// The access control list of a file (acl(5)): it may be what lets forebay read the file.
const ACCESS_LIST: &str = "system.posix_acl_access";
/// The longest value of an attribute, in bytes (xattr(7)).
const MAX_ATTRIBUTE: usize = 64 * 1024;

/// Why a file could not be replaced.
#[derive(Debug)]
pub(super) enum Error {
    /// This user may not give the new file the owner or the group of the old one.
    Owner(io::Error),
    Write(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Writes a file beside `path` and renames it onto `path`, which is no link. The caller holds a lock on the directory, and
/// syncs the directory.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = Temporary(beside(path)?);
    // A kill may have left one.
    match fs::remove_file(&temporary.0) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary.0)?;
    file.write_all(content)?;
    match fs::symlink_metadata(path) {
        Ok(old) => take_over(&file, path, &old)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => share_with_group(&file, path)?,
        Err(error) => return Err(error.into()),
    }
    file.sync_all()?;
    fs::rename(&temporary.0, path)?;
    Ok(())
}

/// Removes the file, if it has not been renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".forebay-new");
    Ok(path.with_file_name(hidden))
}

/// Gives a new file what the old one has.
fn take_over(file: &File, path: &Path, old: &Metadata) -> Result<(), Error> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid())).map_err(Error::Owner)?;
    }
    // After the owner, since a change of that takes away some bits.
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    let mut list = vec![0; MAX_ATTRIBUTE];
    match lgetxattr(path, ACCESS_LIST, &mut *list) {
        Ok(length) => {
            let list = list.get(..length).unwrap_or_default();
            fsetxattr(file, ACCESS_LIST, list, XattrFlags::empty()).map_err(io::Error::from)?;
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    Ok(())
}

/// Lets the group of the directory read a new file, unless that is the group of this user's files anyway: such a directory
/// was made for a group, the one of forebay for example.
fn share_with_group(file: &File, path: &Path) -> io::Result<()> {
    let group = fs::metadata(path.parent().unwrap_or(Path::new("/")))?.gid();
    // A user who is not in the group keeps the file for itself.
    if group != getegid().as_raw() && fchown(file, Some(geteuid().as_raw()), Some(group)).is_ok() {
        file.set_permissions(Permissions::from_mode(0o640))?;
    }
    Ok(())
}
