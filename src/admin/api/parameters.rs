//! The parameters of a request: a closed set for each resource.

use url::form_urlencoded;

/// The longest query that is read, in bytes.
const MAX_QUERY: usize = 8 * 1024;

/// Why a query cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParameterError {
    #[error("the query is longer than {MAX_QUERY} bytes")]
    TooLong,
    #[error("there is no parameter {name:?} here; there are {}", .known.join(", "))]
    Unknown { name: String, known: &'static [&'static str] },
    #[error("there are no parameters here")]
    None,
    #[error("{0} is there twice")]
    Twice(&'static str),
}

/// Checks that a query has no other parameters than these, and each once.
///
/// # Errors
/// It has another one, or one twice.
pub(crate) fn check(query: Option<&str>, known: &'static [&'static str]) -> Result<(), ParameterError> {
    let query = query.unwrap_or_default();
    if query.len() > MAX_QUERY {
        return Err(ParameterError::TooLong);
    }
    let mut found: Vec<&'static str> = Vec::new();
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        let Some(name) = known.iter().find(|known| **known == name) else {
            let unknown = ParameterError::Unknown { name: name.into_owned(), known };
            return Err(if known.is_empty() { ParameterError::None } else { unknown });
        };
        if found.contains(name) {
            return Err(ParameterError::Twice(name));
        }
        found.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_known_parameters_once() {
        const KNOWN: &[&str] = &["match", "limit"];
        let problem = |query: &str| check(Some(query), KNOWN).err().map(|error| error.to_string());
        for (query, expected) in [
            ("", None),
            ("match=docker.io%2F*&limit=10", None),
            ("limit=1&limit=2", Some("limit is there twice")),
            ("limt=1", Some("there is no parameter \"limt\" here; there are match, limit")),
            ("=", Some("there is no parameter \"\" here; there are match, limit")),
        ] {
            assert_eq!(problem(query).as_deref(), expected, "{query}");
        }
        assert_eq!(check(None, KNOWN), Ok(()));
        assert_eq!(check(Some(&"x".repeat(MAX_QUERY + 1)), KNOWN), Err(ParameterError::TooLong));
        assert_eq!(check(Some("a"), &[]), Err(ParameterError::None));
    }
}
