//! A tag ages once, however many mirrors it comes through.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::Method;

use crate::cache::manifest::files;
use crate::cache::manifest::tag::age;
use forebay_test_support::manifest::{asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Gate, Server, When},
    mirror::{Answer, Mirror},
    until::{bounded, until},
};

/// Makes the one tag of a mirror that is not running look as if it had been confirmed so much earlier.
fn shift(cache: &Path, by: u64) {
    let (then, record) = (confirmed(cache), &files(&cache.join("tags"))[0]);
    let text = fs::read_to_string(record).unwrap();
    fs::write(record, text.replace(&format!("confirmed = {then}"), &format!("confirmed = {}", then - by))).unwrap();
}

const MINUTE: Duration = Duration::from_secs(60);

fn told_age(answer: &Answer) -> Option<u64> {
    answer.header("age").map(|age| age.parse().unwrap())
}

/// When the one tag of a mirror was confirmed, in seconds since 1970.
fn confirmed(cache: &Path) -> u64 {
    let records: Vec<PathBuf> = ["tags", "clients/tags"].iter().flat_map(|tags| files(&cache.join(tags))).collect();
    assert_eq!(records.len(), 1, "{records:?}");
    let text = fs::read_to_string(&records[0]).unwrap();
    text.lines().find_map(|line| line.strip_prefix("confirmed = ")).unwrap().parse().unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A mirror behind another one.
async fn behind(mirror: &Mirror) -> Mirror {
    let url = mirror.url();
    let text = format!("[[upstream]]\nname = \"next.example\"\nurls = [\"{url}\"]\ndefault = true\n");
    Mirror::parse(&text).start().await
}

/// What a forebay would say of the age of its answer.
fn aged(registry: &FakeRegistry, age: &str) {
    registry.heal();
    registry.fault(When::manifests(), Fault::Header("via", Some("1.1 forebay-3f2a0000".to_owned())));
    registry.fault(When::manifests(), Fault::Header("age", Some(age.to_owned())));
}

#[tokio::test]
async fn every_answer_by_a_tag_tells_its_age() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    assert!(told_age(&mirror.get(&manifest(1)).await).is_some(), "a miss");
    let etag = format!("\"{}\"", image.manifest);
    for (seconds, outcome) in [(50, "forebay; hit"), (3600, "forebay; hit; detail=stale")] {
        mirror.drain().await;
        age(&mirror.cache_dir(), Duration::from_secs(seconds));
        mirror.start().await;
        registry.take_down(Server::Api).await;
        for (method, headers) in
            [(Method::GET, &[][..]), (Method::HEAD, &[]), (Method::GET, &[("if-none-match", etag.as_str())])]
        {
            let answer = mirror.request(method, &manifest(1), headers).await;
            assert_eq!(answer.header("cache-status"), Some(outcome), "{answer:?}");
            let told = told_age(&answer).unwrap();
            assert!((seconds..2 * seconds).contains(&told), "{seconds}: {answer:?}");
        }
        registry.bring_up(Server::Api).await;
    }
    for method in [Method::GET, Method::HEAD] {
        let answer = mirror.request(method, &manifest(&image.manifest), &[]).await;
        assert_eq!((answer.status, told_age(&answer)), (200, None), "content does not age");
    }
    let head = Mirror::of(&registry).await.head(&manifest(&image.manifest)).await;
    assert_eq!((head.status, told_age(&head)), (200, None), "nor where it is not here");
    assert_eq!(told_age(&mirror.get(&manifest(2)).await), None, "there is none");
}

#[tokio::test]
async fn a_tag_ages_once_in_a_row_of_mirrors() {
    let registry = FakeRegistry::start().await;
    let old = registry.add_image("team/app", "1", &[b"old"]);
    let mut near_registry = Mirror::of(&registry).await;
    near_registry.get(&manifest(1)).await;
    near_registry.drain().await;
    age(&near_registry.cache_dir(), Duration::from_secs(50));
    near_registry.start().await;
    let mut near_client = behind(&near_registry).await;
    for method in [Method::HEAD, Method::GET] {
        let answer = near_client.request(method, &manifest(1), &[]).await;
        assert!(told_age(&answer) >= Some(50), "{answer:?}");
    }
    assert_eq!(near_client.get(&manifest(1)).await.body, old.manifest_bytes);
    let then = confirmed(&near_registry.cache_dir());
    let told = confirmed(&near_client.cache_dir());
    // Ages are told in whole seconds, and the answer was on its way for a moment.
    assert!((then..then + 20).contains(&told), "{then} {told}");
    // More than one `tag_ttl` after the registry was asked, both ask again.
    registry.forget_requests();
    let new = registry.add_image("team/app", "1", &[b"new"]);
    for mirror in [&mut near_registry, &mut near_client] {
        mirror.drain().await;
        shift(&mirror.cache_dir(), 30);
    }
    near_registry.start().await;
    let url = near_registry.url().parse().unwrap();
    near_client.start_with(|config| config.upstreams[0].urls = vec![url]).await;
    let answer = near_client.get(&manifest(1)).await;
    assert_eq!((answer.status, answer.body), (200, new.manifest_bytes));
    assert_eq!(asked(&registry, Method::HEAD), 1);
}

#[tokio::test]
async fn an_age_counts_with_the_via_of_a_forebay_alone() {
    for (via, is_forebay) in [
        (Some("1.1 forebay-3f2a0000"), true),
        (Some("1.1 forebay-3f2a0000, 1.1 varnish"), true),
        (Some("1.1 varnish"), false),
        (None, false),
    ] {
        for access in ["shared", "client"] {
            let registry = FakeRegistry::start().await;
            registry.add_image("team/app", "1", &[b"layer"]);
            aged(&registry, "50");
            registry.fault(When::manifests(), Fault::Header("via", via.map(str::to_owned)));
            let url = registry.url();
            let text = format!(
                "[[upstream]]\nname = \"a.example\"\nurls = [\"{url}\"]\ndefault = true\naccess = \"{access}\"\n"
            );
            let mirror = Mirror::parse(&text).start().await;
            let before = now();
            let answer = mirror.get(&manifest(1)).await;
            let (told, then) = (told_age(&answer).unwrap(), confirmed(&mirror.cache_dir()));
            assert_eq!(told >= 50, is_forebay, "{via:?} {access} {told}");
            assert_eq!(then < before, is_forebay, "{via:?} {access} {then} {before}");
        }
    }
}

#[tokio::test]
async fn an_age_that_is_no_number_says_nothing() {
    for garbage in ["-1", "1e9", "x", "0x99999", "1.5", "", ", 99999"] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        aged(&registry, garbage);
        let mirror = Mirror::of(&registry).await;
        for _ in 0..5 {
            assert!(told_age(&mirror.get(&manifest(1)).await).unwrap() < 50, "{garbage}");
        }
        assert_eq!(registry.requests().len(), 1, "{garbage}");
    }
}

#[tokio::test]
async fn whatever_the_age_one_question_in_a_second() {
    for told in ["60", "99999", "99999999", "2147483648", "99999999999999999999999", "99999999, 1", "99999999,x"] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        aged(&registry, told);
        let mirror = Mirror::of(&registry).await;
        let began = Instant::now();
        for _ in 0..20 {
            let get = mirror.get(&manifest(1)).await;
            assert_eq!((get.status, get.body), (200, image.manifest_bytes.clone()), "{told}");
            assert!(told_age(&mirror.head(&manifest(1)).await) >= Some(60), "{told}");
        }
        // A record beyond every bound costs a GET each time, any other a HEAD.
        let most = began.elapsed().as_secs() + 1;
        assert!(registry.requests().len() as u64 <= most, "{told}: {} > {most}", registry.requests().len());
    }
}

/// Of clients that accept different types as of one, where the tag points to the same for them.
#[tokio::test]
async fn one_question_in_a_second_for_all_kinds_of_clients() {
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let accepts = [oci.to_owned(), "*/*".to_owned(), format!("{oci}, {docker}"), format!("{oci}, */*")];
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    aged(&registry, "99999");
    let mirror = Mirror::of(&registry).await;
    for accept in &accepts {
        assert_eq!(mirror.get_with(&manifest(1), &[("accept", accept)]).await.status, 200);
    }
    registry.forget_requests();
    let began = Instant::now();
    for _ in 0..10 {
        for accept in &accepts {
            let headers = [("accept", accept.as_str())];
            let get = mirror.get_with(&manifest(1), &headers).await;
            assert_eq!((get.status, get.body), (200, image.manifest_bytes.clone()), "{accept}");
            assert_eq!(mirror.request(Method::HEAD, &manifest(1), &headers).await.status, 200, "{accept}");
        }
    }
    let most = began.elapsed().as_secs() + 1;
    assert!(registry.requests().len() as u64 <= most, "{} > {most}", registry.requests().len());
}

/// A GET of what is known asks by HEAD, together with those who ask by HEAD.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_and_a_head_of_a_stale_tag_are_one_question() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mut mirror = Mirror::of(&registry).await;
    assert_eq!(mirror.get(&manifest(1)).await.status, 200);
    mirror.drain().await;
    age(&mirror.cache_dir(), Duration::from_secs(3600));
    mirror.start().await;
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault(When::manifests(), Fault::HoldHead(gate.clone()));
    let path = manifest(1);
    let asking = async { tokio::join!(mirror.get(&path), mirror.head(&path), mirror.get(&path), mirror.head(&path)) };
    let opening = async {
        bounded(gate.reached()).await;
        gate.open();
    };
    let ((get, head, ..), ()) = tokio::join!(asking, opening);
    assert_eq!((get.status, get.body), (200, image.manifest_bytes));
    assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(image.manifest.as_str())));
    assert_eq!((asked(&registry, Method::HEAD), asked(&registry, Method::GET)), (1, 0));
}

#[tokio::test]
async fn an_outage_counts_from_when_a_tag_was_confirmed() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"layer"]);
    for (told, status) in [(40 * MINUTE, 200), (80 * MINUTE, 502)] {
        aged(&registry, &told.as_secs().to_string());
        let hour = |config: &mut forebay::config::Config| config.cache.stale_if_error = 60 * MINUTE;
        let mut mirror = Mirror::build(&registry).config(hour).start().await;
        assert_eq!(mirror.get(&manifest(1)).await.status, 200);
        // The second in which it is not asked again does not outlive a restart.
        mirror.restart().await;
        registry.take_down(Server::Api).await;
        for method in [Method::GET, Method::HEAD] {
            let answer = mirror.request(method, &manifest(1), &[]).await;
            assert_eq!(answer.status, status, "{told:?}");
        }
        registry.bring_up(Server::Api).await;
    }
}

/// Each `Accept` that a client makes up is a class of clients, with a record of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_has_records_for_few_classes_of_clients() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    for class in 0..40 {
        let accept = format!("application/vnd.oci.image.manifest.v1+json, application/x-{class}");
        let told = mirror.request(Method::HEAD, &manifest(1), &[("accept", &accept)]).await;
        assert_eq!(told.header("docker-content-digest"), Some(image.manifest.as_str()));
    }
    let records = mirror.cache_dir().join("tags");
    until("few records are left", async || files(&records).len() <= 16).await;
    assert!(!files(&records).is_empty());
}
