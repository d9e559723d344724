//! `forebay cache verify`: has forebay read what it stores again.

use forebay::visible::printable;
use serde_json::{Value, json};

use crate::cli::{
    Failure, control, no_match,
    output::{json_line, print},
    progress::{StatusLine, line},
    running::Places,
    text::size,
};

/// # Errors
/// forebay refuses, or something is damaged or cannot be read.
pub(super) fn verify(places: &Places, pattern: Option<&str>, is_json: bool) -> Result<(), Failure> {
    let mut images = 0;
    let (mut done, mut printed, mut status) = (Value::Null, Ok(()), StatusLine::begin());
    control::post(places, "/api/v1/images/verify", Some(&json!({ "match": pattern })), |event| {
        images += usize::from(event.name == "image");
        let text = match &*event.name {
            _ if is_json => json_line(&event.data),
            "image" => damages(&event.data),
            "done" => sums(&event.data),
            _ => String::new(),
        };
        if !is_json && event.name == "progress" {
            status.show(&progress(&event.data));
        }
        if !text.is_empty() && printed.is_ok() {
            status.clear();
            printed = print(&text);
        }
        if event.name == "done" {
            done = event.data;
        }
    })?;
    printed?;
    let count = |key: &str| done[key].as_u64();
    if let (Some(pattern), 0, Some(0)) = (pattern, images, count("objects")) {
        no_match::remark(places, pattern);
        return Err(Failure::Failed(anyhow::anyhow!("there is nothing of that to verify")));
    }
    match (count("damaged"), count("unreadable")) {
        (Some(0), Some(0)) => Ok(()),
        (Some(0), Some(unreadable)) => Err(failed(unreadable, "could not be read: the log says why")),
        (Some(damaged), _) => Err(failed(damaged, "was damaged and is removed: look after the disk")),
        (None, _) => Err(Failure::Failed(anyhow::anyhow!("forebay ended before all was verified"))),
    }
}

/// How far it is.
fn progress(data: &Value) -> String {
    let count = |key: &str| data[key].as_u64().unwrap_or_default();
    let damaged = match count("damaged") {
        0 => String::new(),
        damaged => format!(", {damaged} damaged"),
    };
    // What came after the beginning is not in the sum.
    let total = count("total_bytes").max(count("bytes"));
    format!("{} verified{damaged}", line(count("bytes"), Some(total)))
}

fn failed(count: u64, what: &str) -> Failure {
    Failure::Failed(anyhow::anyhow!("of what is stored, {count} {what}"))
}

/// The damaged parts of an image, a line each.
fn damages(image: &Value) -> String {
    let word = |value: &Value| printable(value.as_str().unwrap_or_default());
    let line = |damage: &Value| {
        let images: Vec<String> = damage["images"].as_array().into_iter().flatten().map(word).collect();
        let images = if images.is_empty() { "no image".to_owned() } else { images.join(", ") };
        format!("{} {}: damaged, removed; of {images}\n", word(&damage["kind"]), word(&damage["digest"]))
    };
    let lines: String = image["damaged"].as_array().into_iter().flatten().map(line).collect();
    match image["result"].as_str() {
        Some("unreadable") => format!("{}: some of it could not be read\n", word(&image["name"])),
        _ => lines,
    }
}

fn sums(done: &Value) -> String {
    let objects = match done["objects"].as_u64() {
        Some(1) => "1 object".to_owned(),
        objects => format!("{} objects", objects.unwrap_or_default()),
    };
    format!("{objects}, {}: {} damaged\n", size(&done["bytes"]), done["damaged"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_the_images_that_have_it() {
        let damage = |images: &[&str]| json!({ "kind": "blob", "digest": "sha256:1", "images": images });
        for (image, expected) in [
            (json!({ "name": "a/b:1", "result": "ok", "damaged": [] }), ""),
            (
                json!({ "name": "a/b:1", "result": "damaged", "damaged": [damage(&["a/b:1", "a/b:2"]), damage(&[])] }),
                "blob sha256:1: damaged, removed; of a/b:1, a/b:2\nblob sha256:1: damaged, removed; of no image\n",
            ),
            (
                json!({ "name": "a/b:1", "result": "unreadable", "damaged": [] }),
                "a/b:1: some of it could not be read\n",
            ),
        ] {
            assert_eq!(damages(&image), expected);
        }
        let mut far = json!({ "objects": 3, "bytes": 1 << 20, "total_bytes": 4 << 20, "damaged": 0, "unreadable": 0 });
        assert_eq!(progress(&far), " 25 %  1.0 MiB of 4.0 MiB verified");
        (far["bytes"], far["damaged"]) = ((8 << 20).into(), 1.into());
        assert_eq!(progress(&far), "100 %  8.0 MiB of 8.0 MiB verified, 1 damaged");
        let done = json!({ "objects": 18_402, "bytes": 76_450_000_000u64, "damaged": 1, "unreadable": 0 });
        assert_eq!(sums(&done), "18402 objects, 71.2 GiB: 1 damaged\n");
        assert_eq!(sums(&json!({ "objects": 1, "bytes": 0, "damaged": 0 })), "1 object, 0 B: 0 damaged\n");
    }
}
