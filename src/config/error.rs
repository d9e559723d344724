//! Why forebay refuses a configuration: where, which key, what is wrong, and what to write instead.
//!
//! The text is for the operator who wrote the file, so it is complete: the message includes an I/O cause, which is not
//! left to a `source()` that a caller may forget to print.

use std::{fmt, path::Path, sync::Arc};

use super::printable::printable;

/// A file with more mistakes than this is another program's; the rest is not told.
pub(super) const MAX_MISTAKES: usize = 100;

/// Why a configuration is refused: its mistakes, in the order of the file, then those of variables and flags. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Vec<Mistake>);

/// One thing that is wrong, or that forebay warns of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub(super) place: Place,
    pub(super) key: Option<Key>,
    pub(super) problem: String,
}

/// Where a value of the configuration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: the value is a default.
    Default,
    /// `position` is `None` for the file as a whole.
    File { file: Arc<Path>, position: Option<Position> },
    /// The environment, by the name of the variable.
    Variable(Arc<str>),
    /// The command line, by the name of the flag.
    Flag(Arc<str>),
    /// The limit of open files, which lowered it.
    Limit,
}

impl Error {
    /// Each of these mistakes once; `None` without mistakes.
    pub fn of(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort_by_key(|mistake| mistake.place.order());
        mistakes.dedup();
        mistakes.truncate(MAX_MISTAKES);
        mistakes.iter_mut().for_each(Mistake::make_printable);
        if mistakes.is_empty() { None } else { Some(Self(mistakes)) }
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.0
    }

    /// All that is wrong, in the order of the file.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0
    }

    /// The place in the file of the first mistake, if it has one.
    pub fn position(&self) -> Option<Position> {
        self.0.first()?.position()
    }

    /// The key of the first mistake: its full path, such as `upstream[1].urls[0]`, or the flag, such as `--max-size`.
    pub fn key(&self) -> Option<&str> {
        self.0.first()?.key()
    }

    /// What is wrong first, and how to correct it.
    pub fn problem(&self) -> &str {
        self.0.first().map_or("", Mistake::problem)
    }
}

impl From<Mistake> for Error {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl fmt::Display for Error {
    /// A line for each mistake.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Mistake {
    /// Something wrong that is not the value of a key.
    pub fn of_no_key(problem: impl Into<String>) -> Self {
        Self { place: Place::Default, key: None, problem: problem.into() }
    }

    fn make_printable(&mut self) {
        self.problem = printable(&self.problem).into_owned();
        self.key = self.key.take().map(|Key(key)| Key(printable(&key).into_owned()));
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The place in the file, if the mistake is in it.
    pub fn position(&self) -> Option<Position> {
        match &self.place {
            Place::File { position, .. } => *position,
            Place::Default | Place::Variable(_) | Place::Flag(_) | Place::Limit => None,
        }
    }

    /// The key's full path, or the flag.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().map(Key::as_str)
    }

    /// What is wrong, and how to correct it.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Mistake {
    /// `forebay.toml:12:8: upstream[1].urls[0]: must be …`, without the parts that are not known. A variable and a flag
    /// say the key by their name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, &self.key) {
            (Place::File { .. }, Some(key)) => write!(f, "{}: {key}: {}", self.place, self.problem),
            (Place::Default, Some(key)) => write!(f, "{key}: {}", self.problem),
            (Place::Default, None) => f.write_str(&self.problem),
            (place, _) => write!(f, "{place}: {}", self.problem),
        }
    }
}

impl Place {
    /// The file first, from its top; then variables and flags in the order in which they were found.
    fn order(&self) -> (u8, Option<Position>) {
        match self {
            Self::Default => (0, None),
            Self::File { position, .. } => (1, *position),
            Self::Variable(_) => (2, None),
            Self::Flag(_) => (3, None),
            Self::Limit => (4, None),
        }
    }
}

impl fmt::Display for Place {
    /// `forebay.toml:12:8`, `FOREBAY_SERVER__LISTEN`, `--listen`, `the limit of open files`, or `default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, position: None } => write!(f, "{}", file.display()),
            Self::File { file, position: Some(Position { line, column }) } => {
                write!(f, "{}:{line}:{column}", file.display())
            }
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
            Self::Limit => f.write_str("the limit of open files"),
        }
    }
}

/// A place in the file; both count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A key's full path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    pub fn item(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The table or array that contains this key.
    pub fn parent(&self) -> Option<Self> {
        self.0.rfind(['.', '[']).map(|end| Self(self.0[..end].to_owned()))
    }

    /// The key without the indices at its end: the list of an item.
    pub(super) fn list(&self) -> Self {
        let mut key = self.0.as_str();
        while let Some((list, _)) = key.strip_suffix(']').and_then(|item| item.rsplit_once('[')) {
            key = list;
        }
        Self(key.to_owned())
    }

    /// The last name of the path, as it stands in the file in front of `=`.
    pub(super) fn name(&self) -> &str {
        let name = self.0.rsplit_once('.').map_or(&*self.0, |(_, name)| name);
        name.split_once('[').map_or(name, |(name, _)| name)
    }

    /// Whether `other` is this key, or below it.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(&self.0)
            .is_some_and(|rest| self.0.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a flag of the command line rather than a key of the file.
    pub fn is_flag(&self) -> bool {
        self.0.starts_with('-')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_know_their_parts() {
        for (key, list, name) in [
            ("server.listen", "server.listen", "listen"),
            ("server.listen[1]", "server.listen", "listen"),
            ("upstream[0]", "upstream", "upstream"),
            ("upstream[12].urls[3]", "upstream[12].urls", "urls"),
            ("upstream[12].urls", "upstream[12].urls", "urls"),
            ("a[0][1]", "a", "a"),
        ] {
            let key = Key::new(key);
            assert_eq!((key.list().as_str(), key.list().name()), (list, name), "{key}");
        }
        let key = Key::new("server.tls");
        for (other, inside) in
            [("server.tls", true), ("server.tls.key", true), ("server.tlsx", false), ("server", false)]
        {
            assert_eq!(key.contains(&Key::new(other)), inside, "{other}");
        }
    }

    #[test]
    fn mistakes_are_told_in_the_order_of_the_file() {
        let at = |line| Place::File { file: Path::new("f").into(), position: Some(Position { line, column: 1 }) };
        let mistake = |place: Place| Mistake { place, key: Some(Key::new("a.b")), problem: "wrong".to_owned() };
        let mut mistakes = vec![mistake(Place::Flag("--x".into())), mistake(Place::Variable("X".into()))];
        mistakes.extend([12, 2].map(|line| mistake(at(line))));
        let error = Error::of(mistakes).unwrap();
        assert_eq!(error.to_string(), "f:2:1: a.b: wrong\nf:12:1: a.b: wrong\nX: wrong\n--x: wrong");
        assert_eq!(Error::of(Vec::new()), None);
        let many = (1..=500).map(|line| mistake(at(line))).collect();
        assert_eq!(Error::of(many).unwrap().mistakes().len(), MAX_MISTAKES);
        assert_eq!(Error::of(vec![mistake(at(1)); 2]).unwrap().mistakes().len(), 1, "each is told once");
    }
}
