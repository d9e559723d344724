//! `forebay config diff`: the file against the configuration of the forebay that runs here.
//!
//! A key counts if a reload or a restart would give it another value. So keys that a flag or a variable of the running forebay
//! sets do not count, nor those that have their defaults in both: some defaults depend on the user. Nor does a number that the
//! limit of open files has lowered, if the file still says a larger one.

use std::{collections::BTreeMap, path::Path};

use forebay::{
    app,
    config::{self, Key, Loaded, Overrides, Place, Variables, show},
};
use serde_json::{Value, json};

use super::{
    ConfigArguments, Failure, control,
    output::{print, print_json, remark},
    running::{ControlArguments, Places},
};

/// A key that differs.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// With the upstream's name in place of its index.
    key: String,
    running: Option<Value>,
    file: Option<Value>,
    /// The key of the file, for its place.
    index_key: Option<String>,
    needs_restart: bool,
}

/// A value of a configuration, and its key with indices.
type Values = BTreeMap<String, (String, Value)>;

/// Prints what differs.
///
/// # Errors
/// Something differs; no forebay runs; or the file has mistakes.
pub(super) fn run(arguments: &ConfigArguments, flags: &ControlArguments, as_json: bool) -> Result<(), Failure> {
    let own = arguments.load()?;
    let places = flags.places()?.unwrap_or_else(|| Places::of_config(&own.config));
    let running = control::configuration(&places).map_err(|error| Failure::Failed(error.into()))?;
    // Without a file at its start, forebay looks at each reload whether there is one.
    let path = arguments.config.clone().or_else(|| running["file"].as_str().map(Into::into)).or(own.file);
    let file = match &path {
        Some(path) => config::load(Some(path), &Variables::default(), Overrides::default())?,
        None => config::compose(None, "", &Variables::default(), Overrides::default())?,
    };
    let found = differences(&running, &file);
    let name = path.as_deref().map_or_else(|| "the defaults".into(), Path::to_string_lossy);
    match as_json {
        true => print_json(&to_json(&name, &found, &file, &not_shown(&running)))?,
        false => print(&to_text(&name, &found, &file))?,
    }
    if let Some(sentence) = not_compared(&not_shown(&running)) {
        remark(&sentence);
    }
    match found.len() {
        0 => Ok(()),
        1 => Err(Failure::Failed(anyhow::anyhow!("1 key differs"))),
        count => Err(Failure::Failed(anyhow::anyhow!("{count} keys differ"))),
    }
}

/// What differs between the answer of the control socket and a file (pure).
fn differences(running: &Value, file: &Loaded) -> Vec<Difference> {
    let before = values(&running["config"]);
    let after = values(&show::to_json(&show::settings(&file.config)));
    let not_shown = not_shown(running);
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differs = |key: &&String| {
        let (before, after) = (before.get(*key), after.get(*key));
        let origin = before.map_or("", |(key, _)| running["origins"][key]["from"].as_str().unwrap_or_default());
        let is_default = after.is_none_or(|(key, _)| file.origins.of(&Key::new(key)) == Place::Default);
        let is_shown = after.is_none_or(|(key, _)| !not_shown.contains(&&**key));
        let (before, after) = (before.map(|(_, value)| value), after.map(|(_, value)| value));
        let is_lowered = || Some(before?.as_u64()? < after?.as_u64()?);
        let is_kept = match origin {
            "flag" | "variable" => true,
            "default" => is_default,
            "limit" => is_lowered() == Some(true),
            _ => false,
        };
        is_shown && !is_kept && before != after
    };
    keys.into_iter()
        .filter(differs)
        .map(|key| Difference {
            key: key.clone(),
            running: before.get(key).map(|(_, value)| value.clone()),
            file: after.get(key).map(|(_, value)| value.clone()),
            index_key: after.get(key).map(|(index_key, _)| index_key.clone()),
            // Whether there is TLS at all is fixed at the start, and which files it has is not.
            needs_restart: app::is_fixed_at_start(key)
                || key.starts_with("server.tls.")
                    && before.contains_key("server.tls.key") != after.contains_key("server.tls.key"),
        })
        .collect()
}

/// The keys that name private images, which forebay leaves out without the token.
fn not_shown(running: &Value) -> Vec<&str> {
    running["not_shown"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a person is told of the keys that are left out.
fn not_compared(keys: &[&str]) -> Option<String> {
    (!keys.is_empty()).then(|| format!("not compared without the token: {}", keys.join(", ")))
}

/// The values of a nested configuration.
fn values(config: &Value) -> Values {
    let mut found = Values::new();
    collect("", "", config, &mut found);
    found
}

fn collect(key: &str, index_key: &str, value: &Value, found: &mut Values) {
    let below = |key: &str, name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                collect(&below(key, name), &below(index_key, name), value, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                let name = item["name"].as_str().map_or_else(|| index.to_string(), str::to_owned);
                collect(&format!("{key}[{name}]"), &format!("{index_key}[{index}]"), item, found);
            }
        }
        value => {
            found.insert(key.to_owned(), (index_key.to_owned(), value.clone()));
        }
    }
}

fn to_text(name: &str, found: &[Difference], file: &Loaded) -> String {
    if found.is_empty() {
        return format!("{name}: as the running forebay\n");
    }
    let mut text = String::new();
    for Difference { key, running, file: value, index_key, needs_restart } in found {
        let spelt = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
        let place = match index_key.as_ref().map(|key| file.origins.of(&Key::new(key))) {
            Some(Place::Default) | None => "default".to_owned(),
            Some(place) => place.to_string(),
        };
        let when = if *needs_restart { "at the next start" } else { "at a reload" };
        text += &format!("{key}: running {}, file {} ({place}), taken {when}\n", spelt(running), spelt(value));
    }
    text
}

fn to_json(name: &str, found: &[Difference], file: &Loaded, not_compared: &[&str]) -> Value {
    let each = |difference: &Difference| {
        json!({
            "key": difference.key,
            "running": difference.running,
            "file": difference.file,
            "place": difference.index_key.as_ref().map(|key| file.origins.of(&Key::new(key)).to_string()),
            "taken": if difference.needs_restart { "start" } else { "reload" },
        })
    };
    let differences: Vec<Value> = found.iter().map(each).collect();
    json!({ "file": name, "differences": differences, "not_compared": not_compared })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Loaded {
        let path = Path::new("/etc/forebay/forebay.toml");
        let text = format!("state_directory = \"/state\"\n{text}");
        config::compose(Some(path), &text, &Variables::default(), Overrides::default()).unwrap()
    }

    /// The answer of a forebay that read this text; these keys came from flags.
    fn running(text: &str, flags: &[&str]) -> Value {
        answer(&loaded(text), flags)
    }

    fn answer(loaded: &Loaded, flags: &[&str]) -> Value {
        let settings = show::settings(&loaded.config);
        let from = |key: &Key| match loaded.origins.of(key) {
            _ if flags.contains(&key.as_str()) => "flag",
            Place::Default => "default",
            Place::Limit => "limit",
            _ => "file",
        };
        let origins: serde_json::Map<_, _> = settings
            .iter()
            .map(|setting| (setting.key().as_str().to_owned(), json!({ "from": from(&setting.key()) })))
            .collect();
        json!({ "config": show::to_json(&settings), "origins": origins })
    }

    #[test]
    fn a_key_differs_if_a_reload_or_a_start_would_change_it() {
        let cache = "[cache]\ndirectory = \"/cache\"\n";
        let hub = "[[upstream]]\nname = \"docker.io\"\n";
        let ghcr = "[[upstream]]\nname = \"ghcr.io\"\n";
        for (before, flags, after, expected) in [
            (cache.to_owned(), &[][..], cache.to_owned(), &[][..]),
            (
                cache.to_owned(),
                &[],
                format!("{cache}tag_ttl = \"5m\"\n"),
                &["cache.tag_ttl: running \"1m\", file \"5m\""],
            ),
            (format!("{cache}tag_ttl = \"5m\"\n"), &["cache.tag_ttl"], cache.to_owned(), &[]),
            (
                format!("{cache}tag_ttl = \"5m\"\n"),
                &[],
                cache.to_owned(),
                &["file \"1m\" (default), taken at a reload"],
            ),
            (
                cache.to_owned(),
                &[],
                format!("{cache}manifest_memory = 1\n"),
                &["running \"64 MiB\", file 1 (", "next start"],
            ),
            // The order of upstreams is no difference of their keys.
            (format!("{cache}{hub}{ghcr}"), &[], format!("{cache}{ghcr}{hub}"), &[]),
            (
                format!("{cache}{hub}"),
                &[],
                format!("{cache}{hub}push = true\n"),
                &[
                    "upstream[docker.io].push: running false, file true (/etc/forebay/forebay.toml:6:1), taken at a reload",
                ],
            ),
        ] {
            let file = loaded(&after);
            let found = differences(&running(&before, flags), &file);
            let text = to_text("x", &found, &file);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{before}{after}{text}");
            for words in expected {
                assert!(text.contains(words), "{words}\n{text}");
            }
        }
    }

    #[test]
    fn what_forebay_does_not_show_is_no_difference() {
        let file = loaded("[[rule]]\nmatch = \"harbor.lan/team/*\"\ntag_ttl = \"1h\"\n");
        let mut running = answer(&file, &[]);
        running["config"]["rule"][0].as_object_mut().unwrap().remove("match");
        assert_eq!(differences(&running, &file).len(), 1);
        running["not_shown"] = json!(["rule[0].match"]);
        assert_eq!(differences(&running, &file), []);
        let keys = not_shown(&running);
        assert_eq!(not_compared(&keys).as_deref(), Some("not compared without the token: rule[0].match"));
        assert_eq!(to_json("x", &[], &file, &keys)["not_compared"], json!(["rule[0].match"]));
        assert_eq!(not_compared(&[]), None);
    }

    #[test]
    fn a_number_that_a_limit_lowered_differs_from_a_smaller_one() {
        let with = |connections| loaded(&format!("[server]\nmax_connections = {connections}\n"));
        let mut lowered = with(5000);
        lowered.config.server.max_connections = 1000;
        lowered.origins.set_limit("server.max_connections");
        let running = answer(&lowered, &[]);
        for (connections, differs) in [(5000, false), (1001, false), (1000, false), (999, true)] {
            assert_eq!(differences(&running, &with(connections)).len(), usize::from(differs), "{connections}");
        }
    }

    #[test]
    fn an_upstream_that_is_new_differs_in_all_of_its_keys() {
        let cache = "[cache]\ndirectory = \"/cache\"\n[[upstream]]\nname = \"docker.io\"\n";
        let file = loaded(&format!("{cache}[[upstream]]\nname = \"ghcr.io\"\n"));
        let found = differences(&running(cache, &[]), &file);
        assert!(!found.is_empty() && found.iter().all(|difference| difference.key.starts_with("upstream[ghcr.io].")));
        assert!(found.iter().all(|difference| difference.running.is_none() && !difference.needs_restart));
    }
}
