//! The name of this instance in `Via`, by which forebay finds a loop of mirrors.
//!
//! What must hold: a request that this instance sent is refused when it comes back.
//!
//! Source: RFC 9110 section 7.6.3.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderValue, header};

use crate::{error::ErrorKind, request_id::RequestId};

/// How this process names itself and its requests.
pub(crate) struct Instance {
    number: u32,
    /// The received-by part of `Via`. Each process has its own, so that a mirror behind a mirror is no loop.
    pseudonym: Arc<str>,
    via: HeaderValue,
    requests: AtomicU64,
}

impl Instance {
    pub(crate) fn new(number: u32) -> Self {
        let pseudonym: Arc<str> = format!("forebay-{number:08x}").into();
        let via = HeaderValue::try_from(via(&pseudonym)).unwrap_or(HeaderValue::from_static("1.1 forebay"));
        Self { number, pseudonym, via, requests: AtomicU64::new(0) }
    }

    pub(crate) fn pseudonym(&self) -> &Arc<str> {
        &self.pseudonym
    }

    /// The `Via` of every response.
    pub(super) fn via(&self) -> &HeaderValue {
        &self.via
    }

    pub(super) fn next_id(&self) -> RequestId {
        RequestId { instance: self.number, number: self.requests.fetch_add(1, Ordering::Relaxed) }
    }

    /// # Errors
    /// This instance sent the request: it has gone in a loop.
    pub(super) fn refuse_loop(&self, headers: &HeaderMap) -> Result<(), ErrorKind> {
        let is_own = |value: &HeaderValue| {
            value.to_str().is_ok_and(|hops| {
                hops.split(',').any(|hop| hop.split_ascii_whitespace().nth(1) == Some(&*self.pseudonym))
            })
        };
        if headers.get_all(header::VIA).iter().any(is_own) { Err(ErrorKind::Loop) } else { Ok(()) }
    }
}

/// The `Via` of an instance.
pub(crate) fn via(pseudonym: &str) -> String {
    format!("1.1 {pseudonym}")
}

/// All `Via` lines of a request in one. Source: RFC 9110 section 5.2.
pub(super) fn joined(headers: &HeaderMap) -> Option<HeaderValue> {
    let hops: Vec<&[u8]> = headers.get_all(header::VIA).iter().map(HeaderValue::as_bytes).collect();
    if hops.is_empty() { None } else { HeaderValue::from_bytes(&hops.join(&b", "[..])).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_of_this_instance_are_loops() {
        let instance = Instance::new(0xbeef);
        for (lines, is_loop) in [
            (&[][..], false),
            (&["1.1 forebay-0000beef"], true),
            (&["1.1 proxy, 1.1 forebay-0000beef (x)"], true),
            (&["1.1 proxy", "HTTP/2 forebay-0000beef"], true),
            (&["1.1 forebay-0000beee"], false),
            (&["forebay-0000beef"], false),
        ] {
            let headers = lines.iter().map(|line| (header::VIA, HeaderValue::from_static(line))).collect();
            assert_eq!(instance.refuse_loop(&headers).is_err(), is_loop, "{lines:?}");
        }
    }

    #[test]
    fn via_lines_are_joined_by_commas() {
        let lines = ["1.1 a", "1.1 b, 1.1 c"].map(|line| (header::VIA, HeaderValue::from_static(line)));
        assert_eq!(joined(&HeaderMap::from_iter(lines)).unwrap(), "1.1 a, 1.1 b, 1.1 c");
        assert_eq!(joined(&HeaderMap::new()), None);
    }
}
