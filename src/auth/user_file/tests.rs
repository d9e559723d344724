use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use tempfile::TempDir;

use super::*;

fn password(text: &str) -> NewPassword {
    NewPassword::parse(text.as_bytes()).ok().unwrap()
}

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

/// A line with a cheap hash.
fn line(user: &str) -> String {
    format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap())
}

fn names(path: &Path) -> Vec<String> {
    UserFile::at(path).unwrap().users().unwrap().into_iter().map(|user| user.name).collect()
}

/// A directory whose `htpasswd` has this text.
fn with_text(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("htpasswd");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn entries(directory: &TempDir) -> usize {
    fs::read_dir(directory.path()).unwrap().count()
}

#[test]
fn users_come_and_go_and_all_else_stays() {
    let text = format!("# staff\n\n{}# guests\n", line("ann"));
    let (directory, path) = with_text(&text);
    let file = UserFile::at(&path).unwrap();
    file.set(&name("bob"), &password("secret"), Existing::Refuse).unwrap();
    assert_eq!(file.users().unwrap()[1], User { name: "bob".to_owned(), cost: 10 });
    assert!(fs::read_to_string(&path).unwrap().starts_with(&text));
    let users = Users::load(&path).unwrap();
    assert!(users.verify("bob", b"secret").is_some() && users.verify("ann", b"pw").is_some());

    let refused = file.set(&name("bob"), &password("other"), Existing::Refuse);
    assert!(matches!(refused, Err(UserFileError::Exists { .. })));
    file.set(&name("bob"), &password("other"), Existing::Change).unwrap();
    assert!(Users::load(&path).unwrap().verify("bob", b"other").is_some());

    assert!(matches!(file.remove("eve"), Err(UserFileError::Unknown { .. })));
    file.remove("bob").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(entries(&directory), 1, "nothing is left beside it");
}

#[test]
fn a_file_that_is_not_htpasswd_stays_as_it_is() {
    let long = format!("#{}\n", "x".repeat(usize::try_from(MAX_FILE).unwrap() - 2));
    for text in ["[server]\nlisten = 1\n", "ann:plain\n", "\u{feff}ann:x\n", "a.example {\n", &long] {
        let (directory, path) = with_text(text);
        let file = UserFile::at(&path).unwrap();
        assert!(file.set(&name("bob"), &password("secret"), Existing::Change).is_err());
        assert!(file.remove("ann").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(entries(&directory), 1);
    }
    // Not text, and no file.
    let (directory, path) = with_text("");
    fs::write(&path, [0xff]).unwrap();
    assert!(UserFile::at(&path).unwrap().users().is_err());
    assert!(UserFile::at(directory.path()).unwrap().set(&name("bob"), &password("x"), Existing::Change).is_err());
    assert_eq!(fs::read(&path).unwrap(), [0xff]);
}

#[test]
fn a_link_stays_and_the_file_behind_it_changes() {
    let (directory, path) = with_text(&line("ann"));
    let [link, other] = ["link", "dangling"].map(|name| directory.path().join(name));
    symlink("htpasswd", &link).unwrap();
    symlink("nowhere", &other).unwrap();
    UserFile::at(&link).unwrap().set(&name("bob"), &password("secret"), Existing::Refuse).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(names(&path), ["ann", "bob"]);
    assert!(matches!(UserFile::at(&other), Err(UserFileError::DanglingLink(_))));
    assert!(!directory.path().join("nowhere").exists());
}

#[test]
fn the_mode_and_the_access_list_stay() {
    let (_directory, path) = with_text(&line("ann"));
    let list = "system.posix_acl_access";
    // Version 2: the owner rw, user 65534 r, the group none, the mask r, others none.
    let entry =
        |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let any = u32::MAX;
    let value = [
        2u32.to_le_bytes().to_vec(),
        entry(1, 6, any),
        entry(2, 4, 65534),
        entry(4, 0, any),
        entry(0x10, 4, any),
        entry(0x20, 0, any),
    ]
    .concat();
    for mode in [0o644, 0o600, 0o440] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        UserFile::at(&path).unwrap().set(&name("bob"), &password("secret"), Existing::Change).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    // Some file systems have no such lists.
    if setxattr(&path, list, &value, XattrFlags::empty()).is_ok() {
        UserFile::at(&path).unwrap().remove("bob").unwrap();
        let mut kept = vec![0; 4096];
        let length = getxattr(&path, list, &mut *kept).unwrap();
        assert_eq!(kept[..length], value);
    }
}

#[test]
fn a_new_file_is_for_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("htpasswd");
    let file = UserFile::at(&path).unwrap();
    assert!(matches!(file.users(), Err(UserFileError::Missing(_))));
    assert!(matches!(file.remove("ann"), Err(UserFileError::Unknown { .. })));
    assert!(!path.exists());
    file.set(&name("ann"), &password("secret"), Existing::Refuse).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(&path), ["ann"]);
    assert!(UserFile::at(&directory.path().join("none/htpasswd")).is_err());
}

/// Only root can give a directory to a group that it is not in.
#[test]
fn a_new_file_is_for_the_group_of_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    if std::os::unix::fs::chown(directory.path(), None, Some(65534)).is_err() {
        return;
    }
    let path = directory.path().join("htpasswd");
    UserFile::at(&path).unwrap().set(&name("ann"), &password("secret"), Existing::Refuse).unwrap();
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.mode() & 0o777, file.gid()), (0o640, 65534));
    // Owner and group of a file that is there stay.
    std::os::unix::fs::chown(&path, Some(65534), Some(65533)).unwrap();
    UserFile::at(&path).unwrap().remove("ann").unwrap();
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.mode() & 0o777, file.uid(), file.gid()), (0o640, 65534, 65533));
}

#[test]
fn commands_at_once_lose_nothing() {
    let (directory, path) = with_text("");
    let users: Vec<_> = (0..6).map(|n| format!("user{n}")).collect();
    thread::scope(|scope| {
        for user in &users {
            let path = &path;
            scope.spawn(move || UserFile::at(path).unwrap().set(&name(user), &password("secret"), Existing::Refuse));
        }
    });
    let mut found = names(&path);
    found.sort();
    assert_eq!(found, users);
    assert_eq!(entries(&directory), 1);
}

#[test]
fn what_a_kill_left_is_no_obstacle() {
    let (directory, path) = with_text(&line("ann"));
    let left = directory.path().join(".htpasswd.forebay-new");
    let target = directory.path().join("other");
    fs::write(&target, "theirs").unwrap();
    symlink(&target, &left).unwrap();
    UserFile::at(&path).unwrap().remove("ann").unwrap();
    assert_eq!(
        (fs::read_to_string(&path).unwrap(), fs::read_to_string(&target).unwrap()),
        (String::new(), "theirs".into())
    );
    assert!(fs::symlink_metadata(&left).is_err());
}
