//! The configuration: any text is refused at a place inside the text, or gives a configuration within its bounds.

#![no_main]

use std::{collections::HashSet, path::Path};

use forebay::config::{Config, Overrides};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, Path::new("/etc/forebay.toml"), Overrides::default()) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let Some(position) = error.position() {
                assert!((1..=text.split('\n').count()).contains(&position.line));
            }
        }
        Ok(config) => {
            let names: HashSet<_> = config.upstreams.iter().map(|upstream| &upstream.name).collect();
            assert_eq!(names.len(), config.upstreams.len());
            assert!(config.upstreams.iter().filter(|upstream| upstream.default).count() <= 1);
            for upstream in &config.upstreams {
                assert!(!upstream.urls.is_empty() && (1..=16).contains(&upstream.connections));
                assert!(upstream.urls.iter().all(|url| matches!(url.scheme(), "http" | "https")));
            }
        }
    }
});
