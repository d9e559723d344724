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

/// Which keys there are is learnt from what the parser expects in place of an unknown one, so a
/// key that is added to the code and not to the example fails here.
#[test]
fn the_example_names_every_key_that_exists() {
    let mut exist = BTreeSet::new();
    collect_keys("", &mut exist);
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

/// Every key beneath `table`, by its path without indices.
fn collect_keys(table: &str, keys: &mut BTreeSet<String>) {
    const PROBE: &str = "no-such-key";
    let sections = [format!("[{table}]\n"), format!("[[{table}]]\n")];
    let sections = if table.is_empty() { vec![String::new()] } else { sections.to_vec() };
    let found = sections.iter().find_map(|section| {
        let error = parse(&format!("{section}{PROBE} = 1")).err()?;
        let expected = error.problem().strip_prefix(&format!("unknown field `{PROBE}`, expected "))?;
        Some(expected.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
    });
    for key in found.unwrap_or_default() {
        let path = if table.is_empty() { key } else { format!("{table}.{key}") };
        collect_keys(&path, keys);
        keys.insert(path);
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
