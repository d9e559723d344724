use std::{collections::BTreeSet, thread};

use super::*;
use crate::{cache::Outcome, followers::Followed, oci::Operation, request_id::RequestId};

fn history() -> History {
    History::new(ByteCounter::default())
}

/// Requests of all, also of clients with grants.
fn all() -> Filter {
    Filter { of_clients: true, ..Filter::default() }
}

fn numbers(history: &History, filter: &Filter) -> Vec<u64> {
    history.requests(filter, None, MAX_REQUESTS).items.iter().map(|request| request.id.number).collect()
}

fn held(history: &History) -> (usize, usize) {
    let held = history.0.shards.iter().map(|shard| shard.lock().ring.held());
    held.fold((0, 0), |(requests, bytes), of_shard| (requests + of_shard.0, bytes + of_shard.1))
}

#[test]
fn the_latest_requests_are_kept() {
    let history = history();
    let most = MAX_REQUESTS as u64;
    for number in 0..most + 500 {
        let ended = history.0.started + Duration::from_millis(number);
        history.add(FinishedRequest::of_test(number, ended));
    }
    let expected: Vec<u64> = (500..most + 500).rev().collect();
    assert_eq!(numbers(&history, &all()), expected);
    assert!(held(&history).1 < MAX_BYTES * 6 / 10, "{:?}", held(&history));
}

#[test]
fn memory_is_bounded_with_texts_of_any_length() {
    let history = history();
    let now = Instant::now();
    for number in 0..20_000 {
        let text = || "x".repeat(30_000);
        history.add(FinishedRequest {
            path_and_agent: text().into(),
            path_len: 29_000,
            namespace: Some(text()),
            user: Some(text().into()),
            cause: Some(text()),
            ..FinishedRequest::of_test(number, now)
        });
    }
    let (requests, bytes) = held(&history);
    assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES * 9 / 10, "{bytes}");
    assert!(requests > 2500, "{requests}");
}

#[test]
fn requests_are_in_the_order_in_which_they_ended() {
    let history = history();
    let second = |second| history.0.started + Duration::from_secs(second);
    for (number, ended) in [(1, 9), (2, 3), (17, 5), (18, 5), (33, 2), (4, 7)] {
        history.add(FinishedRequest::of_test(number, second(ended)));
    }
    assert_eq!(numbers(&history, &all()), [1, 4, 18, 17, 2, 33]);
}

#[test]
fn pages_have_each_request_once() {
    let history = history();
    for number in 0..100 {
        let ended = history.0.started + Duration::from_secs(number / 7);
        history.add(FinishedRequest::of_test(number, ended));
    }
    for limit in [1, 9, 99, 100, 101] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = history.requests(&all(), after, limit);
            assert!(!page.items.is_empty() && page.items.len() <= limit);
            seen.extend(page.items.iter().map(|request| request.id.number));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..100).rev().collect::<Vec<_>>(), "{limit}");
    }
    // What comes meanwhile is on no later page.
    let first = history.requests(&all(), None, 10);
    history.add(FinishedRequest::of_test(200, history.0.started + Duration::from_secs(60)));
    assert_eq!(history.requests(&all(), first.next, 1).items[0].id.number, 89);
}

#[test]
fn a_filter_admits_what_it_names() {
    let history = history();
    let of = |number| FinishedRequest::of_test(number, history.0.started);
    let digest = format!("sha256:{}", "b".repeat(64));
    history.add(of(1));
    history.add(FinishedRequest { pull: Some(1), ..of(2).about(Operation::Blob, &digest) });
    history.add(FinishedRequest { duration: Duration::from_secs(5), ..of(3) }.failed(502, "upstream_unavailable"));
    history.add(FinishedRequest { peer: "[::ffff:10.0.0.2]:1".into(), is_of_client: true, ..of(4) });
    history.add(FinishedRequest { peer: "[2001:db8::1]:1".into(), upstream: None, repository: None, ..of(5) });
    let pattern = |text| Some(crate::rule::Pattern::parse(text, |name| name == "docker.io").unwrap());
    let network = |text: &str| Some(text.parse().unwrap());
    let id = |number| Some(RequestId { instance: 7, number });
    for (filter, expected) in [
        (all(), &[3, 5, 4, 2, 1][..]),
        (Filter::default(), &[3, 5, 2, 1]),
        (Filter { errors: true, ..all() }, &[3]),
        (Filter { slower: Some(Duration::from_secs(5)), ..all() }, &[3]),
        (Filter { slower: Some(Duration::from_secs(6)), ..all() }, &[]),
        (Filter { image: pattern("app:1"), ..all() }, &[3, 4, 1]),
        (Filter { image: pattern("docker.io/library/*"), ..all() }, &[3, 4, 2, 1]),
        (Filter { image: pattern("app"), ..all() }, &[]),
        (Filter { client: network("10.0.0.2"), ..all() }, &[4]),
        (Filter { client: network("10.0.0.0/8"), ..Filter::default() }, &[3, 2, 1]),
        (Filter { client: network("2001:db8::/32"), ..all() }, &[5]),
        (Filter { id: id(1), ..all() }, &[2, 1]),
        (Filter { id: id(2), ..all() }, &[2]),
        (Filter { id: Some(RequestId { instance: 8, number: 1 }), ..all() }, &[]),
        (Filter { errors: true, client: network("10.0.0.2"), ..all() }, &[]),
    ] {
        assert_eq!(numbers(&history, &filter), expected, "{filter:?}");
    }
}

#[test]
fn requests_of_a_pull_come_together() {
    let history = history();
    let at = |second| history.0.started + Duration::from_secs(second);
    let digest = format!("sha256:{}", "b".repeat(64));
    // The pull 1, another one between its requests, a ping, and an unknown upstream.
    history.add(FinishedRequest {
        sent: 10,
        started: at(1),
        duration: Duration::from_secs(1),
        ..FinishedRequest::of_test(1, at(0))
    });
    history.add(FinishedRequest { upstream: Some("ghcr.io".into()), ..FinishedRequest::of_test(2, at(3)) });
    history.add(FinishedRequest {
        pull: Some(1),
        outcome: Outcome::Miss,
        sent: 500,
        received: Some(400),
        ..FinishedRequest::of_test(3, at(7)).about(Operation::Blob, &digest)
    });
    history.add(FinishedRequest { pull: None, repository: None, ..FinishedRequest::of_test(4, at(8)) });
    history
        .add(FinishedRequest { pull: None, ..FinishedRequest::of_test(5, at(9)).failed(404, "unconfigured_upstream") });
    let page = history.pulls(&all(), None, 10);
    assert_eq!(page.items.iter().map(|pull| pull.id().number).collect::<Vec<_>>(), [5, 1, 2]);
    let pull = &page.items[1];
    assert_eq!((pull.len(), pull.sent(), pull.received()), (2, 510, 400));
    assert_eq!((pull.duration(), pull.outcome(), pull.operation()), (Duration::from_secs(6), Outcome::Miss, "pull"));
    assert_eq!(pull.image().unwrap().as_str(), "docker.io/library/app:1");
    // A filter looks at the pull as a whole.
    let numbers = |filter: &Filter| -> Vec<u64> {
        history.pulls(filter, None, 10).items.iter().map(|pull| pull.id().number).collect()
    };
    assert_eq!(numbers(&Filter { slower: Some(Duration::from_secs(6)), ..all() }), [1]);
    assert_eq!(numbers(&Filter { id: Some(RequestId { instance: 7, number: 3 }), ..all() }), [1]);
    assert_eq!(numbers(&Filter { errors: true, ..all() }), [5]);
    // A client that got the same afterwards got what it asked for.
    history
        .add(FinishedRequest { pull: Some(6), ..FinishedRequest::of_test(6, at(10)) }.failed(502, "upstream_timeout"));
    assert_eq!(numbers(&Filter { errors: true, ..all() }), [6, 5]);
    history.add(FinishedRequest { pull: Some(6), ..FinishedRequest::of_test(7, at(11)) });
    assert_eq!(numbers(&Filter { errors: true, ..all() }), [5]);
    let first = history.pulls(&all(), None, 2);
    let rest = history.pulls(&all(), first.next, 2);
    assert_eq!((rest.items.len(), rest.items[0].id().number, rest.next), (2, 1, None));
}

#[test]
fn a_sum_counts_pulls_and_their_bytes() {
    let received = ByteCounter::default();
    let history = History::new(received.clone());
    let of = |number| FinishedRequest::of_test(number, history.0.started);
    let digest = format!("sha256:{}", "b".repeat(64));
    history.add(of(1));
    history.add(FinishedRequest { outcome: Outcome::Miss, ..of(2) });
    history.add(of(3).about(Operation::Blob, &digest));
    history.add(of(4).failed(404, "manifest_unknown"));
    // What is pushed, and a list, count nowhere.
    history.add(of(5).about(Operation::Push, "1"));
    history.add(of(6).about(Operation::Tags, "1"));
    received.add(70);
    let expected = Sums { pulls: 2, hits: 1, sent: 300, cached: 200, received: 70, errors: 1 };
    for window in [Window::Hour, Window::Day, Window::SinceStart] {
        assert_eq!(history.sums(window), expected, "{window:?}");
    }
    received.add(5);
    assert_eq!(history.sums(Window::Hour).received, 75);
}

#[test]
fn a_client_has_its_own_pulls() {
    let history = history();
    let of = |number| FinishedRequest::of_test(number, history.0.started + Duration::from_secs(number));
    let client = "10.0.0.1".parse().unwrap();
    history.add(of(1));
    history.add(FinishedRequest { upstream: Some("ghcr.io".into()), ..of(2) });
    history.add(FinishedRequest { peer: "10.0.0.11:1".into(), ..of(3) });
    history.add(FinishedRequest { is_of_client: true, ..of(4) });
    history.add(FinishedRequest { peer: "[::ffff:10.0.0.1]:1".into(), ..of(5) });
    history.add(of(6).about(Operation::Push, "1"));
    history.add(FinishedRequest { pull: None, ..of(7).failed(404, "unconfigured_upstream") });
    for (upstreams, limit, expected) in [
        (&["docker.io", "ghcr.io"][..], 10, &[5, 2, 1][..]),
        (&["docker.io", "ghcr.io"], 2, &[5, 2]),
        (&["ghcr.io", "quay.io"], 10, &[2]),
        (&["quay.io"], 10, &[]),
        (&[], 10, &[]),
    ] {
        let names: Vec<Arc<str>> = upstreams.iter().map(|name| (*name).into()).collect();
        let pulls = history.pulls_of(client, &names, limit);
        assert_eq!(pulls.iter().map(|pull| pull.id().number).collect::<Vec<_>>(), expected, "{upstreams:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_has_what_was_counted_and_the_disk() {
    let received = ByteCounter::default();
    let history = History::new(received.clone());
    history.add(FinishedRequest::of_test(1, history.0.started));
    received.add(70);
    let end = CancellationToken::new();
    let keeping = tokio::spawn(history.clone().keep_sums(|| 7, end.clone()));
    let last = || history.last_day().last().copied().flatten().unwrap();
    while last().disk.is_none() {
        tokio::task::yield_now().await;
    }
    let expected = Sums { pulls: 1, hits: 1, sent: 100, cached: 100, received: 70, errors: 0 };
    assert_eq!(last(), Interval { sums: expected, disk: Some(7) });
    let day = history.last_day();
    assert_eq!((day.len(), day.iter().flatten().count()), (INTERVALS, 1));
    end.cancel();
    keeping.await.unwrap();
}

#[test]
fn a_step_of_the_clock_changes_no_order_and_no_sum() {
    let history = history();
    let years = Duration::from_secs(86_400 * 3650);
    for (number, ended_at) in [(1, std::time::SystemTime::UNIX_EPOCH), (2, std::time::SystemTime::UNIX_EPOCH + years)] {
        for repeated in 0..2 {
            let number = number + repeated * 10;
            let ended = history.0.started + Duration::from_millis(100 - number);
            history.add(FinishedRequest {
                ended_at,
                duration: Duration::ZERO,
                ..FinishedRequest::of_test(number, ended)
            });
        }
    }
    assert_eq!(numbers(&history, &all()), [1, 2, 11, 12]);
    assert_eq!(history.sums(Window::Hour).pulls, 4);
}

#[tokio::test]
async fn a_follower_that_lags_learns_what_it_lost() {
    let history = history();
    let now = Instant::now();
    let mut slow = history.follow();
    for number in 0..1100 {
        history.add(FinishedRequest::of_test(number, now));
    }
    let mut new = history.follow();
    assert!(matches!(slow.next().await, Some(Followed::LeftOut(76))));
    assert!(matches!(slow.next().await, Some(Followed::Event(told)) if told.event.id.number == 76));
    history.add(FinishedRequest::of_test(2000, now));
    assert!(matches!(new.next().await, Some(Followed::Event(told)) if told.event.id.number == 2000));
    drop(history);
    for _ in 77..1101 {
        assert!(matches!(slow.next().await, Some(Followed::Event(_))));
    }
    assert!(slow.next().await.is_none() && new.next().await.is_none());
}

#[test]
fn pulls_have_the_images_that_their_requests_name() {
    let (history, now) = (history(), Instant::now());
    let digest = format!("sha256:{}", "b".repeat(64));
    history.add(FinishedRequest::of_test(1, now));
    history.add(FinishedRequest { pull: Some(1), ..FinishedRequest::of_test(2, now).about(Operation::Blob, &digest) });
    history.add(FinishedRequest::of_test(3, now).about(Operation::Blob, &digest));
    assert!(history.images(&HashSet::new()).is_empty());
    let images = history.images(&HashSet::from([1, 3, 4]));
    assert_eq!(images.len(), 2);
    assert_eq!((&*images[&1], &*images[&3]), ("docker.io/library/app:1", &*format!("docker.io/library/app@{digest}")));
}

#[test]
fn threads_add_while_others_read() {
    let history = history();
    let (threads, each) = (4, 5000);
    thread::scope(|scope| {
        for thread in 0..threads {
            let history = &history;
            scope.spawn(move || {
                for number in 0..each {
                    history.add(FinishedRequest::of_test(number * threads + thread, Instant::now()));
                }
            });
        }
        for _ in 0..20 {
            let seen = numbers(&history, &all());
            assert!(seen.len() <= MAX_REQUESTS);
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "each request is there once");
            history.sums(Window::Hour);
        }
    });
    assert_eq!(numbers(&history, &all()).len(), MAX_REQUESTS);
    assert_eq!(history.sums(Window::SinceStart).pulls, threads * each);
}
