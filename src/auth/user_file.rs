//! The htpasswd file for those who change it: `forebay user`.
//!
//! What must hold: a kill at any instruction leaves the old file or the new one, whole. A file that forebay could not read
//! stays as it is. Two commands at once take turns, so that neither loses what the other wrote. A symbolic link stays one:
//! the file at its end is replaced.

mod replacement;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    htpasswd::{self, MAX_FILE, Users},
    new_password::NewPassword,
    user_lines,
    user_name::UserName,
};

/// How long to wait for other commands that change a file in the same directory; each takes milliseconds.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
const TURN_INTERVAL: Duration = Duration::from_millis(20);

/// Why users cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    #[error(transparent)]
    File(#[from] htpasswd::Error),
    #[error("cannot use the directory of {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{} is a symbolic link to a file that does not exist", .0.display())]
    DanglingLink(PathBuf),
    #[error("{user:?} is a user of {} already", path.display())]
    Exists { user: String, path: PathBuf },
    #[error("{user:?} is no user of {}", path.display())]
    Unknown { user: String, path: PathBuf },
    #[error("{} would be longer than {MAX_FILE} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("another program locks the directory of {}", .0.display())]
    Busy(PathBuf),
    #[error("cannot hash the password")]
    Hash(#[from] bcrypt::BcryptError),
    #[error("cannot keep owner and group of {}: be root or its owner", path.display())]
    Owner { path: PathBuf, source: io::Error },
    #[error("{} is a mount by itself and cannot be replaced: mount its directory", .0.display())]
    Mount(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// What to do with the password of a user who is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Change,
}

/// A user of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// The bcrypt cost of the hash.
    pub cost: u32,
}

/// An htpasswd file, which need not be there yet.
pub struct UserFile {
    /// As the operator names it.
    path: PathBuf,
    /// The file itself, behind all links.
    target: PathBuf,
}

impl UserFile {
    /// # Errors
    /// The directory is missing, or this user may not search it; or a link leads nowhere.
    pub fn at(path: &Path) -> Result<Self, UserFileError> {
        let failed = |source| UserFileError::Directory { path: path.to_owned(), source };
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(UserFileError::DanglingLink(path.to_owned()));
                }
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let directory = fs::canonicalize(directory.unwrap_or(Path::new("."))).map_err(failed)?;
                // A path without a file name ends in "..", which exists if its parent does.
                directory.join(path.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?)
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path: path.to_owned(), target })
    }

    /// The users in the order of the file. Blocks.
    ///
    /// # Errors
    /// The file is missing, cannot be read, or has a line that is not understood.
    pub fn users(&self) -> Result<Vec<User>, UserFileError> {
        let (users, text) = self.read()?.ok_or_else(|| UserFileError::Missing(self.path.clone()))?;
        let user = |(name, _): (&str, &str)| Some(User { name: name.to_owned(), cost: users.cost(name)? });
        Ok(user_lines::users(&text).filter_map(user).collect())
    }

    /// Whether the file is there.
    pub fn exists(&self) -> bool {
        self.target.exists()
    }

    /// Adds a user, or changes the password of one. Creates the file if it is missing: for its owner only, or, in a
    /// directory of another group, for this group to read. Blocks.
    ///
    /// # Errors
    /// The user is there and `existing` says to refuse that; the file is not htpasswd, or cannot be replaced.
    pub fn set(&self, user: &UserName, password: &NewPassword, existing: Existing) -> Result<(), UserFileError> {
        let hash = password.hash()?;
        self.change(|users, text| match existing {
            Existing::Refuse if users.contains(user.as_str()) => {
                Err(UserFileError::Exists { user: user.to_string(), path: self.path.clone() })
            }
            Existing::Refuse | Existing::Change => Ok(user_lines::with(text, user.as_str(), &hash)),
        })
    }

    /// Removes a user. Blocks.
    ///
    /// # Errors
    /// There is no such user; the file is not htpasswd, or cannot be replaced.
    pub fn remove(&self, user: &str) -> Result<(), UserFileError> {
        self.change(|users, text| match users.contains(user) {
            true => Ok(user_lines::without(text, user)),
            false => Err(UserFileError::Unknown { user: user.to_owned(), path: self.path.clone() }),
        })
    }

    fn change(&self, edit: impl FnOnce(&Users, &str) -> Result<String, UserFileError>) -> Result<(), UserFileError> {
        let failed = |source| UserFileError::Write { path: self.path.clone(), source };
        let directory = self.target.parent().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let directory = File::open(directory).map_err(failed)?;
        self.take_turn(&directory)?;
        let (users, text) = self.read()?.unwrap_or_default();
        let text = edit(&users, &text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(UserFileError::TooLong(self.path.clone()));
        }
        replacement::replace(&self.target, text.as_bytes())
            .and_then(|()| directory.sync_all().map_err(replacement::Error::Write))
            .map_err(|error| match error {
                replacement::Error::Owner(source) => UserFileError::Owner { path: self.path.clone(), source },
                replacement::Error::Write(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                    UserFileError::Mount(self.path.clone())
                }
                replacement::Error::Write(source) => failed(source),
            })
    }

    /// `None`: there is no file.
    fn read(&self) -> Result<Option<(Users, String)>, UserFileError> {
        match Users::load_with_text(&self.target) {
            Ok(read) => Ok(Some(read)),
            Err(htpasswd::Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Locks the directory, until its descriptor is closed. The lock is not on the file, which is replaced.
    fn take_turn(&self, directory: &File) -> Result<(), UserFileError> {
        let deadline = Instant::now() + TURN_TIMEOUT;
        loop {
            match flock(directory, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => thread::sleep(TURN_INTERVAL),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(UserFileError::Busy(self.path.clone())),
                // Some network file systems lock no directory; then only commands at the same instant disturb each other.
                Ok(()) | Err(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
#[path = "user_file/tests.rs"]
mod tests;
