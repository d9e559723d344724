use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    cache,
    oci::Algorithm,
    upstream::{Access, Config, Context},
};

fn upstream(port: u16, ttl: Duration) -> Upstream {
    let access = Access::Client { ttl, grace: Duration::from_secs(3600) };
    let config = Config { access, push: true, ..Config::at("a.example", &[&format!("http://127.0.0.1:{port}")]) };
    Upstream::new(&config, Context::of_test()).unwrap()
}

fn negative_ttl(negative_ttl: Duration) -> ReloadableConfig {
    ReloadableConfig::new(cache::Config { negative_ttl, ..cache::Config::at(Path::new("")) })
}

fn grants() -> Grants {
    Grants::new(&negative_ttl(Duration::ZERO), TrustedNetworks::default(), TaskTracker::new(), CancellationToken::new())
}

fn peer(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn key(upstream: &Upstream) -> GrantKey {
    let (registry, repository) = (upstream.registry().clone(), Some("team/a".parse().unwrap()));
    GrantKey { registry, principal: Principal::ANONYMOUS, repository, manifest: None }
}

#[test]
fn the_response_to_the_last_request_counts() {
    let (grants, key) = (grants(), key(&upstream(1, Duration::from_secs(60))));
    let earlier = Instant::now();
    let later = earlier + Duration::from_millis(1);
    grants.note(key.clone(), Verdict { sent: later, is_granted: false });
    grants.note(key.clone(), Verdict { sent: earlier, is_granted: true });
    assert_eq!(grants.age(&key), None);
    grants.note(key.clone(), Verdict { sent: later, is_granted: true });
    assert!(grants.age(&key).is_some());
}

#[test]
fn a_deleted_digest_has_no_location() {
    let (grants, upstream) = (grants(), upstream(1, Duration::from_secs(60)));
    let (repository, digest) = ("team/a".parse().unwrap(), Digest::of(Algorithm::Sha256, b"a"));
    let location =
        Resource::Blob { digest: digest.clone(), cached_len: None }.location(&upstream, &repository).unwrap();
    grants
        .0
        .locations
        .insert(location.clone(), Confirmation { sent: Instant::now(), first_client: Principal::ANONYMOUS });
    grants.note_write(&upstream, &repository, None);
    assert!(grants.0.locations.contains_key(&location));
    grants.note_write(&upstream, &repository, Some(&digest));
    assert!(!grants.0.locations.contains_key(&location));
}

/// A registry that responds with this status, and how many requests it got.
async fn registry(status: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            count.fetch_add(1, Ordering::Relaxed);
            let version = "docker-distribution-api-version: registry/2.0";
            let response = format!("HTTP/1.1 {status}\r\n{version}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    (port, requests)
}

fn blob() -> Resource {
    Resource::Blob { digest: Digest::of(Algorithm::Sha256, b"a"), cached_len: Some(1) }
}

/// On a slow machine, a remembered response may expire after its seconds, but not before each request.
#[tokio::test]
async fn a_refusal_and_an_outage_are_remembered_for_a_moment() {
    let repository = "team/a".parse().unwrap();
    for (status, is_known, response) in [
        ("403 Forbidden", false, Err(ErrorKind::Denied)),
        ("404 Not Found", false, Err(ErrorKind::NotFound)),
        ("503 Service Unavailable", true, Ok(Grant::default())),
    ] {
        let (port, requests) = registry(status).await;
        let (trusted, tasks) = (TrustedNetworks::default(), TaskTracker::new());
        let grants = Grants::new(&negative_ttl(Duration::from_secs(60)), trusted, tasks, CancellationToken::new());
        let upstream = upstream(port, Duration::ZERO);
        let location = blob().location(&upstream, &repository).unwrap();
        if is_known {
            grants.note(key(&upstream), Verdict { sent: Instant::now(), is_granted: true });
            grants
                .0
                .locations
                .insert(location, Confirmation { sent: Instant::now(), first_client: Principal::ANONYMOUS });
        }
        for _ in 0..20 {
            let granted = grants.authorize(&upstream, &repository, &blob(), peer(1)).await;
            assert_eq!(granted.map_err(|error| error.kind), response, "{status}");
        }
        let requests = requests.load(Ordering::Relaxed);
        assert!((1..=5).contains(&requests), "{status}: {requests} requests");
    }
}

#[tokio::test]
async fn a_login_in_an_outage_leaves_the_last_verdict() {
    let (port, _) = registry("503 Service Unavailable").await;
    let (grants, upstream) = (grants(), upstream(port, Duration::ZERO));
    let login = GrantKey { repository: None, ..key(&upstream) };
    grants.note(login.clone(), Verdict { sent: Instant::now(), is_granted: true });
    assert!(grants.log_in(&upstream, peer(1)).await.is_ok());
    assert!(grants.age(&login).is_some() && grants.last_refusal(&upstream, None).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_in_a_cycle_does_not_wait_forever() {
    let (grants, upstream) = (grants(), upstream(1, Duration::ZERO));
    let ask = |may_cycle| {
        let query = GrantQuery { grant: key(&upstream), resource: None, may_cycle };
        grants.check_joined(query, upstream.name(), peer(1), async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(Grant::default())
        })
    };
    let (first, second) = tokio::join!(ask(true), ask(true));
    let second = second.unwrap_err();
    assert_eq!((first.unwrap(), second.kind), (Grant::default(), ErrorKind::TooManyRequests));
    assert_eq!(second.retry_after, Some(Duration::from_secs(1)));
    let (first, second) = tokio::join!(ask(false), ask(false));
    assert_eq!((first.unwrap(), second.unwrap()), (Grant::default(), Grant::default()));
}

/// For a client with a fresh grant a 404 says that the content is missing; for others it may be the refusal.
#[tokio::test]
async fn a_404_ends_a_grant_unless_it_is_fresh() {
    let (port, _) = registry("404 Not Found").await;
    for (ttl, stays) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
        let (grants, upstream) = (grants(), upstream(port, ttl));
        let (key, repository) = (key(&upstream), "team/a".parse().unwrap());
        grants.note(key.clone(), Verdict { sent: Instant::now(), is_granted: true });
        let response = grants.authorize(&upstream, &repository, &blob(), peer(1)).await;
        assert_eq!(response.unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(grants.age(&key).is_some(), stays, "{ttl:?}");
    }
}

/// One address leaves slots to others, and gets a Retry-After.
#[tokio::test]
async fn requests_in_flight_are_shared_by_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap().port(), Duration::ZERO);
    let mut grants = grants();
    Arc::get_mut(&mut grants.0).unwrap().request_slots = Shares::new(4, TrustedNetworks::default());
    let ask = |number: u8, of: u8| {
        let (grants, upstream) = (grants.clone(), upstream.clone());
        let repository = format!("team/a{number}").parse().unwrap();
        async move { grants.authorize(&upstream, &repository, &blob(), peer(of)).await.unwrap_err() }
    };
    let mut held = Vec::new();
    for (number, of) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        if number == 4 {
            let refused = ask(9, 1).await;
            assert_eq!(refused.kind, ErrorKind::TooManyRequests);
            assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        }
        tokio::spawn(ask(number, of));
        // The request has its slot before it is sent.
        held.push(listener.accept().await.unwrap());
    }
    assert_eq!(ask(9, 3).await.kind, ErrorKind::TooManyRequests, "the total is for all");
}
