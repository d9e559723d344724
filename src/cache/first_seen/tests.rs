use std::{fs, sync::Barrier};

use super::*;
use crate::{
    oci::{AcceptClass, Algorithm},
    rule::{First, RuleName},
    state_dir::{FIRST_SEEN, FIRST_SEEN_DAMAGED},
};

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

fn hold() -> Hold {
    let rule = Arc::new(RuleName { pattern: "*".into(), line: None });
    Hold { minimum_age: WEEK, first: First::Deny, is_final: false, rule }
}

fn digest(of: &str) -> Digest {
    Digest::of(Algorithm::Sha256, of.as_bytes())
}

fn class() -> AcceptClass {
    Accept::default().class()
}

fn key(tag: &str) -> TagKey {
    TagKey {
        visibility: Default::default(),
        upstream: "docker.io".into(),
        repository: "team/app".parse().unwrap(),
        tag: tag.parse().unwrap(),
        class: class(),
    }
}

/// What a tag means after a check that finds this digest, at a time that lies so far from now.
async fn check(seen: &FirstSeen, tag: &str, of: &str, ago: Duration) -> Meaning {
    seen.note(&key(tag), &digest(of), SystemTime::now() - ago, &hold()).await;
    seen.meaning(&key(tag), &digest(of), &hold())
}

fn kept_in(directory: &Path) -> FirstSeen {
    let seen = FirstSeen::default();
    seen.keep(directory);
    seen
}

fn lines(directory: &Path) -> Vec<String> {
    fs::read_to_string(directory.join(FIRST_SEEN)).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn ages_and_meanings_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let seen = kept_in(directory.path());
    check(&seen, "1", "a", 2 * WEEK).await;
    check(&seen, "2", "a", Duration::ZERO).await;
    // A clone is what another process finds, at whatever moment the first one is killed.
    let later = kept_in(directory.path());
    assert_eq!(check(&later, "1", "a", Duration::ZERO).await, Meaning::Present);
    assert!(matches!(check(&later, "2", "a", Duration::ZERO).await, Meaning::NothingYet { .. }));
    check(&later, "1", "b", Duration::ZERO).await;
    let last = kept_in(directory.path());
    assert_eq!(last.meaning(&key("1"), &digest("b"), &hold()), Meaning::Earlier(digest("a")));
    assert_eq!(last.held(&TagName::from(&key("1")), false), [digest("a")]);
    last.forget(TagName::from(&key("1"))).await;
    assert_eq!(kept_in(directory.path()).tags(), [TagName::from(&key("2"))]);
}

#[tokio::test]
async fn a_line_that_a_kill_cut_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let seen = kept_in(directory.path());
    check(&seen, "1", "a", 2 * WEEK).await;
    check(&seen, "2", "a", 2 * WEEK).await;
    let file = directory.path().join(FIRST_SEEN);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    let later = kept_in(directory.path());
    assert_eq!(later.tags(), [TagName::from(&key("1"))]);
    assert_eq!(check(&later, "1", "a", Duration::ZERO).await, Meaning::Present);
    assert!(!directory.path().join(FIRST_SEEN_DAMAGED).exists());
}

#[tokio::test]
async fn after_damage_what_was_eligible_stays_and_ages_begin_anew() {
    let directory = tempfile::tempdir().unwrap();
    let seen = kept_in(directory.path());
    check(&seen, "1", "a", 3 * WEEK).await;
    check(&seen, "1", "a", 2 * WEEK).await;
    check(&seen, "2", "c", 2 * WEEK).await;
    seen.note_push(TagName::from(&key("3")), &digest("d")).await;
    check(&seen, "3", "e", 2 * WEEK).await;
    let file = directory.path().join(FIRST_SEEN);
    let damaged = fs::read_to_string(&file).unwrap().replacen("{", "\u{0}", 1);
    fs::write(&file, &damaged).unwrap();
    let later = kept_in(directory.path());
    // The damaged line was one of the first tag, but that is not known.
    assert!(matches!(check(&later, "2", "c", Duration::ZERO).await, Meaning::NothingYet { .. }));
    assert_eq!(check(&later, "3", "e", Duration::ZERO).await, Meaning::Earlier(digest("d")));
    assert_eq!(fs::read_to_string(directory.path().join(FIRST_SEEN_DAMAGED)).unwrap(), damaged);
    assert!(lines(directory.path()).iter().all(|line| line::decode(line).is_some()));
}

#[tokio::test]
async fn the_file_does_not_grow_with_the_number_of_checks() {
    let directory = tempfile::tempdir().unwrap();
    let seen = kept_in(directory.path());
    for number in 0..3u32 {
        check(&seen, "1", &number.to_string(), Duration::ZERO).await;
    }
    assert_eq!(lines(directory.path()).len(), 3, "each move is a line");
    for _ in 0..9 {
        check(&seen, "1", "2", Duration::ZERO).await;
    }
    assert_eq!(lines(directory.path()).len(), 3, "a check that changes nothing is none");
    check(&seen, "1", "2", Duration::ZERO).await;
    assert_eq!(kept_in(directory.path()).tags().len(), 1);
    assert_eq!(lines(directory.path()).len(), 1, "a start keeps what counts");
}

#[tokio::test]
async fn what_could_not_be_written_is_written_with_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let seen = kept_in(directory.path());
    check(&seen, "1", "a", Duration::ZERO).await;
    fs::remove_file(directory.path().join(FIRST_SEEN)).unwrap();
    check(&seen, "1", "b", Duration::ZERO).await;
    check(&seen, "2", "a", Duration::ZERO).await;
    assert!(kept_in(directory.path()).names(&key("1"), &digest("b")));
}

#[tokio::test]
async fn without_a_directory_all_is_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let seen = kept_in(&file);
    check(&seen, "1", "a", 2 * WEEK).await;
    assert!(seen.names(&key("1"), &digest("a")));
    // A reload names another directory.
    seen.keep(directory.path());
    assert!(kept_in(directory.path()).names(&key("1"), &digest("a")));
}

#[tokio::test]
async fn a_deleted_manifest_is_meant_by_no_tag() {
    let seen = FirstSeen::default();
    for tag in ["1", "2"] {
        seen.note_push(TagName::from(&key(tag)), &digest("a")).await;
    }
    check(&seen, "2", "b", Duration::ZERO).await;
    let repository = "team/app".parse().unwrap();
    assert!(seen.forget_digest("docker.io", &"team/other".parse().unwrap(), &digest("a")).await.is_empty());
    assert_eq!(seen.forget_digest("docker.io", &repository, &digest("a")).await.len(), 2);
    assert_eq!(seen.eligible(&key("1")), None);
    assert!(matches!(seen.meaning(&key("2"), &digest("b"), &hold()), Meaning::NothingYet { .. }));
    seen.note_absent(&key("2")).await;
    assert!(!seen.names(&key("2"), &digest("b")));
}

/// A tag whose present digest was found at this time, and that has named it for a year if it is `eligible`.
fn seen_at(checked: SystemTime, eligible: Option<&str>) -> SeenTag {
    let present = checks::Present { digest: digest("a"), age: Duration::ZERO, checked, steady: None };
    let of_class = checks::ClassChecks { class: class(), present: Some(present), eligible: eligible.map(digest) };
    let checks = TagChecks { classes: vec![of_class], is_imported: false };
    SeenTag { checks, ..SeenTag::default() }
}

#[test]
fn the_number_of_tags_is_bounded_and_the_last_ones_stay() {
    let mut tags = HashMap::new();
    for number in 0..=u32::try_from(MAX_TAGS).unwrap() {
        let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number));
        tags.insert(TagName::from(&key(&format!("t{number}"))), seen_at(checked, None));
    }
    let dropped = drop_least(&mut tags);
    assert_eq!((tags.len(), dropped.len()), (MAX_TAGS - MAX_TAGS / DROPPED_PART, 1 + MAX_TAGS / DROPPED_PART));
    assert!(tags.contains_key(&TagName::from(&key(&format!("t{MAX_TAGS}")))));
    assert!(dropped.contains(&TagName::from(&key("t0"))));
    assert!(drop_least(&mut tags).is_empty());
}

/// A client requests thousands of tags that were never requested before.
#[test]
fn many_new_tags_make_none_begin_anew_that_means_another() {
    let now = SystemTime::now();
    let mut tags = HashMap::new();
    for number in 0..MAX_TAGS {
        tags.insert(TagName::from(&key(&format!("new{number}"))), seen_at(now, Some("a")));
    }
    tags.insert(TagName::from(&key("held")), seen_at(now - WEEK, Some("b")));
    tags.insert(TagName::from(&key("frozen")), SeenTag { is_final: true, ..seen_at(now - WEEK, Some("a")) });
    tags.insert(TagName::from(&key("same")), seen_at(now - WEEK, Some("a")));
    tags.insert(TagName::from(&key("idle")), seen_at(now - 20 * WEEK, Some("b")));
    let used = SeenTag { used: Some(now), ..seen_at(now - 20 * WEEK, Some("b")) };
    tags.insert(TagName::from(&key("used")), used);
    drop_least(&mut tags);
    let is_there = |tag: &str| tags.contains_key(&TagName::from(&key(tag)));
    assert!(is_there("held") && is_there("frozen") && is_there("used"));
    assert!(!is_there("same") && !is_there("idle"));
}

#[tokio::test]
async fn pushes_are_bounded_and_what_is_dropped_is_told_once() {
    let seen = FirstSeen::default();
    for number in 0..=MAX_TAGS {
        seen.note_push(TagName::from(&key(&format!("t{number}"))), &digest("a")).await;
    }
    assert_eq!(seen.tags().len(), MAX_TAGS - MAX_TAGS / DROPPED_PART);
    assert_eq!((seen.take_dropped().len(), seen.take_dropped().len()), (1 + MAX_TAGS / DROPPED_PART, 0));
}

#[tokio::test]
async fn a_file_that_could_not_be_begun_is_written_later() {
    let directory = tempfile::tempdir().unwrap();
    // The name under which the file is made is taken.
    let taken = directory.path().join("first-seen.new");
    fs::create_dir(&taken).unwrap();
    let seen = kept_in(directory.path());
    check(&seen, "1", "a", Duration::ZERO).await;
    fs::remove_dir(&taken).unwrap();
    check(&seen, "2", "b", Duration::ZERO).await;
    assert!(kept_in(directory.path()).names(&key("1"), &digest("a")));
}

#[tokio::test]
async fn a_disk_that_hangs_holds_one_thread_and_loses_no_tag() {
    let directory = tempfile::tempdir().unwrap();
    let seen = kept_in(directory.path());
    let (hung, answers) = (seen.clone(), Arc::new(Barrier::new(2)));
    let disk = std::thread::spawn({
        let answers = answers.clone();
        move || {
            let _disk = hung.0.log.lock();
            answers.wait();
            answers.wait();
        }
    });
    answers.wait();
    let tags: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    let checks = tags.iter().map(|tag| check(&seen, tag, "a", Duration::ZERO));
    futures_util::future::join_all(checks).await;
    assert_eq!(seen.0.writer.available_permits(), 0);
    answers.wait();
    disk.join().unwrap();
    let _turn = seen.0.writer.acquire().await.unwrap();
    assert_eq!(lines(directory.path()).len(), tags.len());
}
