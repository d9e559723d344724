//! The parameters of a request: a closed set for each resource.

use std::{fmt::Display, time::Duration};

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
    #[error("{name}={value:?}: {problem}")]
    Value { name: &'static str, value: String, problem: String },
}

/// The values by name.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// Reads a query that may have each of these parameters once.
    ///
    /// # Errors
    /// It has another one, or one twice.
    pub(crate) fn parse(query: Option<&str>, known: &'static [&'static str]) -> Result<Self, ParameterError> {
        let Self(values) = Self::parse_repeated(query, known)?;
        let is_twice = |name: &&&str| values.iter().filter(|(other, _)| *other == **name).count() > 1;
        match known.iter().find(is_twice) {
            Some(name) => Err(ParameterError::Twice(name)),
            None => Ok(Self(values)),
        }
    }

    /// Reads a query that may have each of these parameters any number of times.
    ///
    /// # Errors
    /// It has another one.
    pub(crate) fn parse_repeated(query: Option<&str>, known: &'static [&'static str]) -> Result<Self, ParameterError> {
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY {
            return Err(ParameterError::TooLong);
        }
        let mut values: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(name) = known.iter().find(|known| **known == name) else {
                let unknown = ParameterError::Unknown { name: name.into_owned(), known };
                return Err(if known.is_empty() { ParameterError::None } else { unknown });
            };
            values.push((name, value.into_owned()));
        }
        Ok(Self(values))
    }

    pub(crate) fn text(&self, name: &'static str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// All values of a parameter, in their order.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// `errors`, `errors=true` or `errors=false`; absent is false.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, ParameterError> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(value) => Err(wrong(name, value, "write true or false")),
        }
    }

    /// A value that `read` takes.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn value<T, E: Display>(
        &self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ParameterError> {
        self.text(name).map(|value| read(value).map_err(|error| wrong(name, value, &error.to_string()))).transpose()
    }

    /// A number from 1 to `most`.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn count(&self, name: &'static str, most: usize) -> Result<Option<usize>, ParameterError> {
        self.value(name, |value| match value.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(format!("write a number from 1 to {most}")),
        })
    }

    /// A duration such as `5s`.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn duration(&self, name: &'static str) -> Result<Option<Duration>, ParameterError> {
        self.value(name, |value| humantime::parse_duration(value).map_err(|_| "write a duration such as 5s or 30m"))
    }
}

fn wrong(name: &'static str, value: &str, problem: &str) -> ParameterError {
    let value = value.get(..value.floor_char_boundary(100)).unwrap_or_default();
    ParameterError::Value { name, value: value.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_known_parameters_once() {
        const KNOWN: &[&str] = &["match", "limit"];
        let problem = |query: &str| Parameters::parse(Some(query), KNOWN).err().map(|error| error.to_string());
        for (query, expected) in [
            ("", None),
            ("match=docker.io%2F*&limit=10", None),
            ("limit=1&limit=2", Some("limit is there twice")),
            ("limt=1", Some("there is no parameter \"limt\" here; there are match, limit")),
            ("=", Some("there is no parameter \"\" here; there are match, limit")),
        ] {
            assert_eq!(problem(query).as_deref(), expected, "{query}");
        }
        assert!(Parameters::parse(None, KNOWN).is_ok());
        assert_eq!(Parameters::parse(Some(&"x".repeat(MAX_QUERY + 1)), KNOWN).unwrap_err(), ParameterError::TooLong);
        assert_eq!(Parameters::parse(Some("a"), &[]).unwrap_err(), ParameterError::None);
    }

    #[test]
    fn a_wrong_value_is_told_with_what_is_possible() {
        let parse = |query: &str| Parameters::parse(Some(query), &["limit", "errors", "slower"]).unwrap();
        let right = parse("limit=9&errors&slower=1m30s");
        assert_eq!((right.count("limit", 9), right.flag("errors")), (Ok(Some(9)), Ok(true)));
        assert_eq!(right.duration("slower"), Ok(Some(Duration::from_secs(90))));
        let none = parse("");
        assert_eq!((none.text("limit"), none.flag("errors"), none.duration("slower")), (None, Ok(false), Ok(None)));
        let wrong = parse("limit=0&errors=maybe&slower=5");
        for (problem, expected) in [
            (wrong.count("limit", 9).unwrap_err(), "limit=\"0\": write a number from 1 to 9"),
            (wrong.flag("errors").unwrap_err(), "errors=\"maybe\": write true or false"),
            (wrong.duration("slower").unwrap_err(), "slower=\"5\": write a duration such as 5s or 30m"),
        ] {
            assert_eq!(problem.to_string(), expected);
        }
    }
}
