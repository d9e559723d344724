//! Who reads the page.

use crate::admin::api::access::Sight;

/// What a visitor may see and do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub sight: Sight,
    /// The visitor showed the token.
    pub may_change: bool,
}
