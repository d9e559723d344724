use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    oci::Algorithm,
    upstream::{Config, Context},
};

fn upstream(port: u16, ttl: Duration) -> Upstream {
    let access = Access::Client { ttl, grace: Duration::from_secs(3600) };
    let config = Config { access, push: true, ..Config::at("a.example", &[&format!("http://127.0.0.1:{port}")]) };
    Upstream::new(&config, Context::of_test()).unwrap()
}

fn proofs() -> Grants {
    Grants::new(Duration::ZERO, TrustedNetworks::default(), TaskTracker::new(), CancellationToken::new())
}

fn peer(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn right(upstream: &Upstream) -> GrantKey {
    let (registry, repository) = (upstream.registry().clone(), Some("team/a".parse().unwrap()));
    GrantKey { registry, asker: Principal::ANONYMOUS, repository, manifest: None }
}

#[test]
fn the_word_that_was_asked_for_last_counts() {
    let (proofs, right) = (proofs(), right(&upstream(1, Duration::from_secs(60))));
    let earlier = Instant::now();
    let later = earlier + Duration::from_millis(1);
    proofs.note(right.clone(), Answered { asked: later, yes: false });
    proofs.note(right.clone(), Answered { asked: earlier, yes: true });
    assert_eq!(proofs.age(&right), None);
    proofs.note(right.clone(), Answered { asked: later, yes: true });
    assert!(proofs.age(&right).is_some());
}

#[test]
fn a_deleted_digest_is_the_repositorys_no_longer() {
    let (proofs, upstream) = (proofs(), upstream(1, Duration::from_secs(60)));
    let (repository, digest) = ("team/a".parse().unwrap(), Digest::of(Algorithm::Sha256, b"a"));
    let place = Resource::Blob { digest: digest.clone(), cached_len: None }.place(&upstream, &repository).unwrap();
    proofs.0.places.insert(place.clone(), GrantSource { at: Instant::now(), to: Principal::ANONYMOUS });
    proofs.note_write(&upstream, &repository, None);
    assert!(proofs.0.places.contains_key(&place));
    proofs.note_write(&upstream, &repository, Some(&digest));
    assert!(!proofs.0.places.contains_key(&place));
}

/// A registry that answers this, and how often it was asked.
async fn registry(status: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            count.fetch_add(1, Ordering::Relaxed);
            let version = "docker-distribution-api-version: registry/2.0";
            let answer = format!("HTTP/1.1 {status}\r\n{version}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, asked)
}

fn blob() -> Resource {
    Resource::Blob { digest: Digest::of(Algorithm::Sha256, b"a"), cached_len: Some(1) }
}

/// What is remembered for seconds is asked for again on a machine that is slow enough, but not each time.
#[tokio::test]
async fn a_refusal_and_an_outage_are_remembered_for_a_moment() {
    let repository = "team/a".parse().unwrap();
    for (status, is_known, told) in [
        ("403 Forbidden", false, Err(ErrorKind::Denied)),
        ("404 Not Found", false, Err(ErrorKind::NotFound)),
        ("503 Service Unavailable", true, Ok(Grant::default())),
    ] {
        let (port, asked) = registry(status).await;
        let (trusted, tasks) = (TrustedNetworks::default(), TaskTracker::new());
        let proofs = Grants::new(Duration::from_secs(60), trusted, tasks, CancellationToken::new());
        let upstream = upstream(port, Duration::ZERO);
        let place = blob().place(&upstream, &repository).unwrap();
        if is_known {
            proofs.note(right(&upstream), Answered { asked: Instant::now(), yes: true });
            proofs.0.places.insert(place, GrantSource { at: Instant::now(), to: Principal::ANONYMOUS });
        }
        for _ in 0..20 {
            let answer = proofs.authorize(&upstream, &repository, &blob(), peer(1)).await;
            assert_eq!(answer.map_err(|error| error.kind), told, "{status}");
        }
        let asked = asked.load(Ordering::Relaxed);
        assert!((1..=5).contains(&asked), "{status}: asked {asked} times");
    }
}

#[tokio::test]
async fn a_login_that_the_upstream_cannot_judge_leaves_its_last_word() {
    let (port, _) = registry("503 Service Unavailable").await;
    let (proofs, upstream) = (proofs(), upstream(port, Duration::ZERO));
    let login = GrantKey { repository: None, ..right(&upstream) };
    proofs.note(login.clone(), Answered { asked: Instant::now(), yes: true });
    assert!(proofs.log_in(&upstream, peer(1)).await.is_ok());
    assert!(proofs.age(&login).is_some() && proofs.last_refusal(&upstream, None).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_in_a_circle_waits_for_no_other_for_ever() {
    let (proofs, upstream) = (proofs(), upstream(1, Duration::ZERO));
    let ask = |circle| {
        let question = GrantQuery { right: right(&upstream), subject: None, circle };
        let none = (Validity::Nothing, Grant::default());
        proofs.ask(question, &upstream, Principal::ANONYMOUS, none, peer(1), async {
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

/// To whom may read the rest it says that this is not there; to others it may be how they are refused.
#[tokio::test]
async fn a_404_ends_a_right_unless_that_is_fresh() {
    let (port, _) = registry("404 Not Found").await;
    for (ttl, stays) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
        let (proofs, upstream) = (proofs(), upstream(port, ttl));
        let (right, repository) = (right(&upstream), "team/a".parse().unwrap());
        proofs.note(right.clone(), Answered { asked: Instant::now(), yes: true });
        let told = proofs.authorize(&upstream, &repository, &blob(), peer(1)).await;
        assert_eq!(told.unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(proofs.age(&right).is_some(), stays, "{ttl:?}");
    }
}

/// One address leaves questions to others, and is told when to come again.
#[tokio::test]
async fn questions_in_flight_are_shared_by_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap().port(), Duration::ZERO);
    let mut proofs = proofs();
    Arc::get_mut(&mut proofs.0).unwrap().places_for_questions = Shares::new(4, TrustedNetworks::default());
    let ask = |number: u8, of: u8| {
        let (proofs, upstream) = (proofs.clone(), upstream.clone());
        let repository = format!("team/a{number}").parse().unwrap();
        async move { proofs.authorize(&upstream, &repository, &blob(), peer(of)).await.unwrap_err() }
    };
    let mut held = Vec::new();
    for (number, of) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        if number == 4 {
            let refused = ask(9, 1).await;
            assert_eq!(refused.kind, ErrorKind::TooManyRequests);
            assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        }
        tokio::spawn(ask(number, of));
        // The question has its place before it is sent.
        held.push(listener.accept().await.unwrap());
    }
    assert_eq!(ask(9, 3).await.kind, ErrorKind::TooManyRequests, "the whole binds for all");
}

#[test]
fn a_yes_is_fresh_then_good_for_an_outage_then_nothing() {
    let (ttl, grace) = (Duration::from_secs(60), Duration::from_secs(3600));
    for (age, expected) in [
        (None, Validity::Nothing),
        (Some(0), Validity::Fresh),
        (Some(59), Validity::Fresh),
        (Some(60), Validity::InOutage),
        (Some(3599), Validity::InOutage),
        (Some(3600), Validity::Nothing),
    ] {
        assert_eq!(judge(age.map(Duration::from_secs), ttl, grace), expected, "{age:?}");
    }
    assert_eq!(judge(Some(Duration::ZERO), Duration::ZERO, Duration::ZERO), Validity::Nothing);
}

#[test]
fn a_place_is_asked_for_again_when_half_the_grace_is_over() {
    for (ttl, age, expected) in [
        (60, 1799, Validity::Fresh),
        (60, 1800, Validity::InOutage),
        (60, 3599, Validity::InOutage),
        (60, 3600, Validity::Nothing),
        (3000, 2999, Validity::Fresh),
        (3000, 3000, Validity::InOutage),
    ] {
        let terms = GrantTtl { ttl: Duration::from_secs(ttl), grace: Duration::from_secs(3600) };
        assert_eq!(terms.judge_place(Some(Duration::from_secs(age))), expected, "{age} of {ttl}");
    }
}
