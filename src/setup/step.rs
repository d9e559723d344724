//! One step of a guide.

use super::escape::shell;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A sentence to read.
    Note(String),
    /// What to write into a file.
    File { path: String, content: String },
    /// What to type.
    Command(String),
}

pub(super) fn note(text: &str) -> Step {
    Step::Note(text.to_owned())
}

pub(super) fn file(path: impl Into<String>, content: impl Into<String>) -> Step {
    Step::File { path: path.into(), content: content.into() }
}

pub(super) fn command(text: impl Into<String>) -> Step {
    Step::Command(text.into())
}

/// Fetching the CA, and putting it where a client looks for it.
pub(super) fn install_ca(path: &str) -> [Step; 2] {
    [
        note(
            "The certificate of forebay is signed by a private CA: save ca.crt from its page, compare its fingerprint, and install it.",
        ),
        command(format!("sudo install -D -m 644 ca.crt {}", shell(path))),
    ]
}
