//! What the checks of one tag found (pure): what it names, for how long, and which digest clients get.
//!
//! What must hold: a digest ages only from one check that names it to the next, and no more than both clocks say; a check
//! that names another digest ends its age.

use std::time::{Duration, SystemTime};

use crate::{
    cache::freshness,
    oci::{AcceptClass, Digest},
    rule::{First, Hold},
};

/// For how many `Accept` classes the checks of one tag are remembered. Container clients use a handful.
pub(super) const MAX_CLASSES: usize = 8;

/// The time of a check, by the system's clock and by one that is never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub wall: SystemTime,
    /// Since the start of the process.
    pub steady: Duration,
}

/// What a tag names, as the last check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Present {
    pub digest: Digest,
    /// How long the checks prove that the tag has named it.
    pub age: Duration,
    pub checked: SystemTime,
    /// When this process checked; `None`: an earlier one did.
    pub steady: Option<Duration>,
}

/// A tag for the clients of one class: the upstream may name another digest to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClassChecks {
    pub class: AcceptClass,
    /// `None`: the next check begins anew.
    pub present: Option<Present>,
    /// What clients get.
    pub eligible: Option<Digest>,
}

/// What the checks of a tag found, by class; the class that was checked last is the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TagChecks {
    pub classes: Vec<ClassChecks>,
    /// What clients get came with an archive: it stays, whatever the upstream says.
    pub is_imported: bool,
}

/// What a tag means to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// What the upstream says.
    Present,
    /// What it named before.
    Earlier(Digest),
    /// Nothing, for so long at least.
    NothingYet { left: Duration },
}

impl TagChecks {
    /// Notes a check that found this digest; returns whether more changed than ages.
    pub(super) fn note(&mut self, class: AcceptClass, digest: &Digest, now: Moment, hold: &Hold) -> bool {
        let is_first = !self.has_eligible();
        let of_others = self.classes.iter().filter_map(|other| other.present.as_ref());
        let known = of_others.filter(|present| present.digest == *digest).max_by_key(|present| present.age).cloned();
        let is_eligible_elsewhere = self.classes.iter().any(|other| {
            other.eligible.as_ref() == Some(digest) && other.present.as_ref().is_some_and(|it| it.digest == *digest)
        });
        let mut of_class = self.take(class);
        let before = of_class.clone();
        let is_named = of_class.present.as_ref().is_some_and(|present| present.digest == *digest);
        if !is_named {
            // The tag moved: what other classes were told has ended, but for this digest.
            if of_class.present.is_some() {
                self.end_others(digest);
            }
            of_class.present = Some(known.unwrap_or_else(|| Present::begin(digest, now)));
        }
        let age = of_class.present.as_mut().map_or(Duration::ZERO, |present| present.advance(now));
        let is_old_enough = age >= hold.minimum_age || is_eligible_elsewhere;
        let is_settled = self.is_imported || (hold.is_final && !is_first);
        if !is_settled && (is_old_enough || (is_first && hold.first == First::Allow)) {
            of_class.eligible = Some(digest.clone());
        }
        let is_change = !is_named || of_class.eligible != before.eligible;
        self.classes.push(of_class);
        is_change
    }

    /// A push through forebay made the tag name this digest, which is eligible at once.
    pub(super) fn note_push(&mut self, class: AcceptClass, digest: &Digest, now: Moment) {
        if self.classes.is_empty() {
            self.classes.push(ClassChecks { class, present: None, eligible: None });
        }
        for of_class in &mut self.classes {
            of_class.present = Some(Present::begin(digest, now));
            of_class.eligible = Some(digest.clone());
        }
        self.is_imported = false;
    }

    /// A digest came with an archive: it is what clients get from now on.
    pub(super) fn note_import(&mut self, class: AcceptClass, digest: &Digest) {
        *self = Self {
            classes: vec![ClassChecks { class, present: None, eligible: Some(digest.clone()) }],
            is_imported: true,
        };
    }

    /// The upstream has no such tag: whatever it names next begins anew. What clients got stays.
    pub(super) fn note_absent(&mut self) {
        self.classes.iter_mut().for_each(|of_class| of_class.present = None);
    }

    /// Forgets a digest that was deleted; returns whether the tag named it or meant it.
    pub(super) fn forget_digest(&mut self, digest: &Digest) -> bool {
        let before = self.clone();
        for of_class in &mut self.classes {
            of_class.present.take_if(|present| present.digest == *digest);
            of_class.eligible.take_if(|eligible| eligible == digest);
        }
        self.is_imported &= self.has_eligible();
        *self != before
    }

    /// What the tag means to clients of a class, now that the upstream names `present`.
    pub(super) fn meaning(&self, class: AcceptClass, present: &Digest, hold: &Hold) -> Meaning {
        match self.eligible(class) {
            Some(eligible) if eligible == present => Meaning::Present,
            Some(eligible) => Meaning::Earlier(eligible.clone()),
            None => {
                let named = self.classes.iter().filter_map(|of_class| of_class.present.as_ref());
                let age = named.filter(|named| named.digest == *present).map(|named| named.age).max();
                match hold.minimum_age.saturating_sub(age.unwrap_or_default()) {
                    // A reload changed the rule, and the upstream need not be asked yet.
                    left if left.is_zero() || hold.first == First::Allow => Meaning::Present,
                    left => Meaning::NothingYet { left },
                }
            }
        }
    }

    /// The digest that clients of a class get, else that of the class that was checked last.
    pub(super) fn eligible(&self, class: AcceptClass) -> Option<&Digest> {
        let own = self.classes.iter().find(|of_class| of_class.class == class);
        let mut others = self.classes.iter().rev().filter_map(|other| other.eligible.as_ref());
        own.and_then(|own| own.eligible.as_ref()).or_else(|| others.next())
    }

    /// Whether clients of any class get something.
    pub(super) fn has_eligible(&self) -> bool {
        self.classes.iter().any(|of_class| of_class.eligible.is_some())
    }

    /// Whether the last check for a class found this digest.
    pub(super) fn names(&self, class: AcceptClass, digest: &Digest) -> bool {
        let own = self.classes.iter().find(|of_class| of_class.class == class);
        own.and_then(|own| own.present.as_ref()).is_some_and(|present| present.digest == *digest)
    }

    /// The last check of any class.
    pub(super) fn checked(&self) -> Option<SystemTime> {
        self.classes.iter().filter_map(|of_class| of_class.present.as_ref()).map(|present| present.checked).max()
    }

    /// The digests that the upstream may not have any more, or that are never asked about again.
    pub(super) fn held(&self, is_final: bool) -> Vec<Digest> {
        let is_final = is_final || self.is_imported;
        let is_present = |of_class: &ClassChecks, digest: &Digest| {
            of_class.present.as_ref().is_some_and(|present| present.digest == *digest)
        };
        let of_class = |of_class: &ClassChecks| {
            of_class.eligible.clone().filter(|eligible| is_final || !is_present(of_class, eligible))
        };
        let mut held: Vec<Digest> = self.classes.iter().filter_map(of_class).collect();
        held.sort_unstable();
        held.dedup();
        held
    }

    /// Takes a class out; the surplus of classes goes. A new class inherits what others get: a client that makes up
    /// classes must not make the tag forget it.
    fn take(&mut self, class: AcceptClass) -> ClassChecks {
        let found = self.classes.iter().position(|of_class| of_class.class == class);
        match found {
            Some(place) => self.classes.remove(place),
            None => {
                let eligible = self.eligible(class).cloned();
                while self.classes.len() >= MAX_CLASSES {
                    self.classes.remove(0);
                }
                ClassChecks { class, present: None, eligible }
            }
        }
    }

    fn end_others(&mut self, moved_to: &Digest) {
        for other in &mut self.classes {
            other.present.take_if(|present| present.digest != *moved_to);
        }
    }
}

impl Present {
    fn begin(digest: &Digest, now: Moment) -> Self {
        Self { digest: digest.clone(), age: Duration::ZERO, checked: now.wall, steady: Some(now.steady) }
    }

    /// A check names the digest again; returns its age.
    fn advance(&mut self, now: Moment) -> Duration {
        let by_wall = now.wall.duration_since(self.checked).unwrap_or_default();
        let passed = match self.steady {
            Some(before) => by_wall.min(now.steady.saturating_sub(before)),
            // A clock that was not set when the machine started tells nothing.
            None if freshness::is_set(self.checked) && freshness::is_set(now.wall) => by_wall,
            None => Duration::ZERO,
        };
        self.age = self.age.saturating_add(passed);
        self.checked = now.wall;
        self.steady = Some(now.steady);
        self.age
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        oci::{Accept, Algorithm},
        rule::RuleName,
    };

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn hold(days: u32, first: First, is_final: bool) -> Hold {
        let rule = Arc::new(RuleName { pattern: "*".into(), line: None });
        Hold { minimum_age: DAY * days, first, is_final, rule }
    }

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn class(number: usize) -> AcceptClass {
        let value = http::HeaderValue::from_str(&format!("application/x-{number}")).unwrap();
        Accept::from_headers(&http::HeaderMap::from_iter([(http::header::ACCEPT, value)])).class()
    }

    fn at(days: f64) -> Moment {
        let since = DAY.mul_f64(days);
        Moment { wall: SystemTime::UNIX_EPOCH + 20_500 * DAY + since, steady: since }
    }

    /// What a tag means after checks at these days, each of which finds this digest ("-": no such tag).
    fn meaning(hold: &Hold, checks: &[(f64, &str)]) -> Meaning {
        let mut tag = TagChecks::default();
        let mut last = "";
        for (days, found) in checks {
            match *found {
                "-" => tag.note_absent(),
                found => drop(tag.note(class(0), &digest(found), at(*days), hold)),
            }
            last = found;
        }
        tag.meaning(class(0), &digest(last), hold)
    }

    fn earlier(of: &str) -> Meaning {
        Meaning::Earlier(digest(of))
    }

    fn left(days: f64) -> Meaning {
        Meaning::NothingYet { left: DAY.mul_f64(days) }
    }

    #[test]
    fn a_digest_is_eligible_after_the_minimum_age() {
        let hold = hold(7, First::Deny, false);
        for (checks, expected) in [
            (&[(0.0, "a")][..], left(7.0)),
            (&[(0.0, "a"), (6.5, "a")], left(0.5)),
            (&[(0.0, "a"), (7.0, "a")], Meaning::Present),
            // No check in between: an outage, or no client.
            (&[(0.0, "a"), (30.0, "a")], Meaning::Present),
            (&[(0.0, "a"), (6.0, "a"), (30.0, "b")], left(7.0)),
            (&[(0.0, "a"), (8.0, "a"), (9.0, "b")], earlier("a")),
            (&[(0.0, "a"), (8.0, "a"), (9.0, "b"), (15.9, "b")], earlier("a")),
            (&[(0.0, "a"), (8.0, "a"), (9.0, "b"), (16.0, "b")], Meaning::Present),
            // What was replaced begins anew.
            (&[(0.0, "a"), (5.0, "b"), (6.0, "a"), (8.0, "a")], left(5.0)),
            (&[(0.0, "a"), (5.0, "b"), (6.0, "a"), (13.0, "a")], Meaning::Present),
            (&[(0.0, "a"), (8.0, "a"), (9.0, "b"), (10.0, "a")], Meaning::Present),
            (&[(0.0, "a"), (8.0, "a"), (9.0, "b"), (17.0, "b"), (18.0, "a")], earlier("b")),
            // So does a tag that was deleted.
            (&[(0.0, "a"), (5.0, "-"), (6.0, "a"), (8.0, "a")], left(5.0)),
            (&[(0.0, "a"), (8.0, "a"), (9.0, "-"), (10.0, "b")], earlier("a")),
            // One that moves each day is never eligible.
            (&[(0.0, "a"), (1.0, "b"), (2.0, "c"), (9.0, "d")], left(7.0)),
        ] {
            assert_eq!(meaning(&hold, checks), expected, "{checks:?}");
        }
    }

    #[test]
    fn the_first_digest_may_be_allowed_and_the_next_waits() {
        let hold = hold(7, First::Allow, false);
        for (checks, expected) in [
            (&[(0.0, "a")][..], Meaning::Present),
            (&[(0.0, "a"), (0.1, "b")], earlier("a")),
            (&[(0.0, "a"), (0.5, "b"), (7.5, "b")], Meaning::Present),
            (&[(0.0, "a"), (0.1, "-"), (0.2, "b")], earlier("a")),
        ] {
            assert_eq!(meaning(&hold, checks), expected, "{checks:?}");
        }
    }

    #[test]
    fn a_frozen_tag_stays_as_it_was_first_eligible() {
        for (hold, checks, expected) in [
            (hold(0, First::Deny, true), &[(0.0, "a")][..], Meaning::Present),
            (hold(0, First::Deny, true), &[(0.0, "a"), (99.0, "b"), (999.0, "b")], earlier("a")),
            (hold(7, First::Deny, true), &[(0.0, "a"), (1.0, "b"), (9.0, "b"), (10.0, "c"), (99.0, "c")], earlier("b")),
        ] {
            assert_eq!(meaning(&hold, checks), expected, "{checks:?}");
        }
    }

    #[test]
    fn a_clock_that_jumps_makes_nothing_eligible() {
        let hold = hold(7, First::Deny, false);
        let moment = |wall: f64, steady: f64| Moment { wall: at(wall).wall, steady: DAY.mul_f64(steady) };
        // By the system's clock and by the steady one.
        for (checks, expected) in [
            (&[(0.0, 0.0), (365.0, 1.0)][..], left(6.0)),
            (&[(365.0, 0.0), (1.0, 1.0), (2.0, 2.0)], left(6.0)),
            (&[(365.0, 0.0), (0.0, 0.5), (7.0, 7.5)], Meaning::Present),
            (&[(0.0, 0.0), (-5.0, 1.0), (2.0, 8.0)], Meaning::Present),
            (&[(0.0, 0.0), (-20_500.0, 1.0), (2.0, 2.0)], left(6.0)),
        ] {
            let mut tag = TagChecks::default();
            for (wall, steady) in checks {
                let wall = if *wall < 0.0 { at(0.0).wall - DAY.mul_f64(-wall) } else { at(*wall).wall };
                tag.note(class(0), &digest("a"), Moment { wall, ..moment(0.0, *steady) }, &hold);
            }
            assert_eq!(tag.meaning(class(0), &digest("a"), &hold), expected, "{checks:?}");
        }
        // After a restart the system's clock counts, once it is set.
        let unset = SystemTime::UNIX_EPOCH;
        for (checked, now, expected) in [
            (at(0.0).wall, at(8.0).wall, Meaning::Present),
            (at(8.0).wall, at(0.0).wall, left(7.0)),
            (unset, at(8.0).wall, left(7.0)),
            (at(0.0).wall, unset, left(7.0)),
        ] {
            let present = Present { digest: digest("a"), age: Duration::ZERO, checked, steady: None };
            let mut tag = TagChecks {
                classes: vec![ClassChecks { class: class(0), present: Some(present), eligible: None }],
                is_imported: false,
            };
            tag.note(class(0), &digest("a"), Moment { wall: now, steady: DAY * 99 }, &hold);
            assert_eq!(tag.meaning(class(0), &digest("a"), &hold), expected, "{checked:?} {now:?}");
        }
    }

    #[test]
    fn a_pushed_digest_is_eligible_at_once_for_all() {
        let hold = hold(7, First::Deny, false);
        for seen in [&[][..], &[0], &[0, 1]] {
            let mut tag = TagChecks::default();
            for number in seen {
                tag.note(class(*number), &digest("a"), at(0.0), &hold);
            }
            tag.note_push(class(9), &digest("b"), at(1.0));
            for number in 0..3 {
                tag.note(class(number), &digest("b"), at(1.1), &hold);
                assert_eq!(tag.meaning(class(number), &digest("b"), &hold), Meaning::Present, "{seen:?} {number}");
            }
            // What another client of the upstream makes of the tag waits.
            tag.note(class(0), &digest("c"), at(2.0), &hold);
            assert_eq!(tag.meaning(class(0), &digest("c"), &hold), earlier("b"));
        }
    }

    #[test]
    fn classes_share_the_age_of_a_digest() {
        let hold = hold(7, First::Deny, false);
        let mut tag = TagChecks::default();
        tag.note(class(0), &digest("a"), at(0.0), &hold);
        assert_eq!(tag.meaning(class(1), &digest("a"), &hold), left(7.0));
        tag.note(class(1), &digest("a"), at(7.0), &hold);
        assert_eq!(tag.meaning(class(1), &digest("a"), &hold), Meaning::Present);
        // A registry converts the manifest for a third class, which ends nothing.
        tag.note(class(2), &digest("converted"), at(8.0), &hold);
        tag.note(class(0), &digest("a"), at(8.1), &hold);
        assert_eq!(tag.meaning(class(0), &digest("a"), &hold), Meaning::Present);
        // One class sees the tag move, and move back: for the others it is not what it was either.
        tag.note(class(0), &digest("b"), at(9.0), &hold);
        tag.note(class(0), &digest("a"), at(9.1), &hold);
        tag.note(class(1), &digest("a"), at(9.2), &hold);
        assert!(tag.classes.iter().all(|of_class| of_class.present.as_ref().is_none_or(|it| it.age < DAY)), "{tag:?}");
        // Each `Accept` that a client makes up is a class.
        for number in 10..99 {
            tag.note(class(number), &digest("a"), at(9.3), &hold);
        }
        assert_eq!(tag.classes.len(), MAX_CLASSES);
        assert_eq!(tag.eligible(class(7)), Some(&digest("a")));
    }

    #[test]
    fn what_the_upstream_may_lack_is_held() {
        let hold = hold(7, First::Allow, false);
        let mut tag = TagChecks::default();
        tag.note(class(0), &digest("a"), at(0.0), &hold);
        assert_eq!((tag.held(false), tag.held(true)), (vec![], vec![digest("a")]));
        tag.note(class(0), &digest("b"), at(1.0), &hold);
        assert_eq!(tag.held(false), [digest("a")]);
        assert!(tag.forget_digest(&digest("a")) && !tag.forget_digest(&digest("a")));
        assert!(tag.held(false).is_empty());
        assert!(tag.names(class(0), &digest("b")) && !tag.names(class(0), &digest("a")));
    }

    #[test]
    fn an_imported_digest_stays_until_a_push_or_a_deletion() {
        let hold = hold(0, First::Allow, false);
        let mut tag = TagChecks::default();
        tag.note(class(0), &digest("a"), at(0.0), &hold);
        tag.note_import(class(1), &digest("b"));
        tag.note(class(0), &digest("c"), at(1.0), &hold);
        tag.note(class(0), &digest("c"), at(99.0), &hold);
        tag.note_absent();
        for number in 0..3 {
            assert_eq!(tag.eligible(class(number)), Some(&digest("b")), "{number}");
        }
        assert!(tag.is_imported && tag.held(false) == [digest("b")]);
        let mut deleted = tag.clone();
        assert!(deleted.forget_digest(&digest("b")) && !deleted.is_imported);
        tag.note_push(class(0), &digest("d"), at(100.0));
        assert_eq!((tag.eligible(class(1)), tag.is_imported), (Some(&digest("d")), false));
    }
}
