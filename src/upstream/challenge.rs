//! `WWW-Authenticate`: how an upstream wants to be asked.
//!
//! The grammar is one list of challenges, each with a list of parameters, both with the same comma; only what
//! follows a word tells whether it names a scheme or a parameter. One header that cannot be read, or one scheme
//! that is not known, must not hide its neighbours. Whether a realm may see a credential is left to `token`.
//!
//! Source: RFC 9110 section 11.6.1; RFC 6750 section 3 for Bearer; RFC 7617 for Basic.

use http::HeaderValue;

use crate::oci::is_token_byte;

/// How many bytes of headers are read, in all.
const MAX_BYTES: usize = 16 * 1024;
/// How many challenges are read.
const MAX_CHALLENGES: usize = 16;

/// One way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    Bearer(Bearer),
    Basic {
        realm: Option<String>,
    },
    /// A scheme that forebay does not speak, or a Bearer that does not say where tokens are had.
    Other(String),
}

/// Where a token is to be had, and for what. A parameter that is present but empty counts as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The URL to ask, as it was sent.
    pub realm: String,
    pub service: Option<String>,
    /// As sent: it may ask for more than is needed.
    pub scope: Option<String>,
    /// Why the token that was sent is not good enough: `invalid_token`, `insufficient_scope`.
    pub error: Option<String>,
}

/// All challenges of all `WWW-Authenticate` headers of one answer, in their order.
pub fn parse<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Vec<Challenge> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut budget = MAX_BYTES;
    for value in values {
        let bytes = value.as_bytes();
        let Some(rest) = budget.checked_sub(bytes.len()) else { break };
        budget = rest;
        Reader { bytes, at: 0 }.read_into(&mut drafts);
        if drafts.len() > MAX_CHALLENGES {
            break;
        }
    }
    drafts.truncate(MAX_CHALLENGES);
    drafts.into_iter().map(Challenge::from).collect()
}

/// A challenge being read. Of a parameter that comes twice, the first counts.
#[derive(Default)]
struct Draft {
    scheme: String,
    realm: Option<String>,
    service: Option<String>,
    scope: Option<String>,
    error: Option<String>,
}

impl Draft {
    fn set(&mut self, name: &str, value: String) {
        let slot = match name.to_ascii_lowercase().as_str() {
            "realm" => &mut self.realm,
            "service" => &mut self.service,
            "scope" => &mut self.scope,
            "error" => &mut self.error,
            _ => return,
        };
        slot.get_or_insert(value);
    }
}

impl From<Draft> for Challenge {
    fn from(draft: Draft) -> Self {
        let present = |value: Option<String>| value.filter(|value| !value.is_empty());
        if draft.scheme.eq_ignore_ascii_case("basic") {
            return Self::Basic { realm: draft.realm };
        }
        match present(draft.realm) {
            Some(realm) if draft.scheme.eq_ignore_ascii_case("bearer") => Self::Bearer(Bearer {
                realm,
                service: present(draft.service),
                scope: present(draft.scope),
                error: present(draft.error),
            }),
            _ => Self::Other(draft.scheme),
        }
    }
}

/// Reads one header value from its start to its end; every step moves forward.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn read_into(mut self, drafts: &mut Vec<Draft>) {
        loop {
            self.skip(|byte| matches!(byte, b' ' | b'\t' | b','));
            if self.peek().is_none() || drafts.len() > MAX_CHALLENGES {
                return;
            }
            let word = self.take(is_token_byte);
            if word.is_empty() {
                // Nothing can begin here: what follows the next comma may still make sense.
                self.skip(|byte| byte != b',');
                continue;
            }
            if self.equals_sign() {
                let value = self.value();
                if let (Some(draft), Some(value)) = (drafts.last_mut(), value) {
                    draft.set(&word, value);
                }
                continue;
            }
            drafts.push(Draft { scheme: word, ..Draft::default() });
            self.skip_token68();
        }
    }

    /// Takes `BWS "=" BWS`.
    fn equals_sign(&mut self) -> bool {
        let start = self.at;
        self.skip_space();
        if self.peek() == Some(b'=') {
            self.at += 1;
            self.skip_space();
            return true;
        }
        self.at = start;
        false
    }

    /// A parameter's value: a quoted string, or whatever reaches to the next comma or space, since realms are
    /// seen without their quotes. `None` for a quoted string that does not end; it ends with the header.
    fn value(&mut self) -> Option<String> {
        if self.peek() != Some(b'"') {
            return Some(self.take(|byte| !matches!(byte, b' ' | b'\t' | b',')));
        }
        self.at += 1;
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return Some(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                byte => text.push(byte),
            }
        }
        None
    }

    /// Takes a token68 (`Negotiate abc==`), which stands alone between its scheme and the next comma.
    fn skip_token68(&mut self) {
        let start = self.at;
        self.skip_space();
        self.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'));
        self.skip(|byte| byte == b'=');
        self.skip_space();
        if !matches!(self.peek(), None | Some(b',')) {
            self.at = start;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn skip(&mut self, want: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&want) {
            self.at += 1;
        }
    }

    fn take(&mut self, want: impl Fn(u8) -> bool) -> String {
        let start = self.at;
        self.skip(want);
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }
}
