//! All `[[upstream]]` sections: no two of them claim the same requests.

use std::collections::HashMap;

use super::{
    access::ClientGrants,
    document::Document,
    error::Key,
    upstream::{Reader, UpstreamSection},
    well_known::WELL_KNOWN,
};
use crate::upstream::{Access, Config};

/// The upstreams of the file, in its order; if the file has none, the well-known registries. The document notes what is
/// wrong with a section, alone or together with the others. `has_store`: there is a `[store]`.
pub(super) fn read(
    document: &Document<'_>,
    mut sections: Vec<UpstreamSection>,
    defaults: ClientGrants,
    has_store: bool,
) -> Vec<Config> {
    if sections.is_empty() {
        sections = WELL_KNOWN.iter().map(|registry| UpstreamSection::named(registry.name)).collect();
    }
    let has_default = sections.iter().any(UpstreamSection::is_default);
    let read = |(index, section)| {
        let key = key(index);
        let config = Reader { document, key: key.clone(), defaults }.read(section, has_default)?;
        Some((key, config))
    };
    let upstreams: Vec<_> = sections.into_iter().enumerate().filter_map(read).collect();
    check_unique(document, &upstreams);
    check_redirects(document, &upstreams, has_store);
    upstreams.into_iter().map(|(_, config)| config).collect()
}

fn key(index: usize) -> Key {
    Key::new("upstream").item(index)
}

/// Refuses redirects to where no content is.
fn check_redirects(document: &Document<'_>, upstreams: &[(Key, Config)], has_store: bool) {
    for (key, upstream) in upstreams.iter().filter(|(_, upstream)| upstream.redirect) {
        let problem = match (has_store, upstream.store, upstream.access) {
            (true, true, _) => continue,
            (false, ..) => "needs a [store] with url and redirect_clients: clients are redirected to the object store",
            (true, false, Access::Shared) => "needs store = true: clients are redirected to what is in the store",
            (true, false, Access::Client { .. }) => {
                "needs store = true, too: content of an upstream with access = \"client\" is in no store by default"
            }
        };
        document.refuse(&key.field("redirect"), problem);
    }
}

/// Refuses two upstreams that would claim the same requests.
fn check_unique(document: &Document<'_>, upstreams: &[(Key, Config)]) {
    let mut names: HashMap<&str, &Config> = HashMap::new();
    let mut hosts: HashMap<String, &str> = HashMap::new();
    let mut default: Option<&str> = None;
    for (key, upstream) in upstreams {
        let aliases = upstream.aliases.iter().enumerate();
        let aliases = aliases.map(|(index, alias)| (key.field("aliases").item(index), alias));
        for (key, name) in std::iter::once((key.field("name"), &upstream.name)).chain(aliases) {
            // `name` and `name:443` are the same registry to clients.
            let bare = name.strip_suffix(":443").unwrap_or(name);
            if let Some(other) = names.insert(bare, upstream) {
                let whose = if std::ptr::eq(other, upstream) { "this upstream" } else { &other.name };
                document.refuse(&key, format!("{name:?} is already a name of {whose}; remove one of them"));
            }
        }
        for (index, host) in upstream.hosts.iter().enumerate() {
            if let Some(other) = hosts.insert(host.to_string(), &upstream.name) {
                let key = key.field("hosts").item(index);
                document.refuse(&key, format!("\"{host}\" already belongs to {other}; remove one of them"));
            }
        }
        if upstream.default
            && let Some(other) = default.replace(&upstream.name)
        {
            document.refuse(&key.field("default"), format!("{other} is the default already; keep one"));
        }
    }
}
