//! What a registry says when it refuses (pure).
//!
//! Source: OCI distribution specification v1.1, "Error Codes".

use serde::Deserialize;

/// The longest refusal that is read, in bytes.
pub(super) const MAX_LEN: usize = 64 * 1024;

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "code")]
    _code: String,
}

/// Whether it has errors of the specification, as no page of an ingress has.
pub(super) fn is_of_registry(body: &[u8]) -> bool {
    // An array would be taken for the fields in their order.
    body.trim_ascii_start().first() == Some(&b'{')
        && serde_json::from_slice::<Errors>(body).is_ok_and(|read| !read.errors.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_specification_are_a_registrys() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, true),
            (r#"{"errors":[{"code":"DENIED","message":"no","detail":null},{"code":"UNKNOWN"}]}"#, true),
            (r#" {"errors":[{"code":"x","message":1,"more":[]}],"more":1}"#, true),
            (r#"{"errors":[]}"#, false),
            (r#"{"errors":["blocked"]}"#, false),
            (r#"{"errors":[{"code":1020}]}"#, false),
            (r#"{"errors":[{"message":"no"}]}"#, false),
            (r#"{"error":"not found"}"#, false),
            (r#"[[{"code":"DENIED"}]]"#, false),
            (r#"{"errors":[{"code":"DENIED"}]"#, false),
            ("default backend - 404", false),
            ("<html>", false),
            ("", false),
        ] {
            assert_eq!(is_of_registry(body.as_bytes()), expected, "{body}");
        }
    }
}
