//! Warnings about the cache, paths and the modes of secret files (pure).

use std::path::{Component, Path};

use bytesize::ByteSize;

use super::{Facts, Warning};
use crate::{
    cache,
    config::{Config, Key},
};

/// Read, write and search for all users.
const OTHERS: u32 = 0o007;

pub(super) fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    let mut found = Vec::new();
    found.extend(paths(config).into_iter().filter_map(|(key, path)| {
        let what = unexpanded(path)?;
        let problem = format!("{what} is not expanded in {}: write the path itself", path.display());
        Some(Warning::new(key, problem))
    }));
    let directory = config.cache.directory.display();
    if !facts.disk.is_writable {
        let problem = format!("this user cannot write {directory}: nothing could be cached");
        found.push(Warning::new(Key::new("cache").field("directory"), problem));
    }
    found.extend(size(&config.cache, facts).map(|problem| Warning::new(Key::new("cache").field("max_size"), problem)));
    found.extend(facts.secrets.iter().filter(|(_, _, mode)| mode & OTHERS != 0).map(|(key, path, mode)| {
        let path = path.display();
        let problem = format!("every user of this machine may use {path} (mode {:o}): chmod o= {path}", mode & 0o7777);
        Warning::new(key.clone(), problem)
    }));
    found
}

/// A limit that the file system reaches first. The default leaves a small disk to `min_free`.
fn size(config: &cache::Config, facts: &Facts) -> Option<String> {
    let usable = facts.disk.total?.saturating_sub(config.min_free);
    let is_too_large = config.max_size > usable && config.max_size != cache::Config::default().max_size;
    is_too_large.then(|| {
        format!(
            "{} is more than the file system of {} has less min_free, {}: the disk will be full before the cache is",
            ByteSize(config.max_size),
            config.directory.display(),
            ByteSize(usable)
        )
    })
}

/// What a shell would have expanded.
fn unexpanded(path: &Path) -> Option<String> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    for part in parts {
        if part.starts_with('~') {
            return Some(part.to_owned());
        }
        let Some((_, after)) = part.split_once('$') else { continue };
        let name: String = match after.strip_prefix('{') {
            Some(rest) => format!("{{{}", rest.split_inclusive('}').next().unwrap_or_default()),
            None => after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect(),
        };
        if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
            return Some(format!("${name}"));
        }
    }
    None
}

/// The directories and files of the configuration that need not exist yet: one that has to is found missing before.
fn paths(config: &Config) -> Vec<(Key, &Path)> {
    let state = config.state_directory.as_deref().map(|path| (Key::new("state_directory"), path));
    let socket = config.admin.socket.as_deref().map(|path| (Key::new("admin").field("socket"), path));
    let cache = (Key::new("cache").field("directory"), config.cache.directory.as_path());
    state.into_iter().chain(socket).chain([cache]).collect()
}
