//! Imports go down only, and each layer keeps to its own words.
//!
//! The order is that of ARCHITECTURE.md. The source is read as text, without its comments, strings
//! and tests: paths that begin with `crate`, `super`, `self` or `forebay` are followed to the module
//! they mean. A new module has to be given its place in [`ORDER`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the top to the bottom: a module may name those in the rows below its own, and itself.
const ORDER: &[&[&str]] = &[
    &["main", "cli"],
    &["app"],
    &["config"],
    &["admin", "registry"],
    &["push"],
    &["error"],
    &["route", "auth"],
    &["cache"],
    &["transport", "upstream"],
    &["metrics"],
    &["oci"],
    &[
        "bounded_cache",
        "disk_wait",
        "error_chain",
        "file_slice",
        "file_watch",
        "keyed_hash",
        "offload",
        "peer",
        "single_flight",
        "small_file",
        "state_dir",
    ],
];

/// The same within a stage; files that are not named here are free among themselves.
const ORDER_WITHIN: &[(&str, &[&[&str]])] =
    &[("cache", &[&["list"], &["manifest"], &["capture"], &["download"], &["storage"]])];

/// Words, the only files (or folders) that may say them, and what that keeps true.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("hyper::server", &["transport/"], "only transport/ is an HTTP server"),
    ("hyper_util::server", &["transport/"], "only transport/ is an HTTP server"),
    // upstream/ reads the status of the registry's answer, it does not choose one.
    (
        "StatusCode",
        &["transport/", "registry/", "error", "admin", "upstream/"],
        "only transport/, registry/ and error/ choose a status",
    ),
    ("prometheus::", &["metrics.rs"], "only metrics.rs names a metric"),
];

/// Words, where they must not be, and what that keeps true.
const NOT_IN: &[(&str, &[&str], &str)] = &[
    (
        "async",
        &["oci/", "route.rs", "route/", "cache/storage/index.rs", "upstream/auth/challenge.rs"],
        "pure code does not wait",
    ),
    (
        "tokio",
        &["oci/", "route.rs", "route/", "cache/storage/index.rs", "upstream/auth/challenge.rs"],
        "pure code does no I/O",
    ),
    ("unsafe", &[""], "there is no unsafe code"),
];

#[test]
fn imports_go_down_only_and_each_layer_keeps_to_its_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    assert!(files.len() > 10, "the sources were found");
    let mut faults = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        faults.extend(check(name, &fs::read_to_string(file).unwrap()));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A check that cannot fail checks nothing.
#[test]
fn the_check_finds_what_is_wrong() {
    let cases = [
        ("upstream/mod.rs", "use crate::cache::BlobCache;", "upstream names cache::BlobCache"),
        ("upstream/auth/token.rs", "fn f(x: &crate::cache::BlobCache) {}", "upstream names cache::BlobCache"),
        (
            "upstream/mod.rs",
            "use crate::{\n    metrics::Metrics,\n    registry::{self, Config},\n};",
            "upstream names registry",
        ),
        ("oci/name.rs", "use crate::metrics::Metrics;", "oci names metrics::Metrics"),
        ("route/path.rs", "use super::super::auth::Identity;", "route names auth::Identity"),
        ("cache/storage/index.rs", "use super::super::download::Download;", "cache::storage names cache::download"),
        ("cache/capture.rs", "use crate::cache::{list::Lists, storage};", "cache::capture names cache::list"),
        ("app.rs", "use crate::cli::Arguments;", "app names cli"),
        ("strange.rs", "", "strange has no place"),
        ("app.rs", "use crate::strange::X;", "strange has no place"),
        ("error.rs", "use hyper::server::conn;", "hyper::server"),
        ("cache/blob.rs", "let s = http::StatusCode::OK;", "StatusCode"),
        ("admin.rs", "use prometheus::Encoder;", "prometheus::"),
        ("route.rs", "pub async fn resolve() {}", "async"),
        ("cache/storage/index.rs", "use tokio::fs;", "tokio"),
        ("transport/zero_copy/queue.rs", "unsafe { libc::sendfile() }", "unsafe"),
        // A quote or a comment before it hides nothing.
        ("oci/mod.rs", "const Q: char = '\"'; use crate::app::App; // \"", "oci names app::App"),
        ("oci/mod.rs", "fn f<'a>(x: &'a str) {} /* /* */ */ use crate::app::App;", "oci names app::App"),
        ("oci/mod.rs", "const R: &str = r#\"\"\"#; use crate::app::App;", "oci names app::App"),
        ("oci/mod.rs", "#[cfg(test)]\nmod tests { fn f() { if true {} } }\nuse crate::app::App;", "oci names app::App"),
    ];
    for (file, source, expected) in cases {
        let faults = check(file, source);
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{file}: {source}: {faults:?}");
    }
}

#[test]
fn the_check_lets_pass_what_is_right() {
    let cases = [
        ("registry/service.rs", "use crate::{cache::BlobCache, error::Error, route::Routes, upstream};"),
        ("cache/download.rs", "use super::{storage::TempBlob};\nuse crate::upstream::Upstream;"),
        ("cache/mod.rs", "mod storage;\npub use storage::DiskStore;"),
        ("upstream/mod.rs", "if response.status() == StatusCode::OK {}"),
        ("main.rs", "mod cli;\nuse forebay::app::App;"),
        ("cli/serve.rs", "use super::ConfigArguments;\nuse forebay::app::App;"),
        ("lib.rs", "#![deny(unsafe_code)]\npub mod app;"),
        (
            "oci/mod.rs",
            "/// See [`crate::registry`], which is async. `unsafe`\nconst S: &str = \"crate::app::App \\\" unsafe\";",
        ),
        ("oci/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::app::App;\n    async fn f() { '}'; }\n}"),
    ];
    for (file, source) in cases {
        assert_eq!(check(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// What is wrong with one file; `name` is its path below `src`.
fn check(name: &str, source: &str) -> Vec<String> {
    let code = without_tests(&without_text(source));
    // The map names everything, and a file of tests may.
    let is_free = name == "lib.rs" || name.ends_with("tests.rs");
    let mut faults = Vec::new();
    if !is_free {
        let module = module_of(name);
        faults.extend(check_order(name, &module, &paths(&code, &module)));
    }
    for (word, allowed, why) in ONLY_IN {
        if !is_free && contains_word(&code, word) && !allowed.iter().any(|prefix| name.starts_with(prefix)) {
            faults.push(format!("{name} says {word}: {why}"));
        }
    }
    for (word, refused, why) in NOT_IN {
        if contains_word(&code, word) && refused.iter().any(|prefix| name.starts_with(prefix)) {
            faults.push(format!("{name} says {word}: {why}"));
        }
    }
    faults
}

fn check_order(name: &str, module: &[String], paths: &[Vec<String>]) -> Vec<String> {
    let row_of = |order: &[&[&str]], module: &str| order.iter().position(|row| row.contains(&module));
    let no_place = |module: &str| format!("{name}: {module} has no place in ORDER: give it one");
    let Some(row) = row_of(ORDER, &module[0]) else { return vec![no_place(&module[0])] };
    let mut faults = Vec::new();
    for path in paths {
        let Some(top) = path.first() else { continue };
        let written = path.join("::");
        if *top != module[0] {
            match row_of(ORDER, top) {
                Some(target) if target > row => {}
                Some(_) => faults.push(format!("{name}: {} names {written}, which is not below it", module[0])),
                None => faults.push(no_place(top)),
            }
        } else if let Some((_, order)) = ORDER_WITHIN.iter().find(|(stage, _)| stage == top)
            && let (Some(from), Some(to)) = (module.get(1), path.get(1))
            && let (Some(row), Some(target)) = (row_of(order, from), row_of(order, to))
            && target <= row
            && from != to
        {
            faults.push(format!("{name}: {top}::{from} names {top}::{to}, which is not below it"));
        }
    }
    faults
}

/// `cache/blob.rs` is `cache::blob`, `cache/mod.rs` is `cache`.
fn module_of(name: &str) -> Vec<String> {
    let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// Every path of this crate that the code names, from the crate's root.
fn paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 0 && tokens[at - 1] == "::";
        let start: Option<Vec<String>> = match tokens[at] {
            _ if continues => None,
            "crate" | "forebay" => Some(Vec::new()),
            "super" => Some(module[..module.len() - 1].to_vec()),
            "self" => Some(module.to_vec()),
            _ => None,
        };
        match start {
            Some(start) if tokens.get(at + 1) == Some(&"::") => at = follow(&tokens, at + 1, start, &mut paths),
            _ => at += 1,
        }
    }
    paths
}

/// Follows `::name`, `::super`, `::{a, b::c}` from `at`; gives where the path ends.
fn follow(tokens: &[&str], mut at: usize, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    while tokens.get(at) == Some(&"::") {
        at += 1;
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while let Some(&token) = tokens.get(at) {
                    match token {
                        "}" => return at + 1,
                        "," => at += 1,
                        "self" => {
                            paths.push(path.clone());
                            at += 1;
                        }
                        _ => {
                            let mut inner = path.clone();
                            inner.push(token.to_owned());
                            at = follow(tokens, at + 1, inner, paths);
                            // `as Name`
                            while tokens.get(at).is_some_and(|token| !matches!(*token, "," | "}")) {
                                at += 1;
                            }
                        }
                    }
                }
                return at;
            }
            Some(&"super") => {
                path.pop();
                at += 1;
            }
            Some(name) if is_word(name) => {
                path.push((*name).to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    paths.push(path);
    at
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if is_word(&rest[..first.len_utf8()]) {
            rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

/// Whether the code says `word`, not merely a longer word that it is a part of.
fn contains_word(code: &str, word: &str) -> bool {
    let wanted = tokens(word);
    tokens(code).windows(wanted.len()).any(|window| window == wanted)
}

/// The code without what is in comments, strings and character literals.
fn without_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if let Some(raw) = raw_string(rest).filter(|_| !after_word) {
            raw
        } else if first == '\'' {
            character(rest)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[len..];
    }
    code
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br#"…"#`; None if this is something else.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = if rest.starts_with("br") { 2 } else { usize::from(rest.starts_with('r')) };
    let hashes = rest[prefix..].bytes().take_while(|&byte| byte == b'#').count();
    let start = prefix + hashes;
    if prefix == 0 || !rest[start..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(rest[start + 1..].find(&end).map_or(rest.len(), |at| start + 1 + at + end.len()))
}

/// A character literal's length; of a lifetime only the quote's.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |at| 3 + at + 1),
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// The code without its `#[cfg(test)]` items that have a body.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        rest = &rest[start + MARK.len()..];
        let mut depth = 0;
        let end = rest.char_indices().find(|&(_, character)| {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(character, '}' | ';')
        });
        rest = end.map_or("", |(at, _)| &rest[at + 1..]);
    }
    kept.push_str(rest);
    kept
}
