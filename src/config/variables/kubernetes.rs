//! Names of variables that Kubernetes sets (pure).

/// Whether Kubernetes gives this name to the pods beside a Service called `forebay`, or `forebay-…`.
///
/// Source: kubernetes.io, "Service", Environment variables; Docker's links, whose names it keeps.
pub(super) fn is_of_kubernetes(name: &str, value: &str) -> bool {
    if name == "PORT" || name.ends_with("_PORT") && value.contains("://") {
        return true;
    }
    if name.contains("__") {
        return false;
    }
    let is_at_a_word = |start: usize| start == 0 || name.as_bytes().get(start - 1) == Some(&b'_');
    let mut words = ["SERVICE_HOST", "SERVICE_PORT"].into_iter().flat_map(|word| name.match_indices(word));
    if words.any(|(start, word)| {
        let rest = name.get(start + word.len()..).unwrap_or_default();
        is_at_a_word(start) && (rest.is_empty() || word == "SERVICE_PORT" && rest.starts_with('_'))
    }) {
        return true;
    }
    let mut ports = name.match_indices("PORT_").filter(|(start, _)| is_at_a_word(*start));
    ports.any(|(start, word)| {
        let rest = name.get(start + word.len()..).unwrap_or_default();
        let mut parts = rest.split('_');
        let number = parts.next().unwrap_or_default();
        let protocol = parts.next().unwrap_or_default();
        let what = parts.next();
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(protocol, "TCP" | "UDP" | "SCTP")
            && matches!(what, None | Some("ADDR" | "PORT" | "PROTO"))
            && parts.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kubernetes_are_ignored() {
        for (name, value, is_ignored) in [
            ("SERVICE_HOST", "10.0.0.1", true),
            ("SERVICE_PORT", "5000", true),
            ("SERVICE_PORT_REGISTRY", "5000", true),
            ("PORT", "tcp://10.0.0.1:5000", true),
            ("PORT_5000_TCP", "tcp://10.0.0.1:5000", true),
            ("PORT_5000_TCP_ADDR", "10.0.0.1", true),
            ("PORT_5000_TCP_PORT", "5000", true),
            ("PORT_5000_TCP_PROTO", "tcp", true),
            ("PORT_5353_UDP_PORT", "5353", true),
            ("ADMIN_SERVICE_HOST", "10.0.0.1", true),
            ("ADMIN_PORT_5001_TCP_ADDR", "10.0.0.1", true),
            ("ADMIN_PORT", "tcp://10.0.0.1:5001", true),
            ("ADMIN_PORT", "5001", false),
            ("PORT_X_TCP", "", false),
            ("PORT_5000", "", false),
            ("SERVICE_HOSTS", "", false),
            ("MICROSERVICE_HOST", "", false),
            ("UPSTREAM__A_SERVICE_PORT__URLS", "", false),
            ("SERVER__LISTEN", ":5000", false),
        ] {
            assert_eq!(is_of_kubernetes(name, value), is_ignored, "{name}={value}");
        }
    }
}
