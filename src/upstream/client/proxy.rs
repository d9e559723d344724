//! The proxy of the environment.
//!
//! What must hold: a value that cannot be used is refused, since reqwest would ignore it, and connect directly.

use std::{
    ffi::{OsStr, OsString},
    net::Ipv6Addr,
};

use http::Uri;

/// The variables of proxies; of each pair the first that is set counts.
pub(in crate::upstream) const VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A variable with an invalid value, which is not shown since it may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {variable} must be a proxy's URL, such as \"http://proxy.lan:3128\", or empty: {why}"
)]
pub struct ProxyError {
    variable: &'static str,
    why: &'static str,
}

/// Checks all variables.
///
/// # Errors
/// The first invalid one.
pub fn check() -> Result<(), ProxyError> {
    check_each(|variable| std::env::var_os(variable))
}

fn check_each(value: impl Fn(&str) -> Option<OsString>) -> Result<(), ProxyError> {
    for variable in VARIABLES {
        if let Some(value) = value(variable) {
            judge(&value).map_err(|why| ProxyError { variable, why })?;
        }
    }
    Ok(())
}

fn judge(value: &OsStr) -> Result<(), &'static str> {
    let value = value.to_str().ok_or("it is not UTF-8 text")?;
    if value.is_empty() {
        return Ok(());
    }
    let uri: Uri = value.parse().map_err(|_| "it is no URL")?;
    match uri.scheme_str() {
        // Without a scheme, the value is a host, perhaps with a port.
        Some("http" | "https") | None => {}
        Some(_) => return Err("only http:// and https:// proxies can be used"),
    }
    let authority = uri.authority().ok_or("it has no host")?;
    let host_and_port = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    let port = host_and_port.strip_prefix(authority.host()).ok_or("it is no URL")?;
    let is_name = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let address = authority.host().strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match address {
        None if authority.host().is_empty() => return Err("it has no host"),
        None if !is_name(authority.host()) => return Err("its host is no name"),
        Some(address) if address.parse::<Ipv6Addr>().is_err() => return Err("its host is no address"),
        None | Some(_) => {}
    }
    if !port.is_empty() && authority.port_u16().unwrap_or_default() == 0 {
        return Err("its port is no port");
    }
    // A single word is more likely to mean something else, such as `none`.
    if uri.scheme().is_none() && port.is_empty() && !authority.host().contains('.') {
        return Err("it has neither http:// nor a port");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_proxies_are_refused() {
        for value in [
            "",
            "http://proxy.lan:3128",
            "http://proxy.lan:3128/",
            "HTTP://proxy.lan",
            "https://user:pw@proxy.lan",
            "proxy.lan:3128",
            "proxy.lan",
            "user:pw@proxy.lan:3128",
            "http://192.0.2.1",
            "http://proxy",
            "proxy:3128",
            "http://[2001:db8::1]:3128",
        ] {
            assert_eq!(judge(value.as_ref()), Ok(()), "{value}");
        }
        for value in [
            " ",
            "no proxy",
            "http://",
            "http:///path",
            "/path",
            ":3128",
            "http://:3128",
            "http://proxy.lan:port",
            "http://proxy.lan:0",
            "http://proxy.lan:",
            "http://proxy.lan:99999",
            "proxy.lan:99999",
            "http://proxy lan",
            "http:proxy.lan",
            "socks5://proxy.lan:1080",
            "ftp://proxy.lan",
            "http://[2001:db8::1",
            "*",
            "none",
            "none!",
            "::garbage::",
            "http://pro!xy.lan",
            "http://[proxy.lan]",
            "\u{fffd}",
        ] {
            assert!(judge(value.as_ref()).is_err(), "{value}");
        }
    }

    #[test]
    fn each_variable_is_checked_and_no_value_is_shown() {
        for variable in VARIABLES {
            let error = check_each(|name| (name == variable).then(|| "http://me:hunter2@".into())).unwrap_err();
            assert!(error.to_string().contains(variable) && !error.to_string().contains("hunter2"), "{error}");
        }
        assert_eq!(check_each(|_| None), Ok(()));
    }
}
