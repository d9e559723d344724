//! Where a blob comes from, should it have to be fetched.

use crate::{
    oci::{Digest, Repository},
    upstream::Upstream,
};

/// A blob as one upstream names it.
#[derive(Clone)]
pub struct Source {
    pub upstream: Upstream,
    pub repository: Repository,
    pub digest: Digest,
}
