//! `[[rule]]` and `[[upstream.rule]]`.

use super::*;
use forebay::{
    oci::Repository,
    rule::{First, TagRules},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn of_tag(config: &Config, upstream: &str, tag: &str) -> TagRules {
    let repository: Repository = "team/app".parse().unwrap();
    config.rules.tag(upstream, &repository, &tag.parse().unwrap())
}

#[test]
fn the_keys_of_a_rule_are_read() {
    let text = "[[upstream]]\nname = \"a.example\"\n\
                [[upstream.rule]]\nmatch = \"a.example/*:v*\"\nimmutable = true\ntag_ttl = \"1h\"\n\
                [[upstream]]\nname = \"b.example\"\n\
                [[rule]]\nmatch = \"*\"\ntag_ttl = \"2h\"\nstale_if_error = \"3d\"\n\
                [[rule]]\nmatch = \"b.example/*\"\nminimum_age = \"7d\"\nminimum_age_first = \"allow\"\n";
    let config = parse(text).unwrap();
    let hour = Duration::from_secs(3600);
    let expected =
        TagRules { tag_ttl: Some(hour), stale_if_error: Some(3 * DAY), is_immutable: true, ..TagRules::default() };
    assert_eq!(of_tag(&config, "a.example", "v1"), expected);
    let expected = TagRules { tag_ttl: Some(2 * hour), is_immutable: false, ..expected };
    assert_eq!(of_tag(&config, "a.example", "1"), expected);
    let hold = of_tag(&config, "b.example", "v1").hold.expect("a minimum age holds tags");
    assert_eq!((hold.minimum_age, hold.first, hold.is_final), (7 * DAY, First::Allow, false));
    assert_eq!((&*hold.rule.pattern, hold.rule.line), ("b.example/*", Some(14)));
    assert!(config.rule_warnings().is_empty(), "{:?}", config.rule_warnings());
}

#[test]
fn the_built_in_upstreams_have_the_general_rules() {
    let config = parse("[[rule]]\nmatch = \"*\"\nfreeze = true\n").unwrap();
    assert!(of_tag(&config, "docker.io", "1").hold.is_some_and(|hold| hold.is_final));
    assert!(config.state_directory.is_some());
}

#[test]
fn times_of_first_sight_need_a_place_outside_the_cache() {
    let state = parse("").unwrap().state_directory.expect("the user of the tests has a home");
    let parse = |text: &str| {
        let overrides = Overrides { cache_dir: Some(state.clone()), ..Overrides::default() };
        Config::parse(text, "/forebay.toml".as_ref(), overrides)
    };
    assert!(parse("[[rule]]\nmatch = \"*\"\ntag_ttl = \"1h\"\n").is_ok());
    let error = parse("[[rule]]\nmatch = \"*\"\nminimum_age = \"1h\"\n").unwrap_err().to_string();
    assert!(error.contains("state_directory"), "{error}");
}

#[test]
fn a_rule_without_effect_is_warned_of() {
    let text = "[[rule]]\nmatch = \"quay.example/*\"\ndeny = true\n[[rule]]\nmatch = \"*\"\ndeny = true\n";
    let warnings = parse(text).unwrap().rule_warnings();
    let [(rule, warning)] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(rule.to_string(), "\"quay.example/*\" (line 2)");
    assert!(warning.contains("matches nothing of any upstream"), "{warning}");
}
