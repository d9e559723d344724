//! One copy of equal response bodies, for as long as any is being sent.
//!
//! A long list is not cached: each request fetches it again. Clients that read it slowly would hold a copy each.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::query::ListKey;

/// For how many lists the last body is tracked.
const MAX_LISTS: u64 = 1024;

/// The last body of each list, while a response holds it.
pub(super) struct SharedBodies(moka::sync::Cache<ListKey, Weak<Vec<u8>>>);

struct HeldBody(Arc<Vec<u8>>);

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Default for SharedBodies {
    fn default() -> Self {
        Self(moka::sync::Cache::new(MAX_LISTS))
    }
}

impl SharedBodies {
    /// The same bytes: the last body, if it is equal and still held; else a copy, since the buffer into which a body
    /// was read is larger than the body.
    pub(super) fn share(&self, key: &ListKey, body: &[u8]) -> Bytes {
        let last = self.0.get(key).and_then(|last| last.upgrade()).filter(|last| ***last == *body);
        let body = last.unwrap_or_else(|| {
            let body = Arc::new(body.to_vec());
            self.0.insert(key.clone(), Arc::downgrade(&body));
            body
        });
        Bytes::from_owner(HeldBody(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::list::List, upstream::Registry};

    #[test]
    fn equal_bodies_are_one_while_any_is_held() {
        let key = |query: &str| ListKey {
            registry: Registry::new(&"docker.io".into(), &[]),
            list: List::Catalog,
            query: query.to_owned(),
            principal: None,
        };
        let bodies = SharedBodies::default();
        let (one, two) = (bodies.share(&key(""), b"[1]"), bodies.share(&key(""), b"[1]"));
        assert_eq!((one.as_ptr(), &*two), (two.as_ptr(), &b"[1]"[..]));
        let other = bodies.share(&key(""), b"[2]");
        assert_eq!((&*one, &*other), (&b"[1]"[..], &b"[2]"[..]));
        assert_ne!(bodies.share(&key("n=1"), b"[2]").as_ptr(), other.as_ptr());
        let weak = bodies.0.get(&key("")).unwrap();
        drop(other);
        assert!(weak.upgrade().is_none(), "a body that no response holds is freed");
    }
}
