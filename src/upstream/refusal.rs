//! What a registry says when it refuses, as far as clients may be told (pure).
//!
//! What must hold: nothing of it is longer than its limit, has control characters, or tells clients a name that is forebay's
//! own or that of a repository they did not ask for.
//!
//! Source: OCI distribution specification v1.1, "Error Codes".

use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest refusal that is read, in bytes.
pub(super) const MAX_LEN: usize = 64 * 1024;
/// How many reasons are passed on.
const MAX_REASONS: usize = 8;
/// The longest code and message, and the longest detail as JSON, in bytes.
const MAX_CODE: usize = 64;
const MAX_MESSAGE: usize = 1024;
const MAX_DETAIL: usize = 4 * 1024;
/// The most of all reasons together, in bytes.
const MAX_TOLD: usize = 8 * 1024;

/// What says no more than the status, in plain text: forebay's own words say more.
const NO_REASONS: [&str; 4] = ["404 page not found", "Not Found", "Forbidden", "Too Many Requests"];

/// A refusal (4xx) in the upstream's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// None where it gives none.
    pub reasons: Vec<Reason>,
}

/// One error of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Of capital letters and underscores.
    pub code: Option<String>,
    pub message: Option<String>,
    /// `null` where there is none.
    pub detail: Value,
}

/// What stands in the body of a refusal.
pub(super) struct Said {
    pub reasons: Vec<Reason>,
    /// Whether these are errors of the specification, as no page of an ingress has.
    pub is_of_registry: bool,
}

/// Names that clients are not to learn.
pub(super) struct Private<'a> {
    /// Such as forebay's account.
    pub names: Vec<&'a str>,
    /// The repository that was asked for, where no other may be named.
    pub repository: Option<&'a str>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    detail: Value,
}

impl Said {
    /// Nothing, where it has no errors.
    pub(super) fn of(body: &[u8]) -> Self {
        // An array would be taken for the fields in their order.
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        let read = is_object.then(|| serde_json::from_slice::<Errors>(body).ok()).flatten();
        let errors = read.map(|read| read.errors).unwrap_or_default();
        let is_of_registry = errors.first().is_some_and(|first| first.code.is_string());
        let mut left = MAX_TOLD;
        let fits = |reason: &Reason| match left.checked_sub(reason.size()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        let reasons = errors.into_iter().take(MAX_REASONS).map(Reason::of).take_while(fits).collect();
        Self { reasons, is_of_registry }
    }
}

impl Said {
    /// The text alone, as of Docker Hub's limit: nothing where it is a document, or what servers say without a reason.
    pub(super) fn in_plain_text(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).map(clean).unwrap_or_default();
        let is_reason = !text.is_empty() && !text.starts_with(['<', '{', '[']) && !NO_REASONS.contains(&&*text);
        let reason = Reason { code: None, message: Some(text), detail: Value::Null };
        Self { reasons: is_reason.then_some(reason).into_iter().collect(), is_of_registry: false }
    }
}

impl Reason {
    fn of(entry: Entry) -> Self {
        let is_code = |text: &str| {
            (1..=MAX_CODE).contains(&text.len()) && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase())
        };
        let message = entry.message.as_str().map(clean).filter(|message| !message.is_empty());
        let detail = cleaned(entry.detail);
        let is_short = detail.to_string().len() <= MAX_DETAIL;
        Self {
            code: entry.code.as_str().filter(|code| is_code(code)).map(str::to_owned),
            message,
            detail: if is_short { detail } else { Value::Null },
        }
    }

    /// About how many bytes it takes.
    fn size(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        len(&self.code) + len(&self.message) + if self.detail.is_null() { 0 } else { self.detail.to_string().len() }
    }
}

impl Refusal {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        self.reasons.iter().map(Reason::size).sum()
    }

    /// Leaves out each text that tells one of these names.
    pub(super) fn without(mut self, private: &Private<'_>) -> Self {
        for reason in &mut self.reasons {
            if reason.message.as_ref().is_some_and(|message| private.is_told_by(message)) {
                reason.message = None;
            }
            if private.is_told_in(&reason.detail) {
                reason.detail = Value::Null;
            }
        }
        self
    }
}

impl Private<'_> {
    fn is_told_by(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        let is_part = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        self.names.iter().filter(|name| !name.is_empty()).any(|name| {
            let name = name.to_ascii_lowercase();
            text.match_indices(&name).any(|(at, _)| {
                let bytes = text.as_bytes();
                !is_part(at.checked_sub(1).and_then(|before| bytes.get(before))) && !is_part(bytes.get(at + name.len()))
            })
        })
    }

    fn is_told_in(&self, detail: &Value) -> bool {
        match detail {
            Value::String(text) => self.is_told_by(text),
            Value::Array(list) => list.iter().any(|one| self.is_told_in(one)),
            Value::Object(map) => map.iter().any(|(key, value)| {
                self.is_told_by(key) || self.is_told_in(value) || self.is_another_repository(key, value)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn is_another_repository(&self, key: &str, value: &Value) -> bool {
        let Some(asked) = self.repository else { return false };
        let is_name = ["name", "repository", "repositoryname"].iter().any(|name| key.eq_ignore_ascii_case(name));
        is_name && value.as_str().is_some_and(|named| named != asked)
    }
}

/// Clean, and no longer than a message may be.
fn clean(text: &str) -> String {
    let text = shown(text);
    let text = text.trim();
    text[..text.floor_char_boundary(MAX_MESSAGE)].to_owned()
}

/// Without what moves a terminal's cursor, and without what is not seen or has the rest read in another order.
pub(super) fn shown(text: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_control() => Some(' '),
        '\u{2028}' | '\u{2029}' => Some(' '),
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => None,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => None,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => None,
        letter => Some(letter),
    };
    text.chars().filter_map(letter).collect()
}

fn cleaned(detail: Value) -> Value {
    match detail {
        Value::String(text) => Value::String(clean(&text)),
        Value::Array(list) => Value::Array(list.into_iter().map(cleaned).collect()),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (clean(&key), cleaned(value))).collect::<Map<_, _>>())
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            assert_eq!(Said::of(body.as_bytes()).is_of_registry, expected, "{body}");
        }
    }

    fn reason(entry: Value) -> (Option<String>, Option<String>, Value) {
        let said = Said::of(json!({ "errors": [entry] }).to_string().as_bytes());
        let Reason { code, message, detail } = said.reasons.into_iter().next().unwrap();
        (code, message, detail)
    }

    #[test]
    fn what_is_passed_on_is_clean_and_bounded() {
        let text = |text: &str| Some(text.to_owned());
        let long = "\u{e9}".repeat(600);
        let cut = &long[..1024];
        for (entry, expected) in [
            (json!({ "code": "DENIED", "message": "no" }), (text("DENIED"), text("no"), Value::Null)),
            (json!({ "code": "denied", "message": "" }), (None, None, Value::Null)),
            (json!({ "code": "A\nB", "message": "a\r\nb\u{1b}[31mc" }), (None, text("a  b [31mc"), Value::Null)),
            (json!({ "code": "X".repeat(65), "message": [] }), (None, None, Value::Null)),
            (json!({ "code": "X", "message": long }), (text("X"), text(cut), Value::Null)),
            (
                json!({ "code": "X", "detail": { "a\n": ["b\u{0}", 1, null] } }),
                (text("X"), None, json!({ "a": ["b", 1, null] })),
            ),
            (json!({ "code": "X", "detail": vec!["x".repeat(1000); 5] }), (text("X"), None, Value::Null)),
            (
                json!({ "message": "a\u{202e}b\u{2066}\u{200b}c\u{2028}d\u{feff}\u{85}\u{9b}e \u{20ac}" }),
                (None, text("abc d  e \u{20ac}"), Value::Null),
            ),
            (json!({ "message": "Artifactory's", "status": 404 }), (None, text("Artifactory's"), Value::Null)),
        ] {
            assert_eq!(reason(entry.clone()), expected, "{entry}");
        }
        let many = json!({ "errors": vec![json!({ "code": "X" }); 100] });
        assert_eq!(Said::of(many.to_string().as_bytes()).reasons.len(), MAX_REASONS);
        let large = json!({ "errors": vec![json!({ "code": "X", "detail": vec!["x".repeat(1000); 3] }); 8] });
        assert_eq!(Said::of(large.to_string().as_bytes()).reasons.len(), 2);
    }

    #[test]
    fn a_reason_may_be_plain_text() {
        let long = "x".repeat(3000);
        for (body, expected) in [
            ("You have reached your pull rate limit.\n", Some("You have reached your pull rate limit.")),
            ("a\u{1b}[31mb\r\nc\u{0}", Some("a [31mb  c")),
            (&long, Some(&long[..MAX_MESSAGE])),
            ("", None),
            (" \n", None),
            ("404 page not found\n", None),
            ("<html><h1>403</h1></html>", None),
            (" {\"errors\":[]}", None),
            ("[1]", None),
        ] {
            let said = Said::in_plain_text(body.as_bytes());
            let message = said.reasons.first().and_then(|reason| reason.message.as_deref());
            assert_eq!((message, said.is_of_registry), (expected, false), "{body}");
        }
        assert!(Said::in_plain_text(b"\xff\xfe").reasons.is_empty());
    }

    #[test]
    fn private_names_are_not_passed_on() {
        let private = Private { names: vec!["robot$ci", "registry.internal"], repository: Some("team/app") };
        for (message, detail, told) in [
            ("no", json!([{ "Type": "repository", "Name": "team/app", "Action": "pull" }]), (true, true)),
            ("user ROBOT$ci has no rights", json!({ "name": "team/other" }), (false, false)),
            ("ask at https://registry.internal/login", json!({ "hint": "robot$ci" }), (false, false)),
            ("robot$cid and myregistry.internal", json!({ "Tag": "1" }), (true, true)),
            ("x", json!({ "robot$ci": 1 }), (true, false)),
        ] {
            let reason = Reason { code: None, message: Some(message.to_owned()), detail: detail.clone() };
            let refusal = Refusal { status: 403, reasons: vec![reason] }.without(&private);
            let left = refusal.reasons.into_iter().next().unwrap();
            assert_eq!((left.message.is_some(), left.detail == detail), told, "{message} {detail}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body in "\\PC{0,60}", front in "(\\{\"errors\":\\[\\{\"code\":\"X\",\"message\":\")?") {
            let said = Said::of(format!("{front}{body}").as_bytes());
            assert!(said.reasons.len() <= MAX_REASONS);
        }
    }
}
