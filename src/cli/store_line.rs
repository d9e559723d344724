//! How the object store is, in a line.

use std::time::SystemTime;

use forebay::visible::printable;
use serde_json::Value;

use super::text;

/// The line about the object `store` of a document of the control API.
pub(super) fn of(store: &Value, now: SystemTime) -> String {
    let word = |value: &Value| printable(value.as_str().unwrap_or_default());
    let mut line = format!("store  {}  {}", word(&store["url"]), word(&store["state"]));
    if let Some(waiting @ 1..) = store["waiting"].as_u64() {
        line += &format!("  {waiting} wait for their upload");
    }
    let failure = &store["last_failure"];
    match failure.is_null() || store["state"] == "ok" {
        true => line,
        false => line + &format!("  {} ago: {}", text::age(&failure["at"], now), word(&failure["problem"])),
    }
}
