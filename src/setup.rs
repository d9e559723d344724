//! What clients write into their configuration to pull through forebay (pure).
//!
//! `serve` prints a part of it, and the page of the registry's port shows all of it.
//!
//! What must hold: what looks like something to paste works as it stands. Each value is escaped for the language that it
//! stands in; Docker is told of clear HTTP where it asks for that; a client that could not log in is offered nothing that
//! needs a login.

mod buildkit;
mod containerd;
mod docker;
mod escape;
mod guide;
mod k3s;
mod login;
mod origin;
mod podman;
mod registry;
mod step;
#[cfg(test)]
mod tests;

pub use self::{
    docker::Docker,
    guide::{Client, Guide},
    login::Login,
    origin::Origin,
    registry::{Offer, Registry},
    step::Step,
};

/// What one client needs to know of forebay.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// How the client reaches forebay.
    pub origin: Origin,
    /// The registries that the client may learn of; empty for a stranger.
    pub registries: Vec<&'a Registry>,
    /// The registry of requests that name none: the default, or the one that has the host for itself.
    pub unnamed: Option<&'a Registry>,
    /// All requests for this host belong to the registry that is `unnamed`.
    pub is_dedicated: bool,
    pub login: Login,
    /// forebay accepts passwords on the client's connection.
    pub takes_passwords: bool,
    /// The certificate is signed by a CA that clients do not know and that forebay hands out.
    pub has_ca: bool,
}

impl Setup<'_> {
    /// Whether a client can pull from this registry at this origin, if it logs in here where that is needed.
    fn is_usable(&self, registry: &Registry) -> bool {
        // Credentials of the client's own reach the registry that a login at this host is for.
        !registry.wants_login || (self.is_unnamed(registry) && self.takes_passwords)
    }

    fn is_unnamed(&self, registry: &Registry) -> bool {
        self.unnamed.is_some_and(|unnamed| unnamed.name == registry.name)
    }

    /// What stands in front of the repository in a reference to this registry through forebay.
    fn location(&self, registry: &Registry) -> Option<String> {
        let host = &self.origin.host;
        match self.is_dedicated {
            true => Some(host.clone()),
            false => registry.name_in_path().map(|name| format!("{host}/{name}")),
        }
    }

    /// The registries that clients can pull from by a location, with it.
    fn locations(&self) -> impl Iterator<Item = (&Registry, String)> {
        let usable = self.registries.iter().copied().filter(|registry| self.is_usable(registry));
        usable.filter_map(|registry| Some((registry, self.location(registry)?)))
    }

    /// Whether a client logs in before it pulls by a location.
    fn needs_login(&self) -> bool {
        self.login == Login::Needed || self.registries.iter().any(|it| it.wants_login && self.is_usable(it))
    }
}
