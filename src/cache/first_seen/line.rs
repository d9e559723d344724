//! A line of the file `first-seen` (pure): a tag in JSON, as its checks left it.
//!
//! `{"tag":"docker.io/library/node:22","seen":[{"class":"0f","present":"sha256:…","since":1,"checked":2,"eligible":…}]}`
//!
//! `"imported":true` stands in the line of a tag that came with an archive. The last line of a tag counts; one without classes forgets the tag. Times are in seconds since 1970; `since` is
//! `checked` without the age.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{
    checks::{ClassChecks, MAX_CLASSES, Present, TagChecks},
    tag_name::TagName,
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    tag: String,
    seen: Vec<ClassText>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    imported: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassText {
    class: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    present: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checked: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eligible: Option<String>,
}

/// The line of a tag, with its end.
pub(super) fn encode(name: &TagName, checks: &TagChecks) -> String {
    let seen = checks.classes.iter().map(class_text).collect();
    let text = Text { tag: name.to_string(), seen, imported: checks.is_imported };
    // Strings and numbers always have a form in JSON.
    let mut line = serde_json::to_string(&text).unwrap_or_default();
    line.push('\n');
    line
}

fn class_text(of_class: &ClassChecks) -> ClassText {
    let present = of_class.present.as_ref();
    let checked = present.map(|present| seconds(present.checked));
    let since = present.map(|present| seconds(present.checked).saturating_sub(present.age.as_secs()));
    ClassText {
        class: of_class.class.to_string(),
        present: present.map(|present| present.digest.to_string()),
        since,
        checked,
        eligible: of_class.eligible.as_ref().map(ToString::to_string),
    }
}

/// Reads a line without its end; `None` if it is not what [`encode`] makes.
pub(super) fn decode(line: &str) -> Option<(TagName, TagChecks)> {
    let text: Text = serde_json::from_str(line).ok()?;
    if text.seen.len() > MAX_CLASSES {
        return None;
    }
    let classes = text.seen.into_iter().map(class_checks).collect::<Option<_>>()?;
    Some((text.tag.parse().ok()?, TagChecks { classes, is_imported: text.imported }))
}

fn class_checks(text: ClassText) -> Option<ClassChecks> {
    let present = match (text.present, text.since, text.checked) {
        (None, None, None) => None,
        (Some(digest), Some(since), Some(checked)) => Some(Present {
            digest: digest.parse().ok()?,
            age: Duration::from_secs(checked.checked_sub(since)?),
            checked: UNIX_EPOCH.checked_add(Duration::from_secs(checked))?,
            steady: None,
        }),
        _ => return None,
    };
    let eligible = text.eligible.map(|digest| digest.parse()).transpose().ok()?;
    Some(ClassChecks { class: text.class.parse().ok()?, present, eligible })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn present(age: u64, checked: u64) -> Present {
        Present {
            digest: Digest::of(Algorithm::Sha512, b"content"),
            age: Duration::from_secs(age),
            checked: UNIX_EPOCH + Duration::from_secs(checked),
            steady: None,
        }
    }

    fn of_class(class: &str, present: Option<Present>, eligible: Option<&[u8]>) -> ClassChecks {
        let eligible = eligible.map(|content| Digest::of(Algorithm::Sha256, content));
        ClassChecks { class: class.parse().unwrap(), present, eligible }
    }

    #[test]
    fn lines_are_read_back() {
        for (name, seen) in [
            ("docker.io/library/node:22", vec![]),
            ("[::1]:5000/a:_", vec![of_class("0f", Some(present(7, 1_700_000_000)), None)]),
            ("harbor.lan:8443/a/b.c/d:v1", vec![of_class("80", None, Some(b"x")), of_class("40", None, None)]),
        ] {
            for is_imported in [false, true] {
                let (name, classes): (TagName, _) = (name.parse().unwrap(), seen.clone());
                let checks = TagChecks { classes, is_imported };
                let line = encode(&name, &checks);
                assert_eq!(line.contains("imported"), is_imported);
                assert_eq!(decode(line.strip_suffix('\n').unwrap()), Some((name, checks)), "{line}");
            }
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for line in [
            String::new(),
            "{}".to_owned(),
            r#"{"tag":"docker.io/a:1","seen":[],"more":1}"#.to_owned(),
            r#"{"tag":"docker.io/a","seen":[]}"#.to_owned(),
            r#"{"tag":"docker.io/A:1","seen":[]}"#.to_owned(),
            format!(r#"{{"tag":"docker.io/a:1","seen":[{{"class":"0f","present":"{digest}"}}]}}"#),
            format!(
                r#"{{"tag":"docker.io/a:1","seen":[{{"class":"0f","present":"{digest}","since":9,"checked":1}}]}}"#
            ),
            format!(r#"{{"tag":"docker.io/a:1","seen":[{{"class":"x","eligible":"{digest}"}}]}}"#),
        ] {
            assert_eq!(decode(&line), None, "{line}");
        }
        let checked =
            TagChecks { classes: vec![of_class("0f", Some(present(7, 1_700_000_000)), Some(b"x"))], is_imported: true };
        let whole = encode(&"docker.io/a:1".parse().unwrap(), &checked);
        for len in 0..whole.len() - 1 {
            assert_eq!(decode(&whole[..len]), None, "cut at {len}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in any::<String>(), at in any::<u64>(), since in any::<u64>()) {
            decode(&line);
            let digest = Digest::of(Algorithm::Sha256, b"x");
            decode(&format!(r#"{{"tag":"a.b/c:1","seen":[{{"class":"0f","present":"{digest}","since":{since},"checked":{at}}}]}}"#));
        }
    }
}
