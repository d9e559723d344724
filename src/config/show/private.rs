//! What of a configuration only readers may know who may know all images (pure).
//!
//! What must hold: a reader who may not know the images of an upstream with `access = "client"` learns no name of them
//! from the rules about them.

use crate::{
    config::{Config, Key},
    rule::Rule,
    upstream::{Access, Config as Upstream},
};

/// The keys whose values may name images of upstreams that authorize each client: the patterns of rules about them.
pub fn private_keys(config: &Config) -> Vec<Key> {
    let of_clients = |upstream: &Upstream| matches!(upstream.access, Access::Client { .. });
    let private: Vec<&Upstream> = config.upstreams.iter().filter(|upstream| of_clients(upstream)).collect();
    // A person may have written an alias, of which a pattern matches nothing.
    let names = || private.iter().flat_map(|upstream| std::iter::once(&upstream.name).chain(&upstream.aliases));
    let is_private = |rule: &Rule| names().any(|name| rule.may_match_upstream(name));
    let patterns = |section: &Key, rules: &[Rule], is_private: &dyn Fn(&Rule) -> bool| -> Vec<Key> {
        let private = rules.iter().enumerate().filter(|(_, rule)| is_private(rule));
        private.map(|(index, _)| section.item(index).field("match")).collect()
    };
    let mut keys = Vec::new();
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let section = Key::new("upstream").item(index).field("rule");
        let rules = config.rules.of_upstream(&upstream.name);
        keys.extend(patterns(&section, rules, &|rule| of_clients(upstream) || is_private(rule)));
    }
    keys.extend(patterns(&Key::new("rule"), config.rules.general(), &is_private));
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Overrides, Variables, compose};

    #[test]
    fn patterns_of_private_images_are_found() {
        const TEXT: &str = r#"
[[upstream]]
name = "docker.io"
[[upstream.rule]]
match = "docker.io/library/*"
tag_ttl = "1h"
[[upstream]]
name = "harbor.lan"
aliases = ["harbor"]
access = "client"
[[upstream.rule]]
match = "harbor.lan/team/secret:*"
tag_ttl = "1h"
[[rule]]
match = "docker.io/team/*"
tag_ttl = "1h"
[[rule]]
match = "*/secret:*"
tag_ttl = "1h"
[[rule]]
match = "harbor.lan/other:1"
tag_ttl = "1h"
[[rule]]
match = "harbor/third:*"
tag_ttl = "1h"
"#;
        let keys = |text: &str| {
            let path = Some(Path::new("forebay.toml"));
            let loaded = compose(path, text, &Variables::default(), Overrides::default()).unwrap();
            private_keys(&loaded.config).iter().map(|key| key.as_str().to_owned()).collect::<Vec<_>>()
        };
        let expected = ["upstream[1].rule[0].match", "rule[1].match", "rule[2].match", "rule[3].match"];
        assert_eq!(keys(TEXT), expected);
        assert_eq!(keys(&TEXT.replace("access = \"client\"\n", "")), [""; 0]);
    }
}
