//! The operation of a request: an endpoint of the distribution specification, a request for a token, or for the page.

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
    /// The page of the registry's port, or a part of it.
    Page,
    /// The request names no known operation.
    Unknown,
}

impl Operation {
    pub const ALL: [Self; 10] = [
        Self::Base,
        Self::Manifest,
        Self::Blob,
        Self::Tags,
        Self::Referrers,
        Self::Catalog,
        Self::Push,
        Self::Token,
        Self::Page,
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
            Operation::Page => "page",
            Operation::Unknown => "unknown",
        }
    }
}
