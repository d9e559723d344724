//! `forebay cache show`.

use std::{fmt::Write as _, time::SystemTime};

use serde_json::Value;

use forebay::visible::printable;

use crate::cli::{
    columns::Columns,
    text::{age, short_digest, size},
};

pub(super) fn text(image: &Value, now: SystemTime, width: Option<usize>) -> String {
    let word = |key: &str| printable(image[key].as_str().unwrap_or("-"));
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let lines = [
        ("image", word("name")),
        ("digest", word("digest")),
        ("type", word("media_type")),
        ("size", or_dash(size(&image["size"]))),
        ("shared", or_dash(size(&image["shared"]))),
        ("pulls", image["pulls"].to_string()),
        ("last use", or_dash(age(&image["last_use"], now))),
        ("confirmed", or_dash(age(&image["confirmed"], now))),
        ("complete", if image["complete"] == true { "yes" } else { "no" }.to_owned()),
        ("pinned", if image["pinned"] == true { "yes" } else { "no" }.to_owned()),
    ];
    let pins: Vec<&str> = image["pins"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let pinned_by = (!pins.is_empty()).then(|| ("pinned by", printable(&pins.join(", "))));
    let mut text = String::new();
    for (name, value) in lines.into_iter().chain(pinned_by) {
        // Writing to a string does not fail.
        let _ = match width {
            // A digest is one word, to be copied as a whole.
            Some(width) if value.chars().count() + 11 > width => writeln!(text, "{name} {value}"),
            _ => writeln!(text, "{name:<10} {value}"),
        };
    }
    for manifest in image["manifests"].as_array().into_iter().flatten() {
        text.push_str(&of_manifest(manifest, width));
    }
    for (key, what) in
        [("left_out", "manifests and layers are not shown"), ("more_platforms", "platforms are not shown")]
    {
        if let Some(count @ 1..) = image[key].as_u64() {
            let _ = writeln!(text, "\n{count} more {what}");
        }
    }
    text
}

fn of_manifest(manifest: &Value, width: Option<usize>) -> String {
    let platform = printable(manifest["platform"].as_str().unwrap_or("no platform"));
    let mut columns = table(manifest, |digest| digest);
    if width.is_some_and(|width| !columns.has_room(width)) {
        columns = table(manifest, short_digest);
    }
    format!("\n{platform}\n{}", columns.fit(width))
}

/// The parts of a manifest, with as much of each digest as `shown` leaves.
fn table(manifest: &Value, shown: fn(&str) -> &str) -> Columns {
    let mut columns = Columns::new(["PART", "DIGEST", "SIZE", "HERE", "SHARED WITH"]).with_names("SHARED WITH");
    let part = |name: &str, data: &Value| part(name, data, shown);
    columns.row(part("manifest", &manifest["manifest"]));
    if manifest["configuration"].is_object() {
        columns.row(part("configuration", &manifest["configuration"]));
    }
    manifest["layers"].as_array().into_iter().flatten().for_each(|layer| columns.row(part("layer", layer)));
    columns
}

fn part(name: &str, part: &Value, shown: fn(&str) -> &str) -> [String; 5] {
    let names: Vec<_> = part["shared_with"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let digest = part["digest"].as_str().unwrap_or_default();
    let more = part["shares"].as_u64().unwrap_or_default().saturating_sub(names.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    [
        name.to_owned(),
        shown(digest).to_owned(),
        size(&part["size"]),
        if part["here"] == true { "yes" } else { "no" }.to_owned(),
        names.join(", ") + &more,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_is_shown_with_its_parts() {
        let part = |digest: &str, here: bool, shared_with: &[&str], shares: u64| json!({ "digest": digest, "size": 4096, "here": here, "shared_with": shared_with, "shares": shares });
        let mut image = json!({
            "name": "docker.io/library/node:22", "digest": "sha256:1f2e", "media_type": "a/index", "size": 12288,
            "shared": 4096, "pulls": 3, "last_use": "2026-11-30T07:59:57Z", "confirmed": null, "complete": false,
            "manifests": [
                { "platform": "linux/amd64", "manifest": part("sha256:a", true, &[], 0),
                  "configuration": part("sha256:b", true, &[], 0),
                  "layers": [part("sha256:c", true, &["docker.io/library/php:8"], 3)] },
                { "platform": null, "manifest": part("sha256:d", false, &[], 0), "configuration": null, "layers": [] },
            ],
        });
        let now = humantime::parse_rfc3339("2026-11-30T08:00:00Z").unwrap();
        let expected = "\
image      docker.io/library/node:22
digest     sha256:1f2e
type       a/index
size       12.0 KiB
shared     4.0 KiB
pulls      3
last use   3 s
confirmed  -
complete   no
pinned     no

linux/amd64
PART           DIGEST    SIZE     HERE  SHARED WITH
manifest       sha256:a  4.0 KiB  yes   -
configuration  sha256:b  4.0 KiB  yes   -
layer          sha256:c  4.0 KiB  yes   docker.io/library/php:8 and 2 more

no platform
PART      DIGEST    SIZE     HERE  SHARED WITH
manifest  sha256:d  4.0 KiB  no    -
";
        assert_eq!(text(&image, now, None), expected);
        image["pins"] = json!(["docker.io/library/*", "docker.io/*"]);
        let pinned_by = "\npinned by  docker.io/library/*, docker.io/*\n\nlinux/amd64\n";
        assert!(text(&image, now, None).contains(pinned_by));
        image["pins"] = json!([]);
        (image["left_out"], image["more_platforms"]) = (7.into(), 0.into());
        assert_eq!(text(&image, now, None), format!("{expected}\n7 more manifests and layers are not shown\n"));
        image["more_platforms"] = 2.into();
        assert!(text(&image, now, None).ends_with("\n2 more platforms are not shown\n"));
    }

    #[test]
    fn where_there_is_no_room_digests_of_parts_are_short() {
        let digest = format!("sha256:{}", "1f".repeat(32));
        let image = json!({
            "name": "a/b:1", "digest": digest, "pulls": 0,
            "manifests": [{ "platform": "linux/amd64", "manifest": { "digest": digest, "size": 1, "here": true }}],
        });
        let told = text(&image, SystemTime::UNIX_EPOCH, Some(80));
        assert!(told.contains(&format!("\ndigest {digest}\n")), "{told}");
        assert!(told.ends_with("\nmanifest  sha256:1f1f1f1f1f1f  1 B   yes   -\n"), "{told}");
        for width in [None, Some(120)] {
            assert!(
                text(&image, SystemTime::UNIX_EPOCH, width).contains(&format!("\nmanifest  {digest}  ")),
                "{width:?}"
            );
        }
    }
}
