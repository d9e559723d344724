//! A registry's name, as image names begin with it.

use url::Host;

/// Whether a text is `HOST` or `HOST:PORT` in lower case. A path, a pattern or a URL is not.
pub(super) fn is_authority(text: &str) -> bool {
    let end_of_host = if text.starts_with('[') { text.find(']').map(|end| end + 1) } else { text.find(':') };
    let (host, port) = text.split_at(end_of_host.unwrap_or(text.len()));
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => !digits.starts_with(['+', '0']) && digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let labels_are_good = host.starts_with('[')
        || host.split('.').all(|label| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            label.bytes().all(inner) && outer(label.bytes().next()) && outer(label.bytes().next_back())
        });
    port_is_good && labels_are_good && host.len() <= 253 && Host::parse(host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["docker.io", "localhost", "harbor.lan:8443", "10.0.0.1:5000", "[::1]:5000", "[::1]", "a-b.c_d.e"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":5000",
            "a:",
            "a:x",
            "a:0",
            "a:70000",
            "a:+1",
            "a/b",
            "https://a",
            "*.a",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "..",
            "a b",
            "user@a",
            "[::1",
            "[::1]x",
            "[g]",
            "a%2f",
            "::1",
            "a?b",
            "\0",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
