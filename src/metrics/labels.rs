//! The sets that labels are taken from: closed, small, and spelled the same in the log.

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the cache.
    Hit,
    /// From a download that somebody else had begun.
    Joined,
    /// From a download begun for this request.
    Miss,
    /// From the cache, too old to be trusted, because the upstream could not answer.
    Stale,
    /// From the cache, after the upstream said it is still so.
    Revalidated,
    /// Without the cache: what is never cached, and errors.
    Bypass,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = Self::Bypass as usize + 1;

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Joined => "joined",
            Outcome::Miss => "miss",
            Outcome::Stale => "stale",
            Outcome::Revalidated => "revalidated",
            Outcome::Bypass => "bypass",
        }
    }
}

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
    /// How many there are.
    pub const COUNT: usize = Self::Unknown as usize + 1;

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

/// How asking for a token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenResult {
    Fetched,
    /// The token server said no.
    Refused,
    /// The token server could not be asked, or answered nonsense.
    Failed,
}

impl TokenResult {
    pub const ALL: [Self; 3] = [Self::Fetched, Self::Refused, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            TokenResult::Fetched => "fetched",
            TokenResult::Refused => "refused",
            TokenResult::Failed => "failed",
        }
    }
}

/// How a download into the cache ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownloadResult {
    Complete,
    /// The bytes are not those of the digest.
    Mismatch,
    UpstreamFailed,
    StorageFailed,
    /// It streams through: larger than the cache, or everything in the cache is being read.
    NoRoom,
    /// Nobody was left who wanted it.
    Abandoned,
}

impl DownloadResult {
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::Mismatch, Self::UpstreamFailed, Self::StorageFailed, Self::NoRoom, Self::Abandoned];

    pub fn as_str(self) -> &'static str {
        match self {
            DownloadResult::Complete => "complete",
            DownloadResult::Mismatch => "mismatch",
            DownloadResult::UpstreamFailed => "upstream_failed",
            DownloadResult::StorageFailed => "storage_failed",
            DownloadResult::NoRoom => "no_room",
            DownloadResult::Abandoned => "abandoned",
        }
    }
}

/// What the cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheKind {
    Blob,
    Manifest,
    Tag,
    /// What broken downloads left, for the next to go on with.
    Partial,
}

impl CacheKind {
    pub const ALL: [Self; 4] = [Self::Blob, Self::Manifest, Self::Tag, Self::Partial];

    pub fn as_str(self) -> &'static str {
        match self {
            CacheKind::Blob => "blob",
            CacheKind::Manifest => "manifest",
            CacheKind::Tag => "tag",
            CacheKind::Partial => "partial",
        }
    }
}
