//! The cache directory and the state directory: marked, private, and never those of other programs.

use super::*;

#[test]
fn an_earlier_key_is_moved_out_of_the_cache_with_pushes_on() {
    let upstream = "[[upstream]]\nname = \"a.example\"\nurls = [\"http://127.0.0.1:9\"]\n";
    let directory = directory(upstream);
    let (cache, state) = (directory.path().join("cache"), directory.path().join("state"));
    fs::create_dir_all(cache.join("tmp")).unwrap();
    let key = format!("{}\n", "ab".repeat(32));
    fs::write(cache.join("lock"), "").unwrap();
    fs::write(cache.join("push.key"), &key).unwrap();
    let serve = || {
        let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).args(["--config", "forebay.toml"]));
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        log
    };
    serve();
    assert!(!state.join("push.key").exists() && cache.join("push.key").exists(), "no key is needed without pushes");
    fs::write(directory.path().join("forebay.toml"), format!("{upstream}push = true\n")).unwrap();
    assert!(serve().contains("moved out of the cache"));
    assert!(!serve().contains("moved out of the cache"));
    assert!(!cache.join("push.key").exists());
    assert_eq!(fs::read_to_string(state.join("push.key")).unwrap(), key);
    for (path, mode) in [(state.clone(), 0o700), (state.join("push.key"), 0o600)] {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_is_exit_code_2() {
    let directory = directory(
        "state_directory = \"forebay.toml\"\n[[upstream]]\nname = \"a.example\"\nurls = [\"http://127.0.0.1:9\"]\npush = true\n",
    );
    for command in [&["check"][..], &ON_ANY_PORT] {
        let (code, stdout, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
        assert_eq!((code, &*stdout), (Some(2), ""), "{command:?}: {stderr}");
        assert!(stderr.lines().last().unwrap().starts_with("forebay: forebay.toml:1:1: state_directory: "), "{stderr}");
    }
}

/// Every name below a directory, with its mode and, of a file, its content.
fn everything(directory: &Path) -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        let content = metadata.is_file().then(|| fs::read(entry.path()).unwrap());
        found.push((entry.path(), metadata.mode(), content));
        if metadata.is_dir() {
            found.extend(everything(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_of_other_files_is_refused_and_left_as_it_is() {
    let hex = "00".repeat(32);
    let cases: &[(&[&str], &[&str])] = &[
        // Like /var, with a `lock` that is a link.
        (&["tmp/session", "lib/db", "tags/x"], &["lib"]),
        (&["tmp/only"], &["tmp"]),
        (&["lock", "tmp/a", "notes.txt"], &["notes.txt"]),
        (&["lock/inside"], &["lock"]),
        (&[".profile"], &[".profile"]),
        (&["manifests/sha256/00/other", "blobs/sha256/00/other"], &["blobs", "manifests"]),
        (&["lost+found/inode", "photo.jpg"], &["photo.jpg"]),
    ];
    for (files, told) in cases {
        let directory = directory("");
        let cache = directory.path().join("cache");
        for file in files.iter().map(|file| cache.join(file)) {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, &hex).unwrap();
        }
        let before = everything(&cache);
        for command in [&["check"][..], &ON_ANY_PORT] {
            let (code, stdout, stderr) = run(&directory, &[command, &["--cache-dir", "cache"]].concat());
            assert_eq!((code, &*stdout), (Some(2), ""), "{files:?}: {stderr}");
            assert!(told.iter().all(|name| stderr.contains(name)) && stderr.contains("--cache-dir"), "{stderr}");
            assert_eq!(everything(&cache), before, "{files:?}");
        }
    }
}

/// `serve` ends with 2 and tells this, and what is there stays as it is.
fn is_refused(directory: &TempDir, what: &str, told: &str) {
    let before = everything(directory.path());
    let (code, _, stderr) = run(directory, &[&ON_ANY_PORT[..], &["--cache-dir", "cache"]].concat());
    assert_eq!(code, Some(2), "{what}: {stderr}");
    assert!(stderr.contains(told), "{what}: {stderr}");
    assert_eq!(everything(directory.path()), before, "{what}");
}

/// A directory of forebay's own before it wrote markers, or with this one.
fn cache_of_forebay(directory: &TempDir, marker: Option<&[u8]>) -> PathBuf {
    let cache = directory.path().join("cache");
    for name in ["blobs/sha256/00", "manifests", "tags/docker.io", "tmp"] {
        fs::create_dir_all(cache.join(name)).unwrap();
    }
    fs::write(cache.join("lock"), "").unwrap();
    if let Some(marker) = marker {
        fs::write(cache.join("forebay-layout"), marker).unwrap();
    }
    cache
}

const MARKER: &str = "forebay cache directory, layout 1\n";

#[test]
fn a_file_and_layouts_that_are_not_known_are_refused() {
    let start = "forebay cache directory, layout ";
    for (marker, told) in [
        (format!("{start}2\n").into_bytes(), "newer"),
        (format!("{start}18446744073709551615\n").into_bytes(), "newer"),
        (format!("{start}18446744073709551616\n").into_bytes(), "no layout"),
        (format!("{start}0\n").into_bytes(), "no layout"),
        (format!("{start}-1\n").into_bytes(), "no layout"),
        (format!("{start}+1\n").into_bytes(), "no layout"),
        (vec![], "no layout"),
        (vec![0xff; 10], "no layout"),
        ([start.as_bytes(), b"1\xff\n"].concat(), "no layout"),
        (format!("{MARKER}{}", " ".repeat(5000)).into_bytes(), "no layout"),
        (vec![b'1'; 1 << 20], "no layout"),
    ] {
        let directory = directory("");
        cache_of_forebay(&directory, Some(&marker));
        is_refused(&directory, &format!("{:?}", &marker[..marker.len().min(60)]), told);
    }
    let directory = directory("");
    fs::write(directory.path().join("cache"), MARKER).unwrap();
    is_refused(&directory, "a file", "not a directory");
}

#[test]
fn a_foreign_file_with_a_name_of_the_layout_is_refused() {
    let directory_there = |path: &Path| fs::create_dir(path).unwrap();
    let link = |path: &Path| std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
    let link_of_directory = |path: &Path| {
        let other = path.ancestors().find(|above| above.ends_with("cache")).unwrap().with_file_name("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("object-1.new"), "theirs").unwrap();
        std::os::unix::fs::symlink(&other, path).unwrap();
    };
    let file = |path: &Path| fs::write(path, "theirs").unwrap();
    let empty = |path: &Path| fs::write(path, "").unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: &[(&str, Make<'_>, bool)] = &[
        ("tmp", &file, true),
        ("tmp", &link_of_directory, true),
        ("blobs", &link_of_directory, true),
        ("tags", &link_of_directory, true),
        ("clients", &file, true),
        ("clients", &link_of_directory, true),
        ("lock", &link, true),
        ("lock", &directory_there, true),
        ("lock", &file, false),
        ("CACHEDIR.TAG", &file, false),
        ("CACHEDIR.TAG", &empty, false),
        ("CACHEDIR.TAG", &link, false),
        ("CACHEDIR.TAG", &directory_there, false),
        ("forebay-layout", &link, false),
        ("forebay-layout", &directory_there, false),
        ("forebay-layout.new", &file, false),
    ];
    for (name, make, also_marked) in cases {
        for marker in [None, Some(MARKER.as_bytes())].into_iter().take(if *also_marked { 2 } else { 1 }) {
            let directory = directory("");
            let cache = cache_of_forebay(&directory, marker);
            let path = cache.join(name);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                let _ = fs::remove_file(&path);
            }
            make(&path);
            is_refused(&directory, &format!("{name}, marked: {}", marker.is_some()), name);
        }
    }
}

/// Their `lock` and `tmp`, as those of dpkg, apt and others, are not forebay's.
#[test]
fn a_directory_of_another_program_is_refused() {
    for (files, told) in [
        (&["lock", "tmp/session"][..], "tmp"),
        (&["lock", "tmp/object-1.new.bak"], "tmp"),
        (&["lock", "blobs/uploads/1"], "blobs"),
        (&["lock", "CACHEDIR.TAG", "tmp/wheel"], "tmp"),
        (&["lock", "partial/x", "archive.deb"], "partial"),
        (&["lock", "lock-frontend", "status", "tmp.ci/control"], "lock-frontend"),
    ] {
        let directory = directory("");
        for file in files.iter().map(|file| directory.path().join("cache").join(file)) {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# of another program\n";
            fs::write(&file, if file.ends_with("CACHEDIR.TAG") { tag } else { "" }).unwrap();
        }
        is_refused(&directory, &format!("{files:?}"), told);
    }
}

#[test]
fn a_tag_of_others_beside_a_cache_stays_as_it_is() {
    let directory = directory("");
    let cache = cache_of_forebay(&directory, None);
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# for my backups\n";
    fs::write(cache.join("CACHEDIR.TAG"), tag).unwrap();
    // What a kill left, by another name too.
    fs::write(cache.join("forebay-layout.new"), &MARKER[..7]).unwrap();
    fs::hard_link(cache.join("forebay-layout.new"), directory.path().join("linked")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(ON_ANY_PORT).args(["--cache-dir", "cache"]).current_dir(&directory);
    let serving = Serving::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("was adopted"), "{log}");
    assert_eq!(fs::read_to_string(cache.join("CACHEDIR.TAG")).unwrap(), tag);
    assert_eq!(fs::read_to_string(cache.join("forebay-layout")).unwrap(), MARKER);
    assert_eq!(fs::read_to_string(directory.path().join("linked")).unwrap(), &MARKER[..7]);
}

#[test]
fn a_new_directory_is_marked_and_for_its_user_alone() {
    let directory = directory("");
    let cache = directory.path().join("cache");
    fs::create_dir_all(cache.join("lost+found")).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    for warned in [true, false] {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0 && exec \"$0\" \"$@\""]).arg(env!("CARGO_BIN_EXE_forebay")).args(ON_ANY_PORT);
        command.args(["--cache-dir", "cache"]).current_dir(&directory);
        let serving = Serving::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        serving.signal(Signal::TERM);
        let (code, log) = serving.end();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.contains("other users may write"), warned, "{log}");
        assert!(!log.contains("not forebay's"), "{log}");
    }
    assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
    assert!(
        fs::read_to_string(cache.join("CACHEDIR.TAG"))
            .unwrap()
            .starts_with("Signature: 8a477f597d28d172789f06886806bc55\n")
    );
    assert_eq!(fs::read_to_string(cache.join("forebay-layout")).unwrap(), "forebay cache directory, layout 1\n");
    for (path, mode, _) in everything(&cache) {
        assert!(mode & 0o077 == 0 || path.ends_with("lost+found"), "{} {mode:o}", path.display());
    }
}
