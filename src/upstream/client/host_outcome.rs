//! What the result of a request says about its host, for the circuit breaker (pure).

use reqwest::Response;

use super::{
    super::{
        error::{Error, ErrorKind},
        failure_cause::FailureCause,
        head,
        mirrors::Mirrors,
    },
    circuit_breaker::{HostOutcome, open_circuit::Failure},
};

pub(super) fn of(result: &Result<Response, Error>) -> HostOutcome {
    let cause = |error: &Error| error.failure_cause().unwrap_or(FailureCause::Refused);
    match result {
        Ok(response) if !is_failure(response) => HostOutcome::Answered,
        Ok(response) => HostOutcome::Failed(Failure::Status(response.status())),
        Err(error) => match error.kind {
            ErrorKind::Unavailable | ErrorKind::Timeout if error.is_unreached() => {
                HostOutcome::Failed(Failure::NoConnection(cause(error)))
            }
            ErrorKind::Timeout => HostOutcome::Failed(Failure::NoResponse),
            ErrorKind::Unavailable => HostOutcome::Failed(Failure::Broken(cause(error))),
            _ => HostOutcome::Unknown,
        },
    }
}

/// Whether the response is that of a proxy whose backend does not respond. A mirror that cannot reach its upstream is
/// up, and a registry may announce a rate limit by 503.
fn is_failure(response: &Response) -> bool {
    let (status, headers) = (response.status().as_u16(), response.headers());
    matches!(status, 502..=504)
        && !(status == 503 && head::is_rate_limit(headers))
        && Mirrors::in_headers(headers).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_a_proxy_without_backend_are_failures() {
        let registry = ("docker-distribution-api-version", "registry/2.0");
        let (later, via) = (("retry-after", "5"), ("via", "1.1 forebay-3f2a"));
        for (status, headers, failed) in [
            (200, &[][..], false),
            (404, &[], false),
            (429, &[], false),
            (500, &[], false),
            (502, &[], true),
            (503, &[], true),
            (504, &[], true),
            (508, &[], false),
            (503, &[later], true),
            (503, &[registry], true),
            (503, &[registry, later], false),
            (503, &[("ratelimit-remaining", "0"), later], false),
            (502, &[registry, later], true),
            (503, &[via], false),
        ] {
            let response = headers.iter().fold(http::Response::builder().status(status), |response, (name, value)| {
                response.header(*name, *value)
            });
            assert_eq!(is_failure(&response.body("").unwrap().into()), failed, "{status} {headers:?}");
        }
    }
}
