//! Which keys only a start changes (pure).
//!
//! What must hold: a reload takes a key over, or names it here. The patterns below have every field, so that a new key does not
//! compile before it is on one of the two sides.

use std::{fmt, path::Path, time::Duration};

use crate::{
    admin, cache, cluster,
    config::Config,
    store,
    transport::{self, TlsConfig},
};

/// A key whose new value takes effect at the next start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FixedKey {
    key: &'static str,
    running: String,
    configured: String,
}

/// The full paths of all keys that only a start changes. Whether there is `[server.tls]` is fixed as well.
const FIXED: [&str; 10] = [
    "server.listen",
    "server.clear_http",
    "server.drain_timeout",
    "server.drain_delay",
    "admin.listen",
    "admin.socket",
    "admin.socket_group",
    "cache.directory",
    "cache.manifest_memory",
    "download.complete",
];

/// The sections that only a start changes, with all their keys.
const FIXED_SECTIONS: [&str; 2] = ["cluster.", "store."];

/// Whether a key's new value takes effect at the next start only.
pub fn is_fixed_at_start(key: &str) -> bool {
    FIXED.contains(&key) || FIXED_SECTIONS.iter().any(|section| key.starts_with(section))
}

impl FixedKey {
    pub(super) fn warn(&self) {
        let Self { key, running, configured } = self;
        tracing::warn!(
            key,
            running,
            configured,
            "a reload cannot change this key; the new value takes effect at the next start"
        );
    }
}

/// The configuration that a reload leads to: `new`, with the values of `start` for the keys that only a start changes; and those
/// of these keys that differ.
pub(super) fn keep_fixed(start: &Config, mut new: Config) -> (Config, Vec<FixedKey>) {
    let mut fixed = Fixed::default();
    let Config {
        state_directory: _,
        server,
        admin,
        cache,
        access: _,
        push: _,
        upstreams: _,
        rules: _,
        cluster,
        store,
        warm: _,
    } = &mut new;
    fixed.keep_server(&start.server, server);
    fixed.keep_admin(&start.admin, admin);
    fixed.keep_cache(&start.cache, cache);
    fixed.keep_cluster(&start.cluster, cluster);
    fixed.keep_store(&start.store, store);
    (new, fixed.0)
}

#[derive(Default)]
struct Fixed(Vec<FixedKey>);

impl Fixed {
    fn keep_server(&mut self, start: &transport::Config, new: &mut transport::Config) {
        let transport::Config {
            listen,
            clear_http,
            max_connections: _,
            drain_timeout,
            drain_delay,
            trusted_networks: _,
            allowed_hosts: _,
            page: _,
            tls,
            timeouts,
        } = new;
        self.keep("server.listen", &start.listen, listen, |addresses| list(addresses));
        self.keep("server.clear_http", &start.clear_http, clear_http, bool::to_string);
        self.keep("server.drain_timeout", &start.drain_timeout, drain_timeout, duration);
        self.keep("server.drain_delay", &start.drain_delay, drain_delay, duration);
        // Other files are taken over; only whether there is TLS at all is not.
        if tls.is_some() != start.tls.is_some() {
            self.keep("server.tls", &start.tls, tls, files);
        }
        // No key.
        *timeouts = start.timeouts;
    }

    fn keep_admin(&mut self, start: &admin::Config, new: &mut admin::Config) {
        let admin::Config { listen, allowed_hosts: _, socket, socket_group, token_file: _ } = new;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        self.keep("admin.listen", &start.listen, listen, ToString::to_string);
        self.keep("admin.socket", &start.socket, socket, |path| or_none(path.as_deref().map(path_text)));
        self.keep("admin.socket_group", &start.socket_group, socket_group, |group| or_none(group.clone()));
    }

    fn keep_cache(&mut self, start: &cache::Config, new: &mut cache::Config) {
        let cache::Config {
            directory,
            max_size: _,
            min_free: _,
            manifest_memory,
            tag_ttl: _,
            stale_if_error: _,
            negative_ttl: _,
            prefetch: _,
            complete,
            verify_every: _,
            reader_window,
            max_through,
            max_open,
        } = new;
        self.keep("cache.directory", &start.directory, directory, |path| path_text(path));
        self.keep("cache.manifest_memory", &start.manifest_memory, manifest_memory, u64::to_string);
        self.keep("download.complete", &start.complete, complete, |complete| complete.as_str().to_owned());
        // No keys.
        (*reader_window, *max_through, *max_open) = (start.reader_window, start.max_through, start.max_open);
    }

    fn keep_cluster(&mut self, start: &Option<cluster::Config>, new: &mut Option<cluster::Config>) {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        if let (Some(start), Some(new)) = (start, &mut *new) {
            let cluster::Config { peers, advertise, key_file, zone, server_name, ca, timeout } = new;
            self.keep("cluster.peers", &start.peers, peers, |peers| list(peers));
            self.keep("cluster.advertise", &start.advertise, advertise, |own| {
                or_none(own.as_ref().map(ToString::to_string))
            });
            self.keep("cluster.key_file", &start.key_file, key_file, |path| path_text(path));
            self.keep("cluster.zone", &start.zone, zone, |zone| or_none(zone.as_deref().map(str::to_owned)));
            self.keep("cluster.server_name", &start.server_name, server_name, |name| {
                or_none(name.as_deref().map(str::to_owned))
            });
            self.keep("cluster.ca", &start.ca, ca, |path| or_none(path.as_deref().map(path_text)));
            self.keep("cluster.timeout", &start.timeout, timeout, duration);
            return;
        }
        // There was no cluster, or there is to be none.
        self.keep("cluster.peers", start, new, |cluster| {
            cluster.as_ref().map_or_else(|| "none".to_owned(), |cluster| list(&cluster.peers))
        });
    }

    fn keep_store(&mut self, start: &Option<store::Config>, new: &mut Option<store::Config>) {
        self.keep("store.url", start, new, |store| {
            store.as_ref().map_or_else(|| "none".to_owned(), |store| store.url.to_string())
        });
    }

    /// Gives a key the value of the start, and notes it if that is another one.
    fn keep<T: Clone + PartialEq>(&mut self, key: &'static str, start: &T, new: &mut T, text: impl Fn(&T) -> String) {
        if new != start {
            let configured = std::mem::replace(new, start.clone());
            self.0.push(FixedKey { key, running: text(start), configured: text(&configured) });
        }
    }
}

fn list(values: &[impl fmt::Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn files(tls: &Option<TlsConfig>) -> String {
    tls.as_ref().map_or_else(|| "none".to_owned(), |tls| path_text(&tls.certificate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::Complete, config::Overrides};

    fn files(name: &str) -> Option<TlsConfig> {
        Some(TlsConfig { certificate: name.into(), key: "key".into(), client_ca: None })
    }

    #[test]
    fn what_a_reload_cannot_change_is_told_and_nothing_else() {
        let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
        let base = Config::parse("", "/forebay.toml".as_ref(), overrides).unwrap();
        let with = |change: &dyn Fn(&mut Config)| {
            let mut config = base.clone();
            change(&mut config);
            config
        };
        let tls = |name: &'static str| with(&|config| config.server.tls = files(name));
        let (a, b) = (tls("a"), tls("b"));
        for (start, new, expected) in [
            (&base, base.clone(), &[][..]),
            (&base, with(&|config| config.access.htpasswd = Some("users".into())), &[]),
            (&base, with(&|config| config.server.max_connections = 7), &[]),
            (&base, with(&|config| config.cache.max_size = 7), &[]),
            (&base, with(&|config| config.cache.min_free = 7), &[]),
            (&base, with(&|config| config.cache.tag_ttl = Duration::ZERO), &[]),
            (&base, with(&|config| config.cache.prefetch = 0), &[]),
            (&base, with(&|config| config.server.trusted_networks = vec!["10.0.0.1".parse().unwrap()]), &[]),
            (&base, with(&|config| config.server.allowed_hosts = vec!["mirror.lan".parse().unwrap()]), &[]),
            (&base, with(&|config| config.server.page = false), &[]),
            (&base, with(&|config| config.admin.allowed_hosts = vec!["mirror.lan".parse().unwrap()]), &[]),
            (
                &base,
                with(&|config| (config.admin.listen.set_port(7), config.cache.manifest_memory = 7).1),
                &[("admin.listen", "127.0.0.1:5001", "127.0.0.1:7"), ("cache.manifest_memory", "67108864", "7")],
            ),
            (
                &base,
                with(&|config| config.cache.complete = Complete::Never),
                &[("download.complete", "when-half", "never")],
            ),
            (&base, with(&|config| config.cache.directory = "/x".into()), &[("cache.directory", "/cache", "/x")]),
            (&base, with(&|config| config.server.drain_timeout *= 2), &[("server.drain_timeout", "30s", "1m")]),
            (&a, b.clone(), &[]),
            (&a, base.clone(), &[("server.tls", "a", "none")]),
            (&base, a.clone(), &[("server.tls", "none", "a")]),
        ] {
            let (running, fixed) = keep_fixed(start, new.clone());
            let told: Vec<_> = fixed.iter().map(|key| (key.key, &*key.running, &*key.configured)).collect();
            assert_eq!(told, expected);
            assert!(told.iter().all(|(key, ..)| is_fixed_at_start(key) || *key == "server.tls"));
            // Nothing is told twice, and what is not told is taken over.
            assert_eq!(keep_fixed(start, running.clone()), (running.clone(), Vec::new()));
            assert_eq!(running == new, expected.is_empty());
        }
    }
    #[test]
    fn the_list_of_fixed_keys_is_complete() {
        let start =
            Config::parse("[cache]\ndirectory = \"/a\"\n", "/forebay.toml".as_ref(), Overrides::default()).unwrap();
        let mut new = start.clone();
        new.server = transport::Config { listen: Vec::new(), clear_http: false, ..new.server };
        new.server.drain_timeout *= 2;
        new.server.drain_delay += std::time::Duration::from_secs(1);
        new.server.max_connections += 1;
        new.admin.listen.set_port(7);
        (new.admin.socket, new.admin.socket_group) = (Some("/s".into()), Some("g".to_owned()));
        (new.cache.directory, new.cache.manifest_memory) = ("/b".into(), 1);
        (new.cache.complete, new.cache.prefetch) = (Complete::Never, 0);
        let (_, fixed) = keep_fixed(&start, new);
        assert_eq!(fixed.iter().map(|key| key.key).collect::<Vec<_>>(), FIXED);
    }

    #[test]
    fn a_change_of_the_cluster_names_its_keys() {
        let parse = |text: &str| {
            let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
            Config::parse(text, "/forebay.toml".as_ref(), overrides).unwrap()
        };
        let own = "[cluster]\npeers = [\"http://10.0.0.1:5000\"]\nkey_file = \"/key\"\n";
        for (start, new, expected) in [
            (own.to_owned(), own.to_owned(), &[][..]),
            (own.to_owned(), format!("{own}timeout = \"2s\"\n"), &[("cluster.timeout", "1s", "2s")]),
            (
                format!("{own}zone = \"a\"\n"),
                own.replace("10.0.0.1", "10.0.0.2"),
                &[("cluster.peers", "http://10.0.0.1:5000", "http://10.0.0.2:5000"), ("cluster.zone", "a", "none")],
            ),
            (own.to_owned(), String::new(), &[("cluster.peers", "http://10.0.0.1:5000", "none")]),
        ] {
            let start = parse(&start);
            let (kept, fixed) = keep_fixed(&start, parse(&new));
            assert_eq!(kept.cluster, start.cluster, "{new}");
            let told: Vec<_> =
                fixed.iter().map(|fixed| (fixed.key, fixed.running.as_str(), fixed.configured.as_str())).collect();
            assert_eq!(told, expected, "{new}");
        }
    }
}
