//! The operation of a request: an endpoint of the distribution specification, or a request for a token.

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Base,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Catalog,
    Push,
    /// A request to a token realm; no client sends one to forebay.
    Token,
    /// The request names no known operation.
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
