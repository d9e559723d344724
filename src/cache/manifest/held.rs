//! Tags that a rule holds: they mean the digest that the rule says, which is then served as if the client had requested
//! it by digest.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    ManifestCache, error::ManifestError, fetched::ManifestHead, import::is_of_import, request::ManifestRequest,
};
use crate::{
    cache::{
        ContentKey, Outcome, Visibility,
        first_seen::{Meaning, TagName},
        freshness::Freshness,
        storage::tag_record::TagKey,
    },
    oci::{Digest, Reference, Repository, Tag},
    rule::{First, Hold, RuleName, Rules, TagRules},
    upstream::Upstream,
};

/// What a tag means by its rules.
#[derive(Clone, Debug)]
pub(crate) struct HeldTag {
    pub digest: Digest,
    pub outcome: Outcome,
    /// When the upstream last said what the tag names, if it is asked at all.
    pub confirmed: Option<SystemTime>,
    /// The rule that makes the tag mean another digest than the upstream says.
    pub instead: Option<Arc<RuleName>>,
}

impl ManifestCache {
    /// What the rules say about a reference: of a digest nothing.
    pub(crate) fn rules_of(&self, upstream: &Upstream, repository: &Repository, reference: &Reference) -> TagRules {
        match reference {
            Reference::Tag(tag) => self.tag_rules(upstream.name(), repository, tag),
            Reference::Digest(_) => TagRules::default(),
        }
    }

    /// What a tag means; `None`: what the upstream says, which is not known yet.
    ///
    /// # Errors
    /// The rule serves nothing yet, or the upstream's error, if nothing may be served instead.
    pub(crate) async fn resolve_held(
        &self,
        request: &ManifestRequest,
        tag: &Tag,
        rules: &TagRules,
    ) -> Result<Option<HeldTag>, ManifestError> {
        let key = request.key(tag);
        let Some(hold) = &rules.hold else {
            let known = self.record(request, &key).await.0;
            return Ok(known.map(|record| HeldTag::unasked(record.digest.clone())));
        };
        let resolved = self.resolve(request, tag, &key, hold).await;
        self.keep_held(&TagName::from(&key), hold, &[key.visibility]).await;
        resolved.map(Some)
    }

    async fn resolve(
        &self,
        request: &ManifestRequest,
        tag: &Tag,
        key: &TagKey,
        hold: &Hold,
    ) -> Result<HeldTag, ManifestError> {
        if hold.is_final
            && let Some((digest, _)) = self.0.first_seen.eligible(key)
        {
            return Ok(HeldTag::unasked(digest));
        }
        let head = match self.head_tag(request, tag).await {
            Ok(head) => head,
            Err(error) if error.is_outage() => return self.eligible_in_outage(request, key, hold).ok_or(error),
            Err(error) => return Err(error),
        };
        let ManifestHead { digest, outcome, confirmed, .. } = head;
        // The record is older than the rule, or than what is remembered of the tag; or an earlier rule did not allow the
        // first digest. A stale record is no check.
        let first_seen = &self.0.first_seen;
        let is_first = || hold.first == First::Allow && first_seen.eligible(key).is_none();
        if outcome != Outcome::Stale && (!first_seen.names(key, &digest) || is_first()) {
            let confirmed = confirmed.unwrap_or_else(SystemTime::now);
            first_seen.note(key, &digest, confirmed, hold).await;
        }
        match first_seen.meaning(key, &digest, hold) {
            Meaning::Present => Ok(HeldTag { digest, outcome, confirmed, instead: None }),
            Meaning::Earlier(digest) => {
                // The upstream was asked, but what is served is not its answer.
                let outcome =
                    if outcome == Outcome::Hit || outcome == Outcome::Stale { outcome } else { Outcome::Revalidated };
                Ok(HeldTag { digest, outcome, confirmed, instead: Some(hold.rule.clone()) })
            }
            Meaning::NothingYet { left } => Err(nothing_yet(hold, left)),
        }
    }

    /// What a tag meant when the upstream could last be asked, if that is not too long ago. The tag's record may have
    /// been evicted.
    fn eligible_in_outage(&self, request: &ManifestRequest, key: &TagKey, hold: &Hold) -> Option<HeldTag> {
        let (digest, checked) = self.0.first_seen.eligible(key)?;
        let confirmed = checked?;
        let freshness = self.0.tags.judge_time(key, confirmed);
        let is_named = self.0.first_seen.names(key, &digest);
        (freshness >= Freshness::Stale && request.allows(&digest)).then(|| HeldTag {
            digest,
            outcome: Outcome::Stale,
            confirmed: Some(confirmed),
            instead: (!is_named).then(|| hold.rule.clone()),
        })
    }

    /// Keeps what a rule serves for a tag from being evicted, as far as the upstream may not have it any more.
    pub(super) async fn keep_held(&self, name: &TagName, hold: &Hold, visibilities: &[Visibility]) {
        for dropped in self.0.first_seen.take_dropped() {
            self.0.held.set(&dropped, &[]).await;
        }
        let held = if is_of_import(hold) { Vec::new() } else { self.0.first_seen.held(name, hold.is_final) };
        let keys: Vec<ContentKey> =
            held.iter().flat_map(|digest| visibilities.iter().map(|visibility| visibility.key(digest))).collect();
        self.0.held.set(name, &keys).await;
    }

    /// Keeps the times of first sight in this directory from now on. Blocks.
    pub(crate) fn keep_first_seen(&self, state: &Path) {
        self.0.first_seen.keep(state);
    }

    /// Other rules are in force from now on. Call [`ManifestCache::hold_by_rules`] next.
    pub(crate) fn set_rules(&self, rules: Rules) {
        self.0.rules.set(rules);
    }

    /// Holds the content that the rules serve, and releases what they do not serve any more.
    pub(crate) async fn hold_by_rules(&self) {
        for name in self.0.first_seen.tags() {
            let rules = self.tag_rules(&name.upstream, &name.repository, &name.tag);
            match rules.hold {
                Some(hold) => self.keep_held(&name, &hold, &Visibility::ALL).await,
                None => self.0.held.set(&name, &[]).await,
            }
        }
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> arc_swap::Guard<Arc<Rules>> {
        self.0.rules.get()
    }

    /// A push through forebay made a tag name this digest: no rule holds it back.
    pub(crate) async fn note_push(&self, upstream: &Upstream, repository: &Repository, tag: &Tag, digest: &Digest) {
        let hold = self.0.rules.get().tag(upstream.name(), repository, tag).hold;
        let name = TagName { upstream: upstream.name().clone(), repository: repository.clone(), tag: tag.clone() };
        self.end_import(&name).await;
        let Some(hold) = hold else { return };
        self.0.first_seen.note_push(name.clone(), digest).await;
        self.keep_held(&name, &hold, &[Visibility::of(upstream)]).await;
    }

    /// A person says that a tag begins anew: the next request asks the upstream, whatever a rule has kept so far.
    pub(crate) async fn refresh_tag(&self, upstream: &Upstream, repository: &Repository, tag: &Tag) {
        let name = TagName { upstream: upstream.name().clone(), repository: repository.clone(), tag: tag.clone() };
        self.end_import(&name).await;
        self.0.first_seen.forget(name.clone()).await;
        self.0.held.set(&name, &[]).await;
        self.forget_tag(upstream, repository, tag).await;
    }

    /// A manifest was deleted: no tag of the repository means it.
    pub(crate) async fn forget_held(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) {
        for name in self.0.first_seen.forget_digest(upstream.name(), repository, digest).await {
            self.0.held.set(&name, &[]).await;
            if !self.0.first_seen.is_imported(&name.upstream, &name.repository, &name.tag) {
                self.0.pins.end_import(&name.to_string()).await;
            }
        }
    }
}

impl HeldTag {
    /// A digest about which the upstream is not asked.
    fn unasked(digest: Digest) -> Self {
        Self { digest, outcome: Outcome::Hit, confirmed: None, instead: None }
    }
}

fn nothing_yet(hold: &Hold, left: Duration) -> ManifestError {
    let until = SystemTime::now().checked_add(left).unwrap_or_else(SystemTime::now);
    ManifestError::TooYoung { rule: hold.rule.clone(), until }
}
