//! Imports go down only, and each layer keeps to its own words.
//!
//! The order is that of ARCHITECTURE.md. The source is read as text, without its comments, strings
//! and tests: paths that begin with `crate`, `super`, `self` or `forebay` are followed to the module
//! they mean. A new module has to be given its place in [`ORDER`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

#[path = "layering/circles.rs"]
mod circles;
#[path = "layering/source.rs"]
mod source;

use std::{fs, path::Path};

use self::source::{contains_word, module_of, paths, sources, without_tests, without_text};

/// From the top to the bottom: a module may name those in the rows below its own, and itself.
const ORDER: &[&[&str]] = &[
    &["main", "cli"],
    &["app"],
    &["config"],
    &["admin", "registry"],
    &["push", "setup", "warm"],
    &["error"],
    &["route", "auth", "history"],
    &["cache"],
    &["transport", "upstream"],
    &["rule", "cluster", "store"],
    &["metrics", "html"],
    &["oci"],
    &["request_trace"],
    &[
        "bounded_cache",
        "byte_counter",
        "disk_wait",
        "error_chain",
        "file_slice",
        "file_watch",
        "followers",
        "keyed_hash",
        "line_limit",
        "machine",
        "offload",
        "peer",
        "rate",
        "request_id",
        "single_flight",
        "small_file",
        "state_dir",
        "tar",
        "units",
        "visible",
    ],
];

/// The same within a stage. Files that are not named here may need each other one way: see `circles`.
const ORDER_WITHIN: &[(&str, &[&[&str]])] =
    &[("cache", &[&["list"], &["manifest"], &["capture"], &["download"], &["storage"]])];

/// Words, the only files (or folders) that may say them, and what that keeps true.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("hyper::server", &["transport/"], "only transport/ is an HTTP server"),
    ("hyper_util::server", &["transport/"], "only transport/ is an HTTP server"),
    // upstream/ and store/ read the status of a response, they do not choose one.
    (
        "StatusCode",
        &["transport/", "registry/", "error", "admin", "upstream/", "store/"],
        "only transport/, registry/, admin and error choose a status",
    ),
    ("prometheus::", &["metrics.rs", "metrics/"], "only metrics/ names a metric"),
];

/// Words, where they must not be, and what that keeps true.
const NOT_IN: &[(&str, &[&str], &str)] = &[
    (
        "async",
        &[
            "oci/",
            "route.rs",
            "route/",
            "cache/storage/lru_index.rs",
            "cache/storage/lru_index/",
            "upstream/auth/challenge.rs",
        ],
        "pure code does not wait",
    ),
    (
        "tokio",
        &[
            "oci/",
            "route.rs",
            "route/",
            "cache/storage/lru_index.rs",
            "cache/storage/lru_index/",
            "upstream/auth/challenge.rs",
        ],
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
        ("cache/storage/lru_index.rs", "use super::super::download::Download;", "cache::storage names cache::download"),
        ("cache/capture.rs", "use crate::cache::{list::Lists, storage};", "cache::capture names cache::list"),
        ("app.rs", "use crate::cli::Arguments;", "app names cli"),
        ("strange.rs", "", "strange has no place"),
        ("app.rs", "use crate::strange::X;", "strange has no place"),
        ("error.rs", "use hyper::server::conn;", "hyper::server"),
        ("cache/blob.rs", "let s = http::StatusCode::OK;", "StatusCode"),
        ("admin.rs", "use prometheus::Encoder;", "prometheus::"),
        ("route.rs", "pub async fn resolve() {}", "async"),
        ("cache/storage/lru_index.rs", "use tokio::fs;", "tokio"),
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
