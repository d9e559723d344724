//! Addresses to listen on, as people write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address to listen on: `127.0.0.1:5000`, `[::1]:5000`, `localhost:5000`, or `:5000` for all addresses of the machine,
/// IPv4 and IPv6.
///
/// # Errors
/// A sentence that says what to write.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match (host, port.parse::<u16>()) {
        ("", Ok(port)) if digits => Ok((Ipv6Addr::UNSPECIFIED, port).into()),
        (host, Ok(port)) if digits && host.eq_ignore_ascii_case("localhost") => Ok((Ipv4Addr::LOCALHOST, port).into()),
        _ => Err(problem(text, host, port, digits)),
    }
}

fn problem(text: &str, host: &str, port: &str, digits: bool) -> String {
    if text.contains("://") {
        return format!("must be an address and a port, without https:// or http://, not {text:?}");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return format!(
            "write \":{text}\" for all addresses of this machine, or \"127.0.0.1:{text}\" for clients on it"
        );
    }
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => return format!("has no port: write \"{ip}:5000\""),
        Ok(IpAddr::V6(ip)) => return format!("has no port: write \"[{ip}]:5000\""),
        Err(_) => {}
    }
    if digits && port.parse::<u16>().is_err() {
        return format!("the port {port} is above 65535");
    }
    if host == "*" && digits {
        return format!("write \":{port}\" for all addresses of this machine");
    }
    if text.eq_ignore_ascii_case("localhost") {
        return "has no port: write \"localhost:5000\"".to_owned();
    }
    let is_name = host.bytes().any(|byte| byte.is_ascii_alphabetic()) && !host.contains([':', '/', ' ']);
    if is_name && digits {
        return format!(
            "{host:?} is a name, which may get another address: write the address, or \":{port}\" for all of this machine"
        );
    }
    format!("must be ADDRESS:PORT, such as \"127.0.0.1:5000\", or \":5000\" for all addresses, not {text:?}")
}

/// Whether a listener on `one` also gets the connections to `other`: then the second cannot be bound.
pub(super) fn covers(one: SocketAddr, other: SocketAddr) -> bool {
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    match (one.ip(), other.ip()) {
        (one, other) if one == other => true,
        // Beside 0.0.0.0, [::] is bound for IPv6 only.
        (IpAddr::V6(one), IpAddr::V4(other)) => one.is_unspecified() && !other.is_unspecified(),
        (one, other) => one.is_unspecified() && one.is_ipv4() == other.is_ipv4(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, address) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            (":5000", "[::]:5000"),
            (":0", "[::]:0"),
            ("localhost:5000", "127.0.0.1:5000"),
            ("LocalHost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(parse_address(text), Ok(address.parse().unwrap()), "{text}");
        }
        for (text, said) in [
            ("5000", "write \":5000\""),
            ("localhost", "write \"localhost:5000\""),
            ("10.0.0.1", "write \"10.0.0.1:5000\""),
            ("::1", "write \"[::1]:5000\""),
            ("[::1]", "write \"[::1]:5000\""),
            ("*:5000", "write \":5000\""),
            ("mirror.lan:5000", "write the address, or \":5000\""),
            ("http://127.0.0.1:5000", "without https:// or http://"),
            (":65536", "above 65535"),
            (":+1", "must be ADDRESS:PORT"),
            (":", "must be ADDRESS:PORT"),
            ("", "must be ADDRESS:PORT"),
            ("é", "must be ADDRESS:PORT"),
        ] {
            let problem = parse_address(text).unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }

    #[test]
    fn one_listener_covers_another() {
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::]:1", "0.0.0.0:1", false),
            ("0.0.0.0:1", "[::1]:1", false),
        ] {
            assert_eq!(covers(one.parse().unwrap(), other.parse().unwrap()), expected, "{one} {other}");
        }
    }
}
