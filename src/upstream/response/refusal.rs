//! A registry's refusal, as far as clients may read it (pure).
//!
//! What must hold: no text is longer than its limit, has control characters, or tells clients a name of forebay's own,
//! or of a repository that they did not request.
//!
//! Source: OCI distribution specification v1.1, "Error Codes".

use serde::Deserialize;
use serde_json::{Map, Value};

use super::redaction::PrivateNames;
use crate::visible::is_deceptive;

/// The longest refusal that is read, in bytes.
pub(in crate::upstream) const MAX_LEN: usize = 64 * 1024;
/// The longest code and message, and the longest detail as JSON, in bytes.
const MAX_CODE: usize = 64;
const MAX_MESSAGE: usize = 1024;
const MAX_DETAIL: usize = 4 * 1024;
/// The memory of one value of a detail beside its text, in bytes.
const PART_WEIGHT: usize = 100;
/// The UTF-8 mark at the beginning of some files, which JSON does not allow.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The keys with the reason of a token realm without errors of the specification: Docker Hub, Quay, OAuth2.
const REALM_KEYS: [&str; 4] = ["details", "message", "error_description", "error"];

/// Plain texts that say no more than the status.
const NO_REASONS: [&str; 4] = ["404 page not found", "Not Found", "Forbidden", "Too Many Requests"];

/// A refusal (4xx) in the upstream's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reasons: Vec<Reason>,
}

/// One error of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Capital letters and underscores.
    pub code: Option<String>,
    pub message: Option<String>,
    /// `null` if there is none.
    pub detail: Value,
}

/// How much of a refusal clients get.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct RefusalLimits {
    pub reasons: usize,
    /// All of them together, in bytes.
    pub len: usize,
}

impl RefusalLimits {
    pub(crate) const PULL: Self = Self { reasons: 8, len: 8 * 1024 };
    /// A manifest may be refused for each of its blobs.
    pub(crate) const PUSH: Self = Self { reasons: 512, len: MAX_LEN };
}

/// The body of a refusal.
pub(in crate::upstream) struct RefusalBody {
    pub reasons: Vec<Reason>,
    /// Whether these are errors of the specification, which no page of an ingress has.
    pub is_of_registry: bool,
}

#[derive(Deserialize)]
struct ErrorList {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    detail: Value,
}

impl RefusalBody {
    pub(in crate::upstream) fn parse(body: &[u8]) -> Self {
        Self::parse_within(body, RefusalLimits::PULL)
    }

    /// Without reasons if the body has no errors.
    pub(in crate::upstream) fn parse_within(body: &[u8], limits: RefusalLimits) -> Self {
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        // serde would take an array for the fields in their order.
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        let read = is_object.then(|| serde_json::from_slice::<ErrorList>(body).ok()).flatten();
        let errors = read.map(|read| read.errors).unwrap_or_default();
        let is_of_registry = errors.first().is_some_and(|first| first.code.is_string());
        let mut left = limits.len;
        let fits = |reason: &Reason| match left.checked_sub(reason.size()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        let reasons = errors.into_iter().take(limits.reasons).map(Reason::of).take_while(fits).collect();
        Self { reasons, is_of_registry }
    }

    /// The body of a token realm: errors of the specification, or a form of its own.
    pub(in crate::upstream) fn parse_realm(body: &[u8]) -> Self {
        let refusal = Self::parse(body);
        if refusal.is_of_registry {
            return refusal;
        }
        let read: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let text = REALM_KEYS.iter().find_map(|key| read.get(*key)?.as_str());
        let message = text.map(clean).filter(|text| !text.is_empty());
        let reason = message.map(|message| Reason { code: None, message: Some(message), detail: Value::Null });
        Self { reasons: reason.into_iter().collect(), ..refusal }
    }

    /// A plain text, such as that of Docker Hub's rate limit. Without reasons if the body is a document, or a server's
    /// default text.
    pub(in crate::upstream) fn parse_plain_text(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).map(clean).unwrap_or_default();
        let is_reason = !text.is_empty() && !text.starts_with(['<', '{', '[']) && !NO_REASONS.contains(&&*text);
        let reason = Reason { code: None, message: Some(text), detail: Value::Null };
        Self { reasons: is_reason.then_some(reason).into_iter().collect(), is_of_registry: false }
    }
}

impl Reason {
    fn of(entry: ErrorEntry) -> Self {
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

    /// Its text, in bytes.
    fn size(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        len(&self.code) + len(&self.message) + if self.detail.is_null() { 0 } else { self.detail.to_string().len() }
    }
}

impl Refusal {
    /// Its memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.reasons.iter().map(|reason| reason.size() + PART_WEIGHT * parts(&reason.detail)).sum()
    }

    /// Removes each text that tells a private name.
    pub(in crate::upstream) fn without(mut self, private: &PrivateNames) -> Self {
        for reason in &mut self.reasons {
            if reason.message.as_ref().is_some_and(|message| private.is_named_in_text(message)) {
                reason.message = None;
            }
            if private.is_named_in_detail(&reason.detail) {
                reason.detail = Value::Null;
            }
        }
        self
    }
}

/// The number of values in a detail.
fn parts(detail: &Value) -> usize {
    match detail {
        Value::Array(list) => 1 + list.iter().map(parts).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(parts).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// Printable, and no longer than a message may be.
fn clean(text: &str) -> String {
    let text = printable(text);
    let text = text.trim();
    text[..text.floor_char_boundary(MAX_MESSAGE)].to_owned()
}

/// Without what deceives a person: blanks stand for control characters and ends of lines, nothing for letters that are not
/// seen.
pub(in crate::upstream) fn printable(text: &str) -> String {
    let letter = |letter: char| match letter {
        '\u{2028}' | '\u{2029}' => Some(' '),
        letter if letter.is_control() => Some(' '),
        letter if is_deceptive(letter) => None,
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
    fn errors_of_the_specification_are_a_registrys() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, true),
            (r#"{"errors":[{"code":"DENIED","message":"no","detail":null},{"code":"UNKNOWN"}]}"#, true),
            (r#" {"errors":[{"code":"x","message":1,"more":[]}],"more":1}"#, true),
            ("\u{feff}{\"errors\":[{\"code\":\"DENIED\"}]}", true),
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
            assert_eq!(RefusalBody::parse(body.as_bytes()).is_of_registry, expected, "{body}");
        }
    }

    fn reason(entry: Value) -> (Option<String>, Option<String>, Value) {
        let said = RefusalBody::parse(json!({ "errors": [entry] }).to_string().as_bytes());
        let Reason { code, message, detail } = said.reasons.into_iter().next().unwrap();
        (code, message, detail)
    }

    #[test]
    fn reasons_are_printable_and_bounded() {
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
        assert_eq!(RefusalBody::parse(many.to_string().as_bytes()).reasons.len(), 8);
        let large = json!({ "errors": vec![json!({ "code": "X", "detail": vec!["x".repeat(1000); 3] }); 8] });
        assert_eq!(RefusalBody::parse(large.to_string().as_bytes()).reasons.len(), 2);
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
            let said = RefusalBody::parse_plain_text(body.as_bytes());
            let message = said.reasons.first().and_then(|reason| reason.message.as_deref());
            assert_eq!((message, said.is_of_registry), (expected, false), "{body}");
        }
        assert!(RefusalBody::parse_plain_text(b"\xff\xfe").reasons.is_empty());
    }

    #[test]
    fn private_names_are_not_passed_on() {
        let private = PrivateNames { names: vec!["robot$ci".to_owned()], requested: vec!["team/app".to_owned()] };
        for (message, detail, told) in [
            ("no", json!([{ "Type": "repository", "Name": "team/app", "Action": "pull" }]), (true, true)),
            ("user ROBOT$ci has no rights", json!({ "name": "team/other" }), (false, false)),
            ("access to team/other denied", json!({ "Tag": "1" }), (false, true)),
            ("x", json!({ "robot$ci": 1 }), (true, false)),
        ] {
            let reason = Reason { code: None, message: Some(message.to_owned()), detail: detail.clone() };
            let refusal = Refusal { status: 403, reasons: vec![reason] }.without(&private);
            let left = refusal.reasons.into_iter().next().unwrap();
            assert_eq!((left.message.is_some(), left.detail == detail), told, "{message} {detail}");
        }
    }

    #[test]
    fn a_push_may_be_refused_for_each_of_many_blobs() {
        let entry = |number| json!({ "code": "MANIFEST_BLOB_UNKNOWN", "detail": { "digest": number } });
        let body = |count| json!({ "errors": (0..count).map(entry).collect::<Vec<_>>() }).to_string();
        let count = |count, most| RefusalBody::parse_within(body(count).as_bytes(), most).reasons.len();
        assert_eq!(
            (count(300, RefusalLimits::PUSH), count(5000, RefusalLimits::PUSH), count(300, RefusalLimits::PULL)),
            (300, 512, 8)
        );
    }

    #[test]
    fn realms_have_reasons_in_forms_of_their_own() {
        let text = |text: &str| Some(text.to_owned());
        for (body, expected) in [
            (r#"{"details":"incorrect username or password"}"#, Some((None, text("incorrect username or password")))),
            (r#"{"errors":[{"code":"DENIED","message":"no"}],"details":"x"}"#, Some((text("DENIED"), text("no")))),
            (r#"{"error":"invalid_grant","error_description":"it has expired"}"#, Some((None, text("it has expired")))),
            (r#"{"error":"Invalid\u001b user"}"#, Some((None, text("Invalid  user")))),
            (r#"{"message":1,"error":{"a":1}}"#, None),
            (r#"["details"]"#, None),
            ("{}", None),
            ("<html>", None),
            ("", None),
        ] {
            let said = RefusalBody::parse_realm(body.as_bytes());
            let told = said.reasons.into_iter().next().map(|reason| (reason.code, reason.message));
            assert_eq!(told, expected, "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body in "\\PC{0,60}", front in "(\\{\"errors\":\\[\\{\"code\":\"X\",\"message\":\")?") {
            let said = RefusalBody::parse(format!("{front}{body}").as_bytes());
            assert!(said.reasons.len() <= RefusalLimits::PULL.reasons);
        }
    }
}
