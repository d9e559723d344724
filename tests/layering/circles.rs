//! No circle between files: of two files, at most one needs the other, directly or through others.
//!
//! A name that a module re-exports counts as a name of the file that defines it, and a re-export alone is no need. A part may
//! need the module that it is a part of: `download/table.rs` what `download.rs` defines.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
};

use super::source::{is_word, module_of, paths_from, sources, tokens, without_tests, without_text};

/// Files that are still in a circle. A file that is in none any more has to leave this list.
const IN_CIRCLES: &[&str] = &["cache/download/abandoned.rs", "cache/download/reader.rs", "cache/download/table.rs"];

#[test]
fn files_need_each_other_one_way_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<(String, String)> = sources(&root)
        .iter()
        .map(|file| (file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(file).unwrap()))
        .collect();
    let circles = circles(&files);
    let found: BTreeSet<&str> = circles.iter().flatten().map(String::as_str).collect();
    let new: Vec<_> =
        circles.iter().filter(|circle| circle.iter().any(|file| !IN_CIRCLES.contains(&&**file))).collect();
    assert!(new.is_empty(), "these files need each other: {new:#?}");
    let gone: Vec<_> = IN_CIRCLES.iter().filter(|file| !found.contains(*file)).collect();
    assert!(gone.is_empty(), "in no circle any more, remove them from IN_CIRCLES: {gone:?}");
}

#[test]
fn circles_are_found_through_re_exports_and_parts() {
    /// Files by name and source, and those that are in a circle.
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);
    let cases: [Case; 7] = [
        (&[("a.rs", "use crate::b::B;"), ("b.rs", "pub struct B;")], &[]),
        (&[("a.rs", "use crate::b::B; pub struct A;"), ("b.rs", "use crate::a::A; pub struct B;")], &["a.rs", "b.rs"]),
        // Through the re-export of a parent that defines neither.
        (
            &[
                ("p/mod.rs", "mod a; mod b; pub use self::{a::A, b::{B, B as Other}};"),
                ("p/a.rs", "use super::Other; pub struct A;"),
                ("p/b.rs", "fn f() { crate::p::A::new(); } pub struct B;"),
            ],
            &["p/a.rs", "p/b.rs"],
        ),
        // A re-export alone is no need.
        (&[("p.rs", "mod a; pub use a::A; pub struct P;"), ("p/a.rs", "use super::P; pub struct A;")], &[]),
        (&[("p.rs", "mod a; pub use a::A; pub struct P(A);"), ("p/a.rs", "use super::P; pub struct A;")], &[]),
        (
            &[
                ("p.rs", "mod a; fn f() { a::g(); } pub struct P;"),
                ("p/a.rs", "use crate::q::Q;"),
                ("q.rs", "use crate::p::P; pub struct Q;"),
            ],
            &["p.rs", "p/a.rs", "q.rs"],
        ),
        (&[("a.rs", "#[cfg(test)]\nmod tests { use crate::b::B; }"), ("b.rs", "use crate::a::A; pub struct B;")], &[]),
    ];
    for (files, expected) in cases {
        let files: Vec<_> = files.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect();
        let found: Vec<String> = circles(&files).into_iter().flatten().collect();
        assert_eq!(found, expected, "{files:?}");
    }
}

/// A file, and what it names of this crate.
struct Module {
    file: String,
    /// By the name under which each is known here.
    imports: HashMap<String, Vec<String>>,
    needs: Vec<Vec<String>>,
}

/// Sets of files that need each other.
fn circles(files: &[(String, String)]) -> Vec<Vec<String>> {
    let is_free = |name: &str| name == "lib.rs" || name.ends_with("tests.rs");
    let modules: HashMap<Vec<String>, Module> = files
        .iter()
        .filter(|(name, _)| !is_free(name))
        .map(|(name, source)| (module_of(name), read(name, source)))
        .collect();
    let needs: HashMap<&str, HashSet<&str>> = modules
        .values()
        .map(|module| {
            let needed = module.needs.iter().filter_map(|path| defining_file(&modules, path, 0));
            let is_outside = |file: &&str| !module_of(&module.file).starts_with(&module_of(file));
            (&*module.file, needed.filter(is_outside).collect())
        })
        .collect();
    let reached: HashMap<&str, HashSet<&str>> = needs.keys().map(|file| (*file, reach(&needs, file))).collect();
    let mut circles = BTreeSet::new();
    for file in needs.keys().filter(|file| reached[*file].contains(*file)) {
        let mut circle: Vec<String> = reached[file]
            .iter()
            .filter(|other| reached[*other].contains(file))
            .map(|other| (*other).to_owned())
            .collect();
        circle.sort();
        circles.insert(circle);
    }
    circles.into_iter().collect()
}

fn reach<'a>(needs: &HashMap<&'a str, HashSet<&'a str>>, file: &str) -> HashSet<&'a str> {
    let (mut reached, mut left) = (HashSet::new(), vec![file]);
    while let Some(file) = left.pop() {
        for next in needs.get(file).into_iter().flatten() {
            if reached.insert(*next) {
                left.push(next);
            }
        }
    }
    reached
}

/// The file that defines what a path means.
fn defining_file<'a>(modules: &'a HashMap<Vec<String>, Module>, path: &[String], depth: usize) -> Option<&'a str> {
    let len = (1..=path.len()).rev().find(|len| modules.contains_key(&path[..*len]))?;
    let module = &modules[&path[..len]];
    let import = path.get(len).and_then(|name| module.imports.get(name)).filter(|_| depth < 8);
    let imported = import.and_then(|import| {
        let full = [import, &path[len + 1..]].concat();
        defining_file(modules, &full, depth + 1)
    });
    Some(imported.unwrap_or(&module.file))
}

fn read(name: &str, source: &str) -> Module {
    let code = without_tests(&without_text(source));
    let module = module_of(name);
    let tokens = tokens(&code);
    let children: HashSet<&str> =
        tokens.windows(3).filter(|window| window[0] == "mod" && window[2] == ";").map(|window| window[1]).collect();
    let (mut imports, mut needs, mut re_exports) = (HashMap::new(), Vec::new(), Vec::new());
    // What stands outside of `use`.
    let mut rest = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" && (at == 0 || matches!(tokens[at - 1], ";" | "}" | ")" | "]" | "pub" | "{")) {
            let end = at + tokens[at..].iter().position(|token| *token == ";").unwrap_or(tokens.len() - at);
            let is_public = at > 0 && matches!(tokens[at - 1], "pub" | ")");
            for (path, known_as) in use_tree(&tokens[at + 1..end], &module, &children) {
                if is_public {
                    re_exports.push((known_as.clone(), path.clone()));
                } else {
                    needs.push(path.clone());
                }
                imports.insert(known_as, path);
            }
            at = end;
        } else {
            rest.push(tokens[at]);
            at += 1;
        }
    }
    needs.extend(re_exports.into_iter().filter(|(name, _)| rest.contains(&&**name)).map(|(_, path)| path));
    needs.extend(paths_from(&rest, &module));
    for (at, token) in rest.iter().enumerate() {
        let begins = at == 0 || rest[at - 1] != "::";
        if begins && children.contains(token) && rest.get(at + 1) == Some(&"::") {
            let item = rest.get(at + 2).into_iter().filter(|item| is_word(item));
            needs.push(
                [&module[..], &[(*token).to_owned()], &item.map(|item| (*item).to_owned()).collect::<Vec<_>>()]
                    .concat(),
            );
        }
    }
    Module { file: name.to_owned(), imports, needs }
}

/// The paths of this crate that a `use` names, each with the name under which it is known.
fn use_tree(tokens: &[&str], module: &[String], children: &HashSet<&str>) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut starts: Vec<Vec<String>> = Vec::new();
    let mut path: Option<Vec<String>> = None;
    let mut is_start = true;
    let mut known_as: Option<String> = None;
    let mut end = |path: &mut Option<Vec<String>>, known_as: &mut Option<String>| {
        if let Some(path) = path.take() {
            let name = known_as.take().or_else(|| path.last().cloned()).unwrap_or_default();
            if !path.is_empty() {
                found.push((path, name));
            }
        }
    };
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            "::" => {}
            "{" => {
                starts.push(path.take().unwrap_or_default());
                is_start = starts.len() == 1 && starts[0].is_empty() && at == 0;
            }
            "}" => {
                end(&mut path, &mut known_as);
                starts.pop();
            }
            "," => end(&mut path, &mut known_as),
            "as" => {
                known_as = tokens.get(at + 1).map(|name| (*name).to_owned());
                at += 1;
            }
            word => match &mut path {
                Some(path) if word == "super" => drop(path.pop()),
                Some(path) => path.push(word.to_owned()),
                None => {
                    path = match starts.last() {
                        Some(start) if !is_start => Some(continued(start, word)),
                        _ => begun(word, module, children),
                    };
                    if path.is_none() {
                        return Vec::new();
                    }
                }
            },
        }
        at += 1;
    }
    end(&mut path, &mut known_as);
    found
}

/// A path of a group, by its first word.
fn continued(start: &[String], word: &str) -> Vec<String> {
    match word {
        "self" => start.to_vec(),
        "super" => start[..start.len() - 1].to_vec(),
        _ => [start, &[word.to_owned()]].concat(),
    }
}

/// A path by its first word; `None` if it is one of another crate.
fn begun(word: &str, module: &[String], children: &HashSet<&str>) -> Option<Vec<String>> {
    match word {
        "crate" | "forebay" => Some(Vec::new()),
        "self" => Some(module.to_vec()),
        "super" => Some(module[..module.len() - 1].to_vec()),
        child if children.contains(child) => Some([module, &[child.to_owned()]].concat()),
        _ => None,
    }
}
