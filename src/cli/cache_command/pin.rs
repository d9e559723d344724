//! `forebay cache pin` and `forebay cache unpin`.

use std::time::{Duration, SystemTime};

use forebay::visible::printable;
use serde_json::{Value, json};

use crate::cli::{
    Failure,
    columns::Columns,
    control::{self, ControlError},
    no_match,
    output::{json_line, print, remark},
    running::Places,
    text::{duration_of_api, size},
};

/// Pins what the patterns match, one after the other.
///
/// # Errors
/// forebay refuses one; those before it are in force.
pub(super) fn pin(places: &Places, patterns: &[String], duration: Option<Duration>, json: bool) -> Result<(), Failure> {
    each(places, "pin", patterns, duration, if json { json_line } else { pinned })
}

/// Removes the pins of these texts, one after the other.
///
/// # Errors
/// There is no such pin; those before it are removed.
pub(super) fn unpin(places: &Places, patterns: &[String], json: bool) -> Result<(), Failure> {
    each(places, "unpin", patterns, None, if json { json_line } else { unpinned })
}

fn each(
    places: &Places,
    verb: &str,
    patterns: &[String],
    duration: Option<Duration>,
    line: fn(&Value) -> String,
) -> Result<(), Failure> {
    for (position, pattern) in patterns.iter().enumerate() {
        let mut wanted = json!({ "match": pattern });
        if let Some(duration) = duration {
            wanted["for"] = duration_of_api(duration).into();
        }
        let answer = control::change(places, &format!("/api/v1/images/{verb}"), &wanted);
        if let (Err(error), 1..) = (&answer, position) {
            remark(&what_is_changed(pattern, error));
        }
        let answer = answer?;
        print(&line(&answer))?;
        if let (Some(0), Some(name)) = (answer["images"].as_u64(), answer["match"].as_str()) {
            no_match::warn_of_no_upstream(places, name);
        }
    }
    Ok(())
}

/// What became of a pattern, and of those after it, when a change failed.
fn what_is_changed(pattern: &str, error: &ControlError) -> String {
    match error {
        ControlError::Refused { .. } => format!("{pattern} and what comes after it: nothing is changed"),
        _ => format!("whether {pattern} is changed is not known; nothing after it is"),
    }
}

fn pinned(answer: &Value) -> String {
    let name = answer["match"].as_str().unwrap_or_default();
    let until = answer["until"].as_str().map(|until| format!(" until {until}")).unwrap_or_default();
    let here = match answer["images"].as_u64() {
        None | Some(0) => "nothing of it is in the cache yet".to_owned(),
        Some(1) => format!("1 image, {}", size(&answer["bytes"])),
        Some(images) => format!("{images} images, {}", size(&answer["bytes"])),
    };
    printable(&format!("{name}: pinned{until}; {here}")) + "\n"
}

fn unpinned(answer: &Value) -> String {
    let name = answer["match"].as_str().unwrap_or_default();
    let others = answer["still_pinned_by"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let others: Vec<&str> = others.collect();
    let still = match others.is_empty() {
        true => String::new(),
        false => format!("; still pinned by {}", others.join(", ")),
    };
    printable(&format!("{name}: unpinned{still}")) + "\n"
}

/// All pins.
pub(super) fn list(document: &Value, _now: SystemTime, width: Option<usize>) -> String {
    let mut columns = Columns::new(["PIN", "UNTIL"]).with_names("PIN");
    for pin in document["pins"].as_array().into_iter().flatten() {
        let word = |key: &str| pin[key].as_str().unwrap_or_default().to_owned();
        let until = match (pin["imported"] == true, pin["by_operator"] == true) {
            (true, false) => "a refresh (imported)".to_owned(),
            (true, true) if pin["until"].is_string() => format!("{} and a refresh (imported)", word("until")),
            _ => word("until"),
        };
        columns.row([word("match"), until]);
    }
    let columns = columns.fit(width);
    let kept = format!(
        "{} kept of {} that pins may keep",
        size(&document["pinned_bytes"]),
        size(&document["max_pinned_bytes"])
    );
    match document["pinned_and_not_kept_bytes"].as_u64() {
        None | Some(0) => format!("{columns}\n{kept}\n"),
        Some(_) => format!(
            "{columns}\n{kept}; {} more are pinned and may be evicted\n",
            size(&document["pinned_and_not_kept_bytes"])
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_line() {
        let mut answer = json!({ "match": "a/b:1", "until": null, "images": 0, "bytes": 0 });
        assert_eq!(pinned(&answer), "a/b:1: pinned; nothing of it is in the cache yet\n");
        answer["until"] = "2026-12-30T08:00:00Z".into();
        (answer["images"], answer["bytes"]) = (1.into(), 4096.into());
        assert_eq!(pinned(&answer), "a/b:1: pinned until 2026-12-30T08:00:00Z; 1 image, 4.0 KiB\n");
        answer["images"] = 7.into();
        assert_eq!(pinned(&answer), "a/b:1: pinned until 2026-12-30T08:00:00Z; 7 images, 4.0 KiB\n");
        assert_eq!(unpinned(&answer), "a/b:1: unpinned\n");
        answer["still_pinned_by"] = json!(["a/*", "*"]);
        assert_eq!(unpinned(&answer), "a/b:1: unpinned; still pinned by a/*, *\n");
    }

    #[test]
    fn only_a_refusal_says_that_nothing_is_changed() {
        let refused = ControlError::Refused { is_usage: false, why: "there is no such pin".to_owned() };
        assert_eq!(what_is_changed("a/*", &refused), "a/* and what comes after it: nothing is changed");
        let expected = "whether a/* is changed is not known; nothing after it is";
        assert_eq!(what_is_changed("a/*", &ControlError::SilentSocket), expected);
    }

    #[test]
    fn a_list_has_a_row_for_each_pin_and_their_sum() {
        let mut document = json!({
            "pins": [
                { "match": "docker.io/library/node:22", "until": null },
                { "match": "quay.io/org/app:1", "until": null, "by_operator": false, "imported": true },
                { "match": "quay.io/org/app:2", "until": null, "by_operator": true, "imported": true },
                {
                    "match": "quay.io/org/app:3",
                    "until": "2026-12-30T08:00:00Z",
                    "by_operator": true,
                    "imported": true,
                },
                { "match": "registry.k8s.io/*", "until": "2026-12-30T08:00:00Z", "imported": false },
            ],
            "pinned_bytes": 4096, "pinned_and_not_kept_bytes": 0, "max_pinned_bytes": 8192,
        });
        let expected = "\
PIN                        UNTIL
docker.io/library/node:22  -
quay.io/org/app:1          a refresh (imported)
quay.io/org/app:2          -
quay.io/org/app:3          2026-12-30T08:00:00Z and a refresh (imported)
registry.k8s.io/*          2026-12-30T08:00:00Z

4.0 KiB kept of 8.0 KiB that pins may keep
";
        let text = |document: &Value| list(document, SystemTime::UNIX_EPOCH, None);
        assert_eq!(text(&document), expected);
        document["pinned_and_not_kept_bytes"] = 1024.into();
        assert!(text(&document).ends_with("pins may keep; 1.0 KiB more are pinned and may be evicted\n"));
    }
}
