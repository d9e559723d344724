//! A cache directory whose parts are mounts: no rename goes from one to the other, or nothing can be written.

use std::fs;

use tempfile::TempDir;

use forebay_test_support::real::program;

#[tokio::test]
async fn parts_on_two_file_systems_and_one_to_read_only_are_refused() {
    for (mounts, told) in [
        ("mount -t tmpfs none cache/blobs", "blobs"),
        ("mount -t tmpfs none cache/tmp", "tmp"),
        ("mount -t tmpfs none cache/clients", "clients"),
        // Of the same file system, but no rename goes from one to the other.
        ("mount --bind cache/blobs cache/blobs", "blobs"),
        ("mount --bind cache/blobs/sha256 cache/blobs/sha256", "blobs/sha256"),
        ("mount -t tmpfs none cache/manifests/sha512", "manifests/sha512"),
        ("mount -t tmpfs none cache/tags/docker.io", "tags/docker.io"),
        ("mount -t tmpfs none cache/clients/tags", "clients/tags"),
        ("mount -t tmpfs -o ro none cache", "Read-only"),
    ] {
        let folder = TempDir::with_prefix("forebay-mounts-").expect("a folder can be made");
        let cache = folder.path().join("cache");
        for name in ["blobs/sha256", "clients/tags", "manifests/sha512", "tags/docker.io", "tmp"] {
            fs::create_dir_all(cache.join(name)).expect("a folder can be made");
        }
        fs::write(cache.join("forebay-layout"), "forebay cache directory, layout 1\n").expect("a file can be written");
        // 9 is neither an exit code of forebay's nor of `unshare`.
        let script = format!("{{ {mounts}; }} || exit 9; exec \"$0\" \"$@\"");
        let mut command = program::command("unshare", "util-linux");
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_forebay")]);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache-dir", "cache"]);
        command.current_dir(&folder).env("HOME", folder.path());

        let ended = program::run(command).await;

        assert_eq!(ended.status.code(), Some(2), "{mounts}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{mounts}: {}", ended.stderr);
        let names = fs::read_dir(&cache).expect("it is there").count();
        assert_eq!(names, 6, "{mounts}: nothing was made");
    }
}
