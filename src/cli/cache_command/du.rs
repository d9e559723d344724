//! `forebay cache du`.

use std::time::SystemTime;

use serde_json::Value;

use super::reading;
use crate::cli::{columns::Columns, text::size};

/// What does not belong to the images of one upstream, by the key in the answer.
const REST: [(&str, &str); 7] = [
    ("several_upstreams", "shared by several upstreams"),
    ("not_shown", "of upstreams that are not shown"),
    ("no_image", "of no image"),
    ("tags", "records of tags"),
    ("partial", "partial downloads"),
    ("overhead", "directories"),
    ("in_flight", "in flight"),
];

pub(super) fn text(usage: &Value, _: SystemTime, width: Option<usize>) -> String {
    let mut parts = Columns::new(["WHAT", "SIZE"]);
    let upstreams = usage["upstreams"].as_array().into_iter().flatten();
    add(&mut parts, upstreams.filter(|upstream| upstream["bytes"] != 0), "upstream");
    for (key, name) in REST.into_iter().filter(|(key, _)| usage[key].as_u64().is_some_and(|bytes| bytes > 0)) {
        parts.row([name.to_owned(), size(&usage[key])]);
    }
    parts.row([format!("in all, of {}", size(&usage["max_size"])), size(&usage["total"])]);
    let mut repositories = Columns::new(["REPOSITORY", "SIZE"]).with_names("REPOSITORY");
    add(&mut repositories, usage["repositories"].as_array().into_iter().flatten(), "name");
    let has_any = usage["repositories"].as_array().is_some_and(|all| !all.is_empty());
    let repositories = if has_any { format!("\n{}", repositories.fit(width)) } else { String::new() };
    format!("{parts}{repositories}{}", reading(usage))
}

fn add<'a>(columns: &mut Columns, list: impl Iterator<Item = &'a Value>, name: &str) {
    for entry in list {
        columns.row([entry[name].as_str().unwrap_or_default().to_owned(), size(&entry["bytes"])]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_parts_are_shown_and_what_they_add_up_to() {
        let usage = json!({
            "total": 12 << 20, "max_size": 1_u64 << 30,
            "upstreams": [{ "upstream": "docker.io", "bytes": 8 << 20 }, { "upstream": "ghcr.io", "bytes": 1 << 20 },
                          { "upstream": "quay.io", "bytes": 0 }],
            "several_upstreams": 0, "not_shown": 0, "no_image": 2 << 20, "tags": 1 << 20, "partial": 0, "overhead": 0,
            "in_flight": 0, "repositories": [{ "name": "docker.io/library/node", "bytes": 5 << 20 }], "reading": false,
        });
        let expected = "\
WHAT                SIZE
docker.io           8.0 MiB
ghcr.io             1.0 MiB
of no image         2.0 MiB
records of tags     1.0 MiB
in all, of 1.0 GiB  12.0 MiB

REPOSITORY              SIZE
docker.io/library/node  5.0 MiB
";
        assert_eq!(text(&usage, SystemTime::UNIX_EPOCH, None), expected);
    }
}
