//! Mistakes that people make, with the whole of what is said about each.
//!
//! `mistakes.txt` has the inputs and the messages. After a change of a message, `UPDATE_SNAPSHOTS=1 cargo test --test it
//! mistakes` writes the file anew; read the difference before it is committed.

use std::{env, fmt::Write as _, path::PathBuf};

use forebay::config::{Loaded, Variables, compose, parse_address, parse_size};

use super::*;

/// One input: variables (`$ NAME=value`), flags (`$ --flag value`), then the file.
struct Case {
    title: String,
    input: String,
    said: String,
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config/mistakes.txt")
}

/// `=== title`, the input, `---`, the messages.
fn cases(text: &str) -> Vec<Case> {
    let (_, cases) = text.split_once("=== ").expect("there are cases");
    let read = |case: &str| {
        let (title, rest) = case.split_once('\n').unwrap();
        let (input, said) = rest.split_once("---\n").unwrap_or_else(|| panic!("{title}: there is no ---"));
        Case { title: title.to_owned(), input: input.to_owned(), said: said.trim_end().to_owned() }
    };
    cases.split("\n=== ").map(read).collect()
}

/// What is said of an input: its mistakes, or its warnings.
fn said(directory: &Path, input: &str) -> String {
    let (mut variables, mut flags, mut file) = (Vec::new(), overrides(), String::new());
    for line in input.lines() {
        match line.strip_prefix("$ ").map(|line| line.split_once(['=', ' ']).unwrap()) {
            Some(("--listen", value)) => match parse_address(value) {
                Ok(address) => flags.listen.push(address),
                Err(problem) => return format!("--listen: {problem}"),
            },
            Some(("--max-size", value)) => match parse_size(value) {
                Ok(size) => flags.max_size = Some(size),
                Err(problem) => return format!("--max-size: {problem}"),
            },
            Some((name, value)) => variables.push((name.into(), value.into())),
            None => writeln!(file, "{line}").unwrap(),
        }
    }
    let path = directory.join("forebay.toml");
    let said = match compose(Some(&path), &file, &Variables::new(variables), flags) {
        Ok(Loaded { warnings, .. }) if warnings.is_empty() => "nothing".to_owned(),
        Ok(Loaded { warnings, .. }) => {
            warnings.iter().map(|warning| format!("warning: {warning}")).collect::<Vec<_>>().join("\n")
        }
        Err(error) => error.to_string(),
    };
    said.replace(&format!("{}/", directory.display()), "")
}

#[test]
fn each_mistake_is_told_in_these_words() {
    let directory = directory();
    let text = fs::read_to_string(path()).unwrap();
    let mut wrong = Vec::new();
    let mut updated = text.split("=== ").next().unwrap().to_owned();
    for case in cases(&text) {
        let said = said(directory.path(), &case.input);
        let Case { title, input, said: expected } = case;
        if said != expected {
            wrong.push(format!("{title}\n{input}is told as\n{said}\nand not as\n{expected}\n"));
        }
        writeln!(updated, "=== {title}\n{input}---\n{said}\n").unwrap();
    }
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(path(), format!("{}\n", updated.trim_end())).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The words of the parser and of serde are for programmers.
#[test]
fn no_message_has_the_words_of_a_parser() {
    let text = fs::read_to_string(path()).unwrap();
    let cases = cases(&text);
    assert!(cases.len() >= 40, "{} cases", cases.len());
    for Case { title, said, .. } in &cases {
        for word in
            ["expected", "invalid", "sequence", "unknown field", "unknown variant", "TOML parse", "missing field"]
        {
            assert!(!said.contains(word), "{title}: {word:?} is in {said}");
        }
        assert!(!said.contains("hunter2"), "{title}: a password is in {said}");
        assert_ne!(said, "nothing", "{title}");
    }
}

/// A mistake is told also if there are others, above and below it, of any kind.
#[test]
fn no_mistake_hides_another() {
    let text = "[server]\nlisten = [\"mirror.lan:1\", \"mirror.lan:2\"]\nmax_connections = 0\nlisen = 1\n\
                [cache]\ntag_ttl = 60\nmax_size = 0\nprefetch = 99\n[access]\nhtpasswd = \"none\"\n\
                anonymous = \"none\"\npush_users = \"certificate:*\"\n[admin]\nsocket = \"\"\nsocket_group = \"\"\n\
                [[upstream]]\nname = \"a b\"\nconnections = 0\nca = \"none\"\n[[upstream]]\nname = \"c.d\"\npush = 1\n\
                username = \"a:b\"\npassword_file = \"none\"\nconnect_timeout = 0\nidle_timeout = 0\n\
                [[upstream.rule]]\nmatch = \"\"\n[[rule]]\nmatch = \"a b\"\n";
    let error = parse(text).unwrap_err();
    let keys: Vec<_> = error.mistakes().iter().filter_map(|mistake| mistake.key()).collect();
    let expected = [
        "server.listen[0]",
        "server.listen[1]",
        "server.max_connections",
        "server.lisen",
        "cache.tag_ttl",
        "cache.max_size",
        "cache.prefetch",
        "access.htpasswd",
        "access.push_users",
        "admin.socket",
        "admin.socket_group",
        "upstream[0].name",
        "upstream[0].connections",
        "upstream[0].ca",
        "upstream[1].push",
        "upstream[1].username",
        "upstream[1].password_file",
        "upstream[1].connect_timeout",
        "upstream[1].idle_timeout",
        "upstream[1].rule[0].match",
        "rule[0].match",
    ];
    assert_eq!(keys, expected, "{error}");
    for (text, keys) in [
        ("anonymous = \"none\"\npush_users = \"certificate:*\"\n", ["access.anonymous", "access.push_users"]),
        ("[cache]\nmin_free = \"1 EiB\"\n[admin]\nlisten = \"5001\"\n", ["cache.min_free", "admin.listen"]),
    ] {
        let error = parse(&format!("state_directory = \"/cache/keys\"\n[access]\n{text}")).unwrap_err();
        let told: Vec<_> = error.mistakes().iter().filter_map(|mistake| mistake.key()).collect();
        assert_eq!(told, [&["state_directory"], &keys[..]].concat(), "{error}");
    }
}
