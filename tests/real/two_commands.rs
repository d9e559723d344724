//! What a newcomer types: `forebay serve` without a word of configuration, and `forebay check`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use forebay_test_support::{
    real::{
        daemon::Daemon,
        download::{client, download},
        forebay::{command, local},
        port::free_port,
        program,
    },
    until::until,
};

#[tokio::test]
async fn serve_without_configuration_prints_what_to_paste() {
    let home = TempDir::with_prefix("forebay-newcomer-").expect("a folder can be made");
    let (port, admin) = (free_port(), free_port());
    let mut command = command();
    command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")]);
    // The default cache of root is the machine's own; a service manager names another one with this variable.
    command.current_dir(home.path()).env("HOME", home.path()).env("CACHE_DIRECTORY", home.path().join("cache"));
    // Nothing listens there: no upstream can be reached, on any machine.
    command.env("HTTPS_PROXY", format!("http://127.0.0.1:{}", free_port()));
    let mut forebay = Daemon::spawn("forebay", command, &home.path().join("log"));

    forebay.until_listening(local(port)).await;
    forebay.until_listening(local(admin)).await;
    // It listens before it is ready.
    for url in [format!("http://127.0.0.1:{port}/v2/"), format!("http://127.0.0.1:{admin}/readyz")] {
        until(&url, async || client().get(&url).send().await.expect("forebay answers").status() == 200).await;
    }
    forebay.until_log("registry-mirrors").await;
    let said = forebay.log();
    assert!(said.contains(&format!("http://127.0.0.1:{port}")), "where it listens: {said}");
    assert!(said.contains(&home.path().join("cache").display().to_string()), "where the cache is: {said}");

    let end = download(&format!("http://127.0.0.1:{port}/v2/library/alpine/manifests/latest")).await;
    assert!(
        matches!(&end, forebay_test_support::real::download::Download::Refused(status) if status.is_server_error()),
        "{end:?}"
    );
    assert!(forebay.terminate().await.success(), "{}", forebay.log());
}

async fn check(folder: &Path, config: &str) -> program::Finished {
    let path = folder.join("forebay.toml");
    fs::write(&path, config).expect("the configuration can be written");
    let mut command = command();
    command.arg("check").arg("--config").arg(path).env("HOME", folder);
    program::run(command).await
}

#[tokio::test]
async fn check_says_which_line_and_key_are_wrong_and_exits_with_2() {
    let folder = TempDir::with_prefix("forebay-check-").expect("a folder can be made");

    let good = check(folder.path(), "[cache]\nmax_size = \"10 GiB\"\n").await;
    assert_eq!(good.status.code(), Some(0), "{}", good.stderr);

    for (config, line, key) in [
        ("[server]\n\nlisten_on = [\"127.0.0.1:5000\"]\n", 3, "listen_on"),
        ("[cache]\nmax_size = \"many\"\n", 2, "max_size"),
        ("[[upstream]]\nname = \"docker.io\"\nurls = [\"ftp://127.0.0.1\"]\n", 3, "urls"),
    ] {
        let bad = check(folder.path(), config).await;
        assert_eq!(bad.status.code(), Some(2), "{config}{}", bad.stderr);
        for part in ["forebay.toml".to_owned(), line.to_string(), key.to_owned()] {
            assert!(bad.stderr.contains(&part), "{part:?} is not in: {}", bad.stderr);
        }
    }

    let mut command = command();
    command.args(["check", "--config"]).arg(folder.path().join("missing.toml")).env("HOME", folder.path());
    let missing = program::run(command).await;
    assert_eq!(missing.status.code(), Some(2), "{}", missing.stderr);
    assert!(missing.stderr.contains("missing.toml"), "{}", missing.stderr);
}
