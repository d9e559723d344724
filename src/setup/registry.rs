//! The registries that forebay mirrors, as clients see them.

use std::sync::Arc;

use crate::{auth, upstream};

/// The registry that Docker means by a name without one.
const DOCKER_HUB: &str = "docker.io";

/// All registries, and who may pull from them. Made anew on reload.
#[derive(Clone, Debug)]
pub struct Offer {
    pub registries: Vec<Registry>,
    pub access: auth::Config,
}

/// One registry behind forebay.
#[derive(Clone, Debug)]
pub struct Registry {
    pub name: Arc<str>,
    pub aliases: Vec<Arc<str>>,
    /// It decides itself which clients may pull, by their own credentials.
    pub wants_login: bool,
    /// Requests that name no registry belong to it.
    pub is_default: bool,
    /// Docker can use forebay as a mirror of it, if requests without a name belong to it.
    pub is_docker_mirror: bool,
}

impl Offer {
    pub fn new(upstreams: &[upstream::Config], access: &auth::Config) -> Self {
        let registries = upstreams.iter().map(|upstream| Registry::of(upstream, access)).collect();
        Self { registries, access: access.clone() }
    }

    pub fn default(&self) -> Option<&Registry> {
        self.registries.iter().find(|registry| registry.is_default)
    }
}

impl Registry {
    fn of(upstream: &upstream::Config, access: &auth::Config) -> Self {
        let wants_login = upstream.access != upstream::Access::Shared;
        Self {
            name: upstream.name.clone(),
            aliases: upstream.aliases.clone(),
            wants_login,
            is_default: upstream.default,
            is_docker_mirror: is_docker_mirror(upstream, access),
        }
    }

    /// The name by which the registry stands in front of a repository: a port within a reference is a syntax error.
    pub(super) fn name_in_path(&self) -> Option<&str> {
        let mut names = std::iter::once(&self.name).chain(&self.aliases);
        names.find(|name| !name.contains(':')).map(|name| &**name)
    }
}

/// Whether Docker can use forebay as a mirror of Docker Hub by this upstream: it does so without a login.
fn is_docker_mirror(upstream: &upstream::Config, access: &auth::Config) -> bool {
    let needs_user = upstream.credential != upstream::CredentialSource::Anonymous || access.push_users.is_some();
    // `GET /v2/` challenges, and Docker has no credentials for a mirror.
    let challenges = upstream.push && needs_user && access.htpasswd.is_some();
    *upstream.name == *DOCKER_HUB
        && upstream.access == upstream::Access::Shared
        && access.anonymous == auth::Anonymous::Pull
        && !challenges
}
