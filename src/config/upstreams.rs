//! All `[[upstream]]` sections: no two of them claim the same requests.

use std::collections::HashMap;

use super::{
    access::ClientGrants,
    document::Document,
    error::{Error, Key},
    upstream::{Reader, UpstreamSection},
    well_known::WELL_KNOWN,
};
use crate::upstream::Config;

/// The upstreams of the file, in its order; if the file has none, the well-known registries.
///
/// # Errors
/// The first section that is invalid, alone or together with the others.
pub(super) fn read(
    document: &Document<'_>,
    mut sections: Vec<UpstreamSection>,
    defaults: ClientGrants,
) -> Result<Vec<Config>, Error> {
    if sections.is_empty() {
        sections = WELL_KNOWN.iter().map(|registry| UpstreamSection::named(registry.name)).collect();
    }
    let has_default = sections.iter().any(UpstreamSection::is_default);
    let mut upstreams = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        upstreams.push(Reader { document, key: key(index), defaults }.read(section, has_default)?);
    }
    check_unique(document, &upstreams)?;
    Ok(upstreams)
}

fn key(index: usize) -> Key {
    Key::new("upstream").item(index)
}

/// Refuses two upstreams that would claim the same requests.
fn check_unique(document: &Document<'_>, upstreams: &[Config]) -> Result<(), Error> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut hosts: HashMap<String, &str> = HashMap::new();
    let mut default: Option<&str> = None;
    for (index, upstream) in upstreams.iter().enumerate() {
        let key = key(index);
        let aliases = upstream.aliases.iter().enumerate();
        let aliases = aliases.map(|(index, alias)| (key.field("aliases").item(index), alias));
        for (key, name) in std::iter::once((key.field("name"), &upstream.name)).chain(aliases) {
            // `name` and `name:443` are the same registry to clients.
            let bare = name.strip_suffix(":443").unwrap_or(name);
            if let Some(other) = names.insert(bare, index) {
                let whose = if other == index { "this upstream" } else { &upstreams[other].name };
                return Err(document.error(&key, format!("{name:?} is already a name of {whose}; remove one of them")));
            }
        }
        for (index, host) in upstream.hosts.iter().enumerate() {
            if let Some(other) = hosts.insert(host.to_string(), &upstream.name) {
                let key = key.field("hosts").item(index);
                return Err(document.error(&key, format!("\"{host}\" already belongs to {other}; remove one of them")));
            }
        }
        if upstream.default
            && let Some(other) = default.replace(&upstream.name)
        {
            return Err(document.error(&key.field("default"), format!("{other} is the default already; keep one")));
        }
    }
    Ok(())
}
