//! Why a host gets no requests now, for the client's error and the log.

use std::{fmt, time::Duration};

use http::StatusCode;

/// How a request to a host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Failure {
    NoConnection,
    NoResponse,
    Broken,
    Status(StatusCode),
}

/// A host that has failed too often in a row, and gets no requests for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCircuit {
    /// `None`: clients must not see its name.
    pub(super) host: Option<String>,
    pub(super) failing_for: Duration,
    pub(super) last: Failure,
    pub(super) left: Duration,
}

impl OpenCircuit {
    /// The time until the host is probed.
    pub fn left(&self) -> Duration {
        self.left
    }

    pub(in crate::upstream) fn without_host(self) -> Self {
        Self { host: None, ..self }
    }
}

impl fmt::Display for OpenCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("its host");
        let (since, left) = (self.failing_for.as_secs(), self.left.as_secs_f64().ceil());
        write!(f, "{host} has failed for {since} s (last: {}), and is tried again in {left} s", self.last)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection => f.write_str("no connection could be made"),
            Self::NoResponse => f.write_str("no response came in time"),
            Self::Broken => f.write_str("the connection broke before a response"),
            Self::Status(status) => write!(f, "the response was {}", status.as_u16()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_circuit_names_the_last_failure() {
        let (host, last) = (Some("https://a.example".to_owned()), Failure::Status(StatusCode::BAD_GATEWAY));
        let (failing_for, left) = (Duration::from_secs(12), Duration::from_millis(1200));
        let circuit = OpenCircuit { host, failing_for, last, left };
        let text = "https://a.example has failed for 12 s (last: the response was 502), and is tried again in 2 s";
        assert_eq!(circuit.to_string(), text);
        assert_eq!(circuit.without_host().to_string(), text.replace("https://a.example", "its host"));
    }
}
