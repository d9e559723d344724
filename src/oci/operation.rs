//! What a request does: one of the endpoints of the distribution specification, or a request for a token.

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Base,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Catalog,
    Push,
    /// Asked of a token server; never of us.
    Token,
    /// No operation could be read off the request.
    Unknown,
}

impl Operation {
    pub const ALL: [Self; 9] = [
        Self::Base,
        Self::Manifest,
        Self::Blob,
        Self::Tags,
        Self::Referrers,
        Self::Catalog,
        Self::Push,
        Self::Token,
        Self::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Base => "base",
            Operation::Manifest => "manifest",
            Operation::Blob => "blob",
            Operation::Tags => "tags",
            Operation::Referrers => "referrers",
            Operation::Catalog => "catalog",
            Operation::Push => "push",
            Operation::Token => "token",
            Operation::Unknown => "unknown",
        }
    }
}
