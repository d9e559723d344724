//! All rules of the file: those of upstreams, and the general ones.

use super::{
    document::Document,
    error::Key,
    rule::{self, RuleSection},
};
use crate::{rule::Rules, upstream::Config};

/// The rules of a file. `of_upstreams`: those of each `[[upstream]]` section, in the order of `upstreams`; fewer if the
/// file has no such section.
pub(super) fn read(
    document: &Document<'_>,
    of_upstreams: Vec<Vec<RuleSection>>,
    general: Vec<RuleSection>,
    upstreams: &[Config],
) -> Rules {
    let names: Vec<&str> = upstreams.iter().map(|upstream| &*upstream.name).collect();
    let mut rules = Vec::new();
    for (index, sections) in of_upstreams.into_iter().enumerate() {
        let array = Key::new("upstream").item(index).field("rule");
        let read = rule::read(document, &array, sections, &names);
        // A section without a usable name is no upstream, and is refused.
        rules.extend(upstreams.get(index).map(|upstream| (upstream.name.clone(), read)));
    }
    Rules::new(rules, rule::read(document, &Key::new("rule"), general, &names))
}
