//! `forebay cache refresh`: has forebay ask the upstream now what a tag names.

use forebay::visible::printable;
use serde_json::{Value, json};

use crate::cli::{
    Failure, control, no_match,
    output::{json_line, print},
    running::Places,
    text::counted,
};

/// # Errors
/// forebay refuses, or an upstream gives no answer for a tag.
pub(super) fn refresh(places: &Places, patterns: &[String], is_json: bool) -> Result<(), Failure> {
    let (mut failed, mut tags, mut without_tag, mut printed) = (0, 0, 0, Ok(()));
    for pattern in patterns {
        let (mut is_whole, before) = (false, tags);
        control::post(places, "/api/v1/images/refresh", Some(&json!({ "match": pattern })), |event| {
            is_whole |= event.name == "done";
            if event.name == "image" {
                tags += 1;
                failed += usize::from(!event.data["problem"].is_null());
            }
            let text = if is_json { Some(json_line(&event.data)) } else { line(&event.data).map(|line| line + "\n") };
            if let (Some(text), Ok(())) = (text, &printed) {
                printed = print(&text);
            }
        })?;
        if !is_whole {
            return Err(Failure::Failed(anyhow::anyhow!("forebay ended before all was refreshed")));
        }
        if tags == before {
            no_match::remark(places, pattern);
            without_tag += 1;
        }
    }
    printed?;
    match failed {
        0 if without_tag > 0 => Err(Failure::Failed(anyhow::anyhow!("there is no such tag to refresh"))),
        0 => Ok(()),
        failed => Err(Failure::Failed(anyhow::anyhow!("{failed} of {} could not be refreshed", counted(tags, "tag")))),
    }
}

/// What came of a tag, for a person; `None` for the end.
fn line(data: &Value) -> Option<String> {
    let name = data["name"].as_str()?;
    let digest = |key: &str| data[key].as_str().unwrap_or("nothing").to_owned();
    let line = match data["result"].as_str() {
        Some("unchanged") => format!("{name}: still {}", digest("digest")),
        Some("changed") => format!("{name}: was {}, is now {}", digest("before"), digest("digest")),
        _ => format!("{name}: {}", data["problem"].as_str().unwrap_or_default()),
    };
    Some(printable(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_line_with_both_digests() {
        let data = |result: &str, before: Option<&str>| json!({ "name": "a/b:1", "result": result, "before": before, "digest": "sha256:2", "problem": "no" });
        for (data, expected) in [
            (data("unchanged", Some("sha256:2")), Some("a/b:1: still sha256:2")),
            (data("changed", Some("sha256:1")), Some("a/b:1: was sha256:1, is now sha256:2")),
            (data("changed", None), Some("a/b:1: was nothing, is now sha256:2")),
            (data("failed", None), Some("a/b:1: no")),
            (data("gone", Some("sha256:1")), Some("a/b:1: no")),
            (json!({ "tags": 1 }), None),
        ] {
            assert_eq!(line(&data).as_deref(), expected);
        }
    }
}
