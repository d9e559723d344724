//! Reads Rust source as text: without its comments, strings and tests, as tokens, and as paths of this crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

pub(crate) fn sources(directory: &Path) -> Vec<PathBuf> {
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

/// `cache/blob.rs` is `cache::blob`, `cache/mod.rs` is `cache`.
pub(crate) fn module_of(name: &str) -> Vec<String> {
    let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// Every path of this crate that the code names, from the crate's root.
pub(crate) fn paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    paths_from(&tokens(code), module)
}

pub(crate) fn paths_from(tokens: &[&str], module: &[String]) -> Vec<Vec<String>> {
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
            Some(start) if tokens.get(at + 1) == Some(&"::") => at = follow(tokens, at + 1, start, &mut paths),
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
pub(crate) fn tokens(code: &str) -> Vec<&str> {
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

pub(crate) fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

/// Whether the code says `word`, not merely a longer word that it is a part of.
pub(crate) fn contains_word(code: &str, word: &str) -> bool {
    let wanted = tokens(word);
    tokens(code).windows(wanted.len()).any(|window| window == wanted)
}

/// The code without what is in comments, strings and character literals.
pub(crate) fn without_text(source: &str) -> String {
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
pub(crate) fn without_tests(code: &str) -> String {
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
