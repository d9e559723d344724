//! The integration tests: one binary. Folders and files are named like the sources they test, or like the promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what must hold by failing")]

mod admin;
mod app {
    pub mod drain;
    pub mod reload;
    pub mod reloaded_keys;
}
mod auth {
    pub mod client;
    pub mod htpasswd;
    pub mod pull;
}
mod cache {
    pub mod blob {
        pub mod head;
        pub mod hit_and_miss;
        pub mod ranges;
        pub mod uncached;
        pub mod window;
    }
    pub mod download {
        pub mod abandoned;
        pub mod coalescing;
        pub mod connections;
        pub mod corrupt;
        pub mod early_end;
        pub mod kill;
        pub mod lazy;
        pub mod leftover;
        pub mod other_registry;
        pub mod parallel;
        pub mod refused_ranges;
        pub mod resume;
        pub mod stress;
    }
    pub mod export;
    pub mod images;
    pub mod import;
    pub mod inventory;
    pub mod list;
    pub mod manifest;
    pub mod pins;
    pub mod prefetch;
    pub mod scrub;
    pub mod slow_readers;
    pub mod storage {
        pub mod disk_errors;
        pub mod eviction;
        pub mod restart;
        pub mod slow_scan;
        pub mod slow_sync;
    }
    pub mod warnings;
}
mod cli;
mod cluster;
mod config;
mod docs;
mod metrics;
mod push;
mod rates;
mod registry {
    pub mod access_log;
    pub mod blob_errors;
    pub mod fault_log;
    pub mod outages;
    pub mod page;
    pub mod response;
    pub mod routing;
    pub mod upstream_refusals;
}
mod rule;
mod transport {
    pub mod connection_limit;
    pub mod drain;
    pub mod held_responses;
    pub mod protocols;
    pub mod stalled_readers;
    pub mod timeouts;
    pub mod tls;
    pub mod zero_copy;
}
mod stored;
mod upstream;
