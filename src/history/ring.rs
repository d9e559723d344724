//! The latest requests of one shard.
//!
//! What must hold: no more than a number of requests, and no more than a number of bytes; the oldest one goes first.

use std::{collections::VecDeque, sync::Arc};

use super::FinishedRequest;

/// A bounded queue of requests.
pub(super) struct Ring {
    /// The oldest first.
    requests: VecDeque<Arc<FinishedRequest>>,
    bytes: usize,
    max_requests: usize,
    max_bytes: usize,
}

impl Ring {
    pub(super) fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self { requests: VecDeque::new(), bytes: 0, max_requests, max_bytes }
    }

    /// Adds a request, and gives back one that had to go. A request that is larger than all of the room is not kept.
    pub(super) fn push(&mut self, request: Arc<FinishedRequest>) -> Option<Arc<FinishedRequest>> {
        let bytes = request.memory();
        if bytes > self.max_bytes {
            return Some(request);
        }
        let mut displaced = None;
        while self.requests.len() >= self.max_requests || self.bytes + bytes > self.max_bytes {
            displaced = self.requests.pop_front();
            let Some(oldest) = &displaced else { break };
            self.bytes = self.bytes.saturating_sub(oldest.memory());
        }
        self.bytes += bytes;
        self.requests.push_back(request);
        displaced
    }

    pub(super) fn append_to(&self, all: &mut Vec<Arc<FinishedRequest>>) {
        all.extend(self.requests.iter().cloned());
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.requests.len(), self.bytes)
    }
}
