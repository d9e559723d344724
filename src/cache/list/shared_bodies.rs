//! One copy of equal answers, for as long as any is being sent.
//!
//! A long list is not kept, and is asked for anew by each client; those that take it slowly would hold a copy each.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::query::ListKey;

/// Of how many lists the last answer is known.
const MAX_LISTS: u64 = 1024;

/// The last answers that are held somewhere.
pub(super) struct Bodies(moka::sync::Cache<ListKey, Weak<Vec<u8>>>);

struct Body(Arc<Vec<u8>>);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self(moka::sync::Cache::new(MAX_LISTS))
    }
}

impl Bodies {
    /// The same bytes: those of the last answer, where they are equal and still held; else a copy of their own length, since
    /// the buffer that a body was read into is larger.
    pub(super) fn share(&self, key: &ListKey, body: &[u8]) -> Bytes {
        let former = self.0.get(key).and_then(|former| former.upgrade()).filter(|former| ***former == *body);
        let body = former.unwrap_or_else(|| {
            let body = Arc::new(body.to_vec());
            self.0.insert(key.clone(), Arc::downgrade(&body));
            body
        });
        Bytes::from_owner(Body(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::list::List, upstream::Registry};

    #[test]
    fn equal_answers_are_one_while_any_is_held() {
        let key = |query: &str| ListKey {
            registry: Registry::new(&"docker.io".into(), &[]),
            list: List::Catalog,
            query: query.to_owned(),
            asker: None,
        };
        let bodies = Bodies::default();
        let (one, two) = (bodies.share(&key(""), b"[1]"), bodies.share(&key(""), b"[1]"));
        assert_eq!((one.as_ptr(), &*two), (two.as_ptr(), &b"[1]"[..]));
        let other = bodies.share(&key(""), b"[2]");
        assert_eq!((&*one, &*other), (&b"[1]"[..], &b"[2]"[..]));
        assert_ne!(bodies.share(&key("n=1"), b"[2]").as_ptr(), other.as_ptr());
        let weak = bodies.0.get(&key("")).unwrap();
        drop(other);
        assert!(weak.upgrade().is_none(), "nothing is kept for its own sake");
    }
}
