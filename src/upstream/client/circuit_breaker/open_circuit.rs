//! Why a host gets no requests now, for the client's error and the log.

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::upstream::failure_cause::FailureCause;

/// How a request to a host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Failure {
    NoConnection(FailureCause),
    NoResponse,
    Broken(FailureCause),
    Status(StatusCode),
}

impl Failure {
    fn cause(self) -> FailureCause {
        match self {
            Self::NoConnection(cause) | Self::Broken(cause) => cause,
            Self::NoResponse => FailureCause::Timeout,
            Self::Status(_) => FailureCause::Status,
        }
    }
}

/// A host that has failed too often in a row, and gets no requests for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCircuit {
    /// For the log alone.
    pub(super) host: String,
    pub(super) failing_for: Duration,
    pub(super) last: Failure,
    pub(super) left: Duration,
}

impl OpenCircuit {
    /// The time until the host is probed.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// For how long the host has failed.
    pub fn failing_for(&self) -> Duration {
        self.failing_for
    }

    /// Why the last request failed.
    pub fn cause(&self) -> FailureCause {
        self.last.cause()
    }
}

impl fmt::Display for OpenCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, since, left) = (&self.host, self.failing_for.as_secs(), self.left.as_secs_f64().ceil());
        write!(f, "{host} has failed for {since} s (last: {}), and is tried again in {left} s", self.last)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection(_) => f.write_str("no connection could be made"),
            Self::NoResponse => f.write_str("no response came in time"),
            Self::Broken(_) => f.write_str("the connection broke before a response"),
            Self::Status(status) => write!(f, "the response was {}", status.as_u16()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_circuit_names_the_last_failure() {
        for (last, text, cause) in [
            (Failure::Status(StatusCode::BAD_GATEWAY), "the response was 502", FailureCause::Status),
            (Failure::NoResponse, "no response came in time", FailureCause::Timeout),
            (Failure::NoConnection(FailureCause::Dns), "no connection could be made", FailureCause::Dns),
            (Failure::Broken(FailureCause::Refused), "the connection broke before a response", FailureCause::Refused),
        ] {
            let (host, failing_for) = ("https://a.example".to_owned(), Duration::from_secs(12));
            let circuit = OpenCircuit { host, failing_for, last, left: Duration::from_millis(1200) };
            let text = format!("https://a.example has failed for 12 s (last: {text}), and is tried again in 2 s");
            assert_eq!((circuit.to_string(), circuit.cause()), (text, cause));
        }
    }
}
