//! What the operator is told at the start and at a reload.

use std::{fs::File, path::Path};

use crate::{auth, cache, config::Config, transport::zero_copy::file_system::Pages, upstream};

/// Whether the kernel can send cached blobs without a copy depends on the file system of the cache.
pub(super) fn tell_zero_copy(cache: &Path) {
    // Any file will do; this one is always there.
    match File::open(cache.join("CACHEDIR.TAG")).and_then(|file| Pages::of(&file)) {
        Ok(pages) => tracing::info!(path = %cache.display(), zero_copy = %pages, "the cache directory was probed"),
        Err(error) => tracing::warn!(path = %cache.display(), %error, "the cache directory cannot be probed"),
    }
}

/// Content that was cached while an upstream had access = "shared" stays readable to all clients: nothing records which blobs
/// those are.
pub(super) fn warn_of_open_content(config: &Config) {
    for upstream in config.upstreams.iter().filter(|upstream| upstream.access != upstream::Access::Shared) {
        let tags = config.cache.directory.join("tags").join(&*upstream.name);
        if tags.exists() {
            tracing::warn!(
                upstream = %upstream.name,
                tags = %tags.display(),
                "content that was cached before this upstream had access = \"client\" can still be pulled by its digest, by any \
                 client: to prevent that, stop forebay and remove blobs, manifests and tags from the cache directory"
            );
        }
    }
}

/// An unknown user in `push_users` cannot push, but does not keep other users from pulling.
pub(super) fn warn_of_push_users(config: &Config) {
    if let Err(error) = auth::check_push_users(&config.access) {
        tracing::warn!(error = &error as &dyn std::error::Error, "access.push_users names a user who cannot push");
    }
}

/// The sections of `new` that differ from `running`, the configuration of the start, and that a reload cannot change.
pub(super) fn fixed_at_start(running: &Config, new: &Config) -> Vec<&'static str> {
    let mut server = new.server.clone();
    server.trusted_networks.clone_from(&running.server.trusted_networks);
    server.allowed_hosts.clone_from(&running.server.allowed_hosts);
    if let (Some(_), Some(_)) = (&running.server.tls, &server.tls) {
        // Other files are taken over; only whether there is TLS at all is not.
        server.tls.clone_from(&running.server.tls);
    }
    // The one key of `[download]` is read into the configuration of the cache.
    let cache = cache::Config { complete: running.cache.complete, ..new.cache.clone() };
    let sections = [
        ("server", server != running.server),
        ("admin", new.admin.listen != running.admin.listen),
        ("cache", cache != running.cache),
        ("download", new.cache.complete != running.cache.complete),
    ];
    sections.into_iter().filter_map(|(section, changed)| changed.then_some(section)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::Complete, config::Overrides, transport::TlsConfig};

    #[test]
    fn what_a_reload_cannot_change_is_told_and_nothing_else() {
        let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
        let base = Config::parse("", "/forebay.toml".as_ref(), overrides).unwrap();
        let with = |change: &dyn Fn(&mut Config)| {
            let mut config = base.clone();
            change(&mut config);
            config
        };
        let files = |name: &str| Some(TlsConfig { certificate: name.into(), key: "key".into(), client_ca: None });
        let (a, b) = (with(&|config| config.server.tls = files("a")), with(&|config| config.server.tls = files("b")));
        for (running, new, expected) in [
            (&base, base.clone(), &[][..]),
            (&base, with(&|config| config.access.htpasswd = Some("users".into())), &[]),
            (&base, with(&|config| config.server.max_connections = 7), &["server"]),
            (
                &base,
                with(&|config| (config.admin.listen.set_port(7), config.cache.max_size = 7).1),
                &["admin", "cache"],
            ),
            (&base, with(&|config| config.cache.complete = Complete::Never), &["download"]),
            (&base, with(&|config| config.server.trusted_networks = vec!["10.0.0.1".parse().unwrap()]), &[]),
            (&base, with(&|config| config.server.allowed_hosts = vec!["mirror.lan".parse().unwrap()]), &[]),
            (&base, with(&|config| config.admin.allowed_hosts = vec!["mirror.lan".parse().unwrap()]), &[]),
            (&a, b.clone(), &[]),
            (&a, with(&|config| (config.server.tls = files("b"), config.server.clear_http = false).1), &["server"]),
            (&a, base.clone(), &["server"]),
            (&base, a.clone(), &["server"]),
        ] {
            assert_eq!(fixed_at_start(running, &new), expected, "{:?} {:?}", running.server, new.server);
        }
    }
}
