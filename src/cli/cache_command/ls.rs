//! `forebay cache ls`.

use std::time::SystemTime;

use serde_json::Value;

use super::reading;
use crate::cli::{
    columns::Columns,
    text::{age, counted, size},
};

/// How many platforms are named in a row.
const MAX_PLATFORMS: usize = 3;

pub(super) fn text(document: &Value, now: SystemTime, width: Option<usize>) -> String {
    let head = ["IMAGE", "PLATFORMS", "SIZE", "SHARED", "PULLS", "LAST USE", "CONFIRMED", "STATE"];
    let least = ["SHARED", "CONFIRMED", "PULLS", "PLATFORMS"];
    let mut columns = Columns::new(head).with_names("IMAGE").with_least(least);
    let images = document["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    for image in images {
        columns.row([
            image["name"].as_str().unwrap_or_default().to_owned(),
            platforms(image),
            size(&image["size"]),
            size(&image["shared"]),
            image["pulls"].to_string(),
            age(&image["last_use"], now),
            age(&image["confirmed"], now),
            state(image, document["reading"] == true),
        ]);
    }
    let left_out = match document["left_out"].as_u64() {
        Some(left_out @ 1..) => format!("\n{left_out} more names were dropped: there are too many to remember\n"),
        _ => String::new(),
    };
    let more = if document["next"].is_null() { "" } else { ", and more than --limit" };
    let sum = match images.len() {
        0 => String::new(),
        count => format!("\n{}{more}\n", counted(count as u64, "image")),
    };
    format!("{}{sum}{}{left_out}", columns.fit(width), reading(document))
}

/// The platforms whose manifests are here.
fn platforms(image: &Value) -> String {
    let all = image["platforms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let here = all.iter().filter(|platform| platform["here"] == true);
    let names = here.filter_map(|platform| platform["platform"].as_str());
    // Nearly all are of this system.
    let mut names: Vec<_> = names.map(|name| name.strip_prefix("linux/").unwrap_or(name)).collect();
    let more = names.len().saturating_sub(MAX_PLATFORMS);
    names.truncate(MAX_PLATFORMS);
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => names.join(","),
        (false, more) => format!("{} +{more}", names.join(",")),
    }
}

fn state(image: &Value, is_reading: bool) -> String {
    let pinned = if image["pinned"] == true { ", pinned" } else { "" };
    format!("{}{pinned}", presence(image, is_reading))
}

fn presence(image: &Value, is_reading: bool) -> &'static str {
    match (image["complete"].as_bool(), image["size"].as_u64()) {
        (Some(true), _) => "complete",
        (_, None) if is_reading => "being read",
        (_, None) => "not read",
        (_, Some(0)) => "not here",
        (_, Some(_)) if image["blob_bytes"] == 0 => "manifest only",
        (_, Some(_)) => "partial",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_has_a_row_for_each_image() {
        let platform = |name: &str, here: bool| json!({ "platform": name, "here": here, "complete": here });
        let many = ["a", "b", "c", "d", "e"].map(|name| platform(name, true));
        let document = json!({
            "images": [
                {
                    "name": "docker.io/library/node:22", "size": 408_000_000, "shared": 120_000_000, "pulls": 1204,
                    "platforms": [platform("linux/amd64", true), platform("linux/arm64", false)],
                    "last_use": "2026-11-30T07:59:57Z", "confirmed": "2026-11-30T07:59:19Z", "complete": true,
                    "pinned": true,
                },
                {
                    "name": "docker.io/library/php:8.1", "size": 8192, "blob_bytes": 4096, "shared": 0, "pulls": 2,
                    "platforms": many,
                    "last_use": "2026-11-11T07:00:00Z", "confirmed": null, "complete": false,
                },
                { "name": "ghcr.io/a/b:1", "size": null, "shared": null, "pulls": 0, "platforms": [], "complete": false },
                { "name": "ghcr.io/a/b:2", "size": 8192, "blob_bytes": 0, "shared": 0, "pulls": 0,
                  "platforms": [platform("linux/amd64", true)], "complete": false },
                { "name": "ghcr.io/a/b:3", "size": 0, "shared": 0, "pulls": 0, "platforms": [], "complete": false },
            ],
            "reading": true,
            "next": "ghcr.io/a/b:3",
            "left_out": 7,
        });
        let now = humantime::parse_rfc3339("2026-11-30T08:00:00Z").unwrap();
        let expected = "\
IMAGE                      PLATFORMS  SIZE       SHARED     PULLS  LAST USE  CONFIRMED  STATE
docker.io/library/node:22  amd64      389.1 MiB  114.4 MiB  1204   3 s       41 s       complete, pinned
docker.io/library/php:8.1  a,b,c +2   8.0 KiB    0 B        2      19 d      -          partial
ghcr.io/a/b:1              -          -          -          0      -         -          being read
ghcr.io/a/b:2              amd64      8.0 KiB    0 B        0      -         -          manifest only
ghcr.io/a/b:3              -          0 B        0 B        0      -         -          not here

5 images, and more than --limit

forebay is still reading what is on disk: some of it is missing here

7 more names were dropped: there are too many to remember
";
        assert_eq!(text(&document, now, None), expected);
        let narrow = text(&document, now, Some(64));
        let head = "IMAGE                      SIZE       LAST USE  STATE";
        assert_eq!(narrow.lines().next(), Some(head), "{narrow}");
        assert_eq!(state(&document["images"][2], false), "not read");
    }
}
