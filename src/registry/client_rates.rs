//! `access.client_rate`: how fast forebay sends to one client, over all of its connections.
//!
//! What must hold: a client does not get another burst by another connection or request, so the rate of a client is
//! kept until its bucket is full. The number of rates is bounded, whatever addresses clients have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    peer::{PeerPrefix, TrustedNetworks},
    rate::{BytesPerSecond, Rate},
};

/// How many clients have a rate of their own at a time; those beyond share one.
const MAX_CLIENTS: usize = 8192;
/// How often the rates of clients that take nothing any more are removed, once there are that many.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The rates of all clients, each a [peer](PeerPrefix). Clients in trusted networks have none: several are behind one
/// address there. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct ClientRates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Read without the lock.
    is_set: AtomicBool,
    trusted: TrustedNetworks,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    rate: Option<BytesPerSecond>,
    rates: HashMap<PeerPrefix, Rate>,
    /// Of the clients beyond [`MAX_CLIENTS`].
    others: Rate,
    swept: Option<Instant>,
}

impl ClientRates {
    /// No rate is set at first.
    pub(crate) fn new(trusted: TrustedNetworks) -> Self {
        Self(Arc::new(Inner { is_set: AtomicBool::new(false), trusted, clients: Mutex::default() }))
    }

    /// Sets the rate of each client, or removes it.
    pub(crate) fn set(&self, rate: Option<BytesPerSecond>) {
        let mut clients = self.0.clients.lock();
        clients.rate = rate;
        clients.rates.values().chain([&clients.others]).for_each(|each| each.set(rate));
        if rate.is_none() {
            clients.rates = HashMap::new();
        }
        self.0.is_set.store(rate.is_some(), Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Relaxed)
    }

    /// Whether several clients are behind this address.
    pub(crate) fn is_of_several(&self, address: IpAddr) -> bool {
        self.0.trusted.contains(address)
    }

    /// The rate of the client at this address, if it has one.
    pub(crate) fn of(&self, address: IpAddr) -> Option<Rate> {
        if !self.is_set() || self.is_of_several(address) {
            return None;
        }
        Some(self.0.clients.lock().of(address.into(), Instant::now()))
    }
}

impl Clients {
    fn of(&mut self, peer: PeerPrefix, now: Instant) -> Rate {
        if let Some(rate) = self.rates.get(&peer) {
            return rate.clone();
        }
        if self.rates.len() >= MAX_CLIENTS {
            self.sweep(now);
        }
        if self.rates.len() >= MAX_CLIENTS {
            return self.others.clone();
        }
        let rate = Rate::default();
        rate.set(self.rate);
        self.rates.insert(peer, rate.clone());
        rate
    }

    /// Removes the rates that are as new ones are.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.rates.retain(|_, rate| !rate.is_full(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const KIB: u64 = 1024;

    fn rates(trusted: &[&str]) -> ClientRates {
        let rates = ClientRates::new(TrustedNetworks::new(trusted.iter().map(|text| text.parse().unwrap()).collect()));
        rates.set(BytesPerSecond::new(KIB * KIB));
        rates
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn takes(rate: &Rate, bytes: u64) -> bool {
        rate.take(bytes, || ()).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn each_peer_has_one_rate_and_trusted_networks_none() {
        let rates = rates(&["10.0.0.0/8"]);
        assert!(takes(&rates.of(ip("192.0.2.1")).unwrap(), 256 * KIB));
        assert!(!takes(&rates.of(ip("::ffff:192.0.2.1")).unwrap(), 64 * KIB));
        assert!(takes(&rates.of(ip("192.0.2.2")).unwrap(), 64 * KIB));
        assert!(takes(&rates.of(ip("2001:db8::1")).unwrap(), 256 * KIB));
        assert!(!takes(&rates.of(ip("2001:db8::ffff:2")).unwrap(), 64 * KIB));
        assert!(rates.of(ip("10.1.2.3")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_is_for_all_clients_at_once() {
        let rates = rates(&[]);
        let before = rates.of(ip("192.0.2.1")).unwrap();
        rates.set(BytesPerSecond::new(64 * KIB));
        assert_eq!(before.get(), BytesPerSecond::new(64 * KIB));
        assert_eq!(rates.of(ip("192.0.2.2")).unwrap().get(), BytesPerSecond::new(64 * KIB));
        rates.set(None);
        assert!(rates.of(ip("192.0.2.1")).is_none() && !rates.is_set() && before.get().is_none());
        assert!(rates.0.clients.lock().rates.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rates_of_clients_that_left_go_and_no_others() {
        let rates = rates(&[]);
        let peer = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        for number in 0..MAX_CLIENTS as u32 {
            assert!(takes(&rates.of(peer(number)).unwrap(), 256 * KIB));
        }
        // All are in use: clients beyond share one.
        let beyond = |number: u64| IpAddr::V6(Ipv6Addr::from_bits(u128::from(number) << 64));
        assert!(takes(&rates.of(beyond(1)).unwrap(), 256 * KIB));
        assert!(!takes(&rates.of(beyond(2)).unwrap(), 64 * KIB));
        advance(Duration::from_millis(990)).await;
        assert!(takes(&rates.of(peer(7)).unwrap(), 256 * KIB));
        advance(Duration::from_millis(10)).await;
        assert!(takes(&rates.of(beyond(3)).unwrap(), 64 * KIB));
        assert!(!takes(&rates.of(peer(7)).unwrap(), 64 * KIB), "it is still in use");
        assert_eq!(rates.0.clients.lock().rates.len(), 2);
    }
}
