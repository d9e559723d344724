//! The requests that forebay is answering now.
//!
//! What must hold: there is an entry for each such request and no other; a request takes a lock of one shard when it begins
//! and when it ends, and counts what is sent in a place of its own; a reader holds each lock for no longer than it takes to
//! clone the handles of one shard.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use http::Method;
use parking_lot::Mutex;

use crate::{
    cache::Outcome,
    oci::{Operation, Reference, Repository},
    request_id::RequestId,
    rule::Subject,
};

/// More than the threads of most machines.
const SHARDS: usize = 16;

/// All requests in flight. A cheap handle.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<[Shard; SHARDS]>);

/// On cache lines of its own: threads that use two shards do not slow each other down.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<HashMap<u64, Arc<RunningRequest>>>);

/// A request that is being answered. Nothing here is a secret.
#[derive(Debug)]
pub(crate) struct RunningRequest {
    pub id: RequestId,
    /// The number of the first request of its pull.
    pub pull: Option<u64>,
    /// Its upstream authorizes each client.
    pub is_of_client: bool,
    /// Address and port.
    pub peer: Arc<str>,
    pub user_agent: Option<Box<str>>,
    pub user: Option<Arc<str>>,
    pub method: Method,
    pub upstream: Option<Arc<str>>,
    pub repository: Option<Repository>,
    /// The tag or digest in its path.
    pub reference: Option<Reference>,
    pub operation: Operation,
    pub started: Instant,
    response: OnceLock<ResponseHead>,
    sent: AtomicU64,
}

/// How a response began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub status: u16,
    pub outcome: Outcome,
    /// How many bytes the body has, if that is known.
    pub length: Option<u64>,
}

/// The entry of a request, until this is dropped.
pub(crate) struct Running {
    request: Arc<RunningRequest>,
    all: InFlight,
}

impl InFlight {
    pub(super) fn begin(&self, request: RunningRequest) -> Running {
        let request = Arc::new(request);
        self.shard(&request).lock().insert(request.id.number, request.clone());
        Running { request, all: self.clone() }
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<Arc<RunningRequest>> {
        let mut all = Vec::new();
        for shard in &*self.0 {
            all.extend(shard.0.lock().values().cloned());
        }
        all
    }

    fn shard(&self, request: &RunningRequest) -> &Mutex<HashMap<u64, Arc<RunningRequest>>> {
        &self.0[(request.id.number % SHARDS as u64) as usize].0
    }
}

impl Running {
    /// The response begins.
    pub(crate) fn responds(&self, head: ResponseHead) {
        // A request has one response.
        let _ = self.request.response.set(head);
    }

    /// So many bytes of the body were handed over to be sent, all in all.
    pub(crate) fn has_sent(&self, bytes: u64) {
        self.request.sent.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.all.shard(&self.request).lock().remove(&self.request.id.number);
        // Its memory is freed without the lock.
        drop(ended);
    }
}

impl RunningRequest {
    pub(crate) fn new(id: RequestId, peer: Arc<str>, method: Method, started: Instant) -> Self {
        Self {
            id,
            pull: None,
            is_of_client: false,
            peer,
            user_agent: None,
            user: None,
            method,
            upstream: None,
            repository: None,
            reference: None,
            operation: Operation::Unknown,
            started,
            response: OnceLock::new(),
            sent: AtomicU64::new(0),
        }
    }

    /// `None`: the client waits for the head of the response.
    pub(crate) fn response(&self) -> Option<ResponseHead> {
        self.response.get().copied()
    }

    /// How many bytes of the body were handed over to be sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// What the request is about, as patterns match it; `None`: no repository.
    pub(crate) fn subject(&self) -> Option<Subject> {
        let (upstream, repository) = (self.upstream.as_deref()?, self.repository.as_ref()?);
        Some(match &self.reference {
            Some(reference) => Subject::reference(upstream, repository, reference),
            None => Subject::repository(upstream, repository),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64) -> RunningRequest {
        let id = RequestId { instance: 7, number };
        RunningRequest::new(id, "10.0.0.1:1234".into(), Method::GET, Instant::now())
    }

    #[test]
    fn a_request_is_there_from_its_begin_to_its_end() {
        let all = InFlight::default();
        let mut running: Vec<_> = (0..40).map(|number| all.begin(request(number))).collect();
        assert_eq!(all.all().len(), 40);
        let head = ResponseHead { status: 200, outcome: Outcome::Hit, length: Some(10) };
        running[3].responds(head);
        running[3].has_sent(7);
        let seen = all.all().into_iter().find(|request| request.id.number == 3).unwrap();
        assert_eq!((seen.response(), seen.sent()), (Some(head), 7));
        assert!(all.all().iter().filter(|request| request.response().is_none()).count() == 39);
        running.truncate(1);
        let left: Vec<_> = all.all().iter().map(|request| request.id.number).collect();
        assert_eq!(left, [0]);
        running.clear();
        assert!(all.all().is_empty());
    }

    #[test]
    fn entries_of_many_threads_all_end() {
        let all = InFlight::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let all = &all;
                scope.spawn(move || {
                    for number in 0..500 {
                        let running = all.begin(request(thread * 500 + number));
                        running.has_sent(number);
                        assert!(!all.all().is_empty());
                    }
                });
            }
        });
        assert!(all.all().is_empty());
    }
}
