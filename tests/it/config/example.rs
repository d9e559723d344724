//! `config.example.toml` has every key and its default.

use super::*;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// `#key = …` and `#[table]` are settings that are switched off; `# …` is prose.
fn switched_on(example: &str) -> String {
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with([' ', '#']) => setting,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_what_the_defaults_are() {
    assert_eq!(parse(EXAMPLE).unwrap(), parse("").unwrap());
}

#[test]
fn the_example_with_everything_switched_on_is_good() {
    parse(&switched_on(EXAMPLE)).unwrap();
}

#[test]
fn the_example_names_every_key_that_exists() {
    let exist: BTreeSet<String> = forebay::config::keys().into_iter().collect();
    assert!(exist.contains("server.tls.client_ca") && exist.contains("upstream.push"), "{exist:?}");

    let example: toml::Table = switched_on(EXAMPLE).parse().unwrap();
    let mut named = BTreeSet::new();
    collect_named("", &toml::Value::Table(example), &mut named);
    assert_eq!(exist.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new(), "missing in config.example.toml");
}

#[test]
fn every_key_of_the_example_says_what_it_is_for() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line);
        if setting.contains(" = ") && !setting.starts_with('#') {
            let before = index.checked_sub(1).map_or("", |index| lines[index]);
            assert!(line.contains(" # ") || before.starts_with("# "), "line {}: {line}", index + 1);
        }
    }
}

fn collect_named(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect_named(&path, value, keys);
                keys.insert(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| collect_named(path, item, keys)),
        _ => {}
    }
}
