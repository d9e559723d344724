//! What forebay says of itself: the version, completions for shells, manual pages.

use super::*;

#[test]
fn the_version_says_what_it_was_built_for() {
    let directory = directory("");
    let version = env!("CARGO_PKG_VERSION");
    let (code, stdout, stderr) = run(&directory, &["version"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout.lines().next(), Some(&*format!("forebay {version}")));
    let document: serde_json::Value = serde_json::from_str(&run(&directory, &["version", "--json"]).1).unwrap();
    assert_eq!(document["version"], version);
    let target = document["target"].as_str().unwrap();
    assert!(stdout.contains(target), "{stdout}");
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(rustc.stdout).unwrap();
    assert!(host.contains(&format!("host: {target}\n")), "{target}\n{host}");
    assert!(document["kernel_tls"].is_boolean(), "{document}");
}

/// What bash would offer after these words.
fn offered(script: &Path, words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    let text = format!(
        "source \"$0\" && complete -p forebay >&2 && COMP_WORDS=(\"$@\") COMP_CWORD={last} && \
         _forebay forebay \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last} - 1]}}\" && printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let bash = Command::new("bash").args(["-c", &text]).arg(script).args(words).output().unwrap();
    let stderr = String::from_utf8(bash.stderr).unwrap();
    assert!(bash.status.success() && stderr.contains("-F _forebay"), "{stderr}");
    String::from_utf8(bash.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    let directory = directory("");
    let script = directory.path().join("forebay.bash");
    fs::write(&script, run(&directory, &["completion", "bash"]).1).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
    for (words, expected) in [
        (&["forebay", "ve"][..], &["version"][..]),
        (&["forebay", "user", "r"], &["rm"]),
        (&["forebay", "config", "show", "--or"], &["--origin"]),
        (&["forebay", "completion", "fi"], &["fish"]),
        (&["forebay", "serve", "--log-format", "j"], &["json"]),
    ] {
        assert_eq!(offered(&script, words), expected, "{words:?}");
    }
}

#[test]
fn each_shell_gets_a_script_of_its_own() {
    let directory = directory("");
    for (shell, expected) in [
        ("zsh", "#compdef forebay"),
        ("fish", "complete -c forebay"),
        ("elvish", "set edit:completion:arg-completer[forebay]"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'forebay'"),
    ] {
        let (code, stdout, stderr) = run(&directory, &["completion", shell]);
        assert_eq!((code, &*stderr), (Some(0), ""));
        assert!(stdout.contains(expected) && stdout.contains("password-stdin"), "{shell}: {stdout}");
    }
    assert_eq!(run(&directory, &["completion", "cmd"]).0, Some(2));
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let directory = directory("");
    let (code, page, stderr) = run(&directory, &["man"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(page.lines().any(|line| line.starts_with(".TH forebay 1 ")), "{page}");

    let pages = directory.path().join("man1");
    for _ in 0..2 {
        assert_eq!(run(&directory, &["man", "--dir", "man1"]).0, Some(0));
    }
    assert_eq!(fs::metadata(&pages).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::read_to_string(pages.join("forebay.1")).unwrap(), page);
    for (name, words) in [("forebay-serve", "cache\\-dir"), ("forebay-user-add", "password\\-stdin")] {
        let path = pages.join(name).with_extension("1");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!(".TH {name} 1 ")) && text.contains(words), "{text}");
    }
    let (code, _, stderr) = run(&directory, &["man", "--dir", "none/man1"]);
    assert_eq!(code, Some(1), "{stderr}");
}

#[test]
fn a_reader_that_leaves_is_no_failure_and_a_full_disk_is() {
    let directory = directory("");
    let of_configuration = [
        &["config", "example"][..],
        &["config", "show"],
        &["config", "show", "--json"],
        &["check"],
        &["check", "--json"],
    ];
    for arguments in [&["man"][..], &["completion", "zsh"], &["version"]].into_iter().chain(of_configuration) {
        let mut process = forebay(&directory).args(arguments).spawn().unwrap();
        drop(process.stdout.take());
        assert_eq!(process.wait().unwrap().code(), Some(0), "{arguments:?}");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = forebay(&directory).args(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}
