//! Warnings about redirects to the object store that no client gets (pure).

use super::{Warning, of_upstream};
use crate::config::{Config, Key};

pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    let Some(store) = &config.store else { return Vec::new() };
    let redirecting = config.upstreams.iter().position(|upstream| upstream.redirect);
    let of_store = |field: &str| Key::new("store").field(field);
    let endpoint = match (&store.redirect_endpoint, &store.endpoint) {
        (Some(endpoint), _) => Some((of_store("redirect_endpoint"), endpoint)),
        (None, endpoint) => endpoint.as_ref().map(|endpoint| (of_store("endpoint"), endpoint)),
    };
    match (redirecting, store.redirect_clients.is_empty()) {
        (Some(index), true) => {
            let problem = "no client is redirected: write the networks that reach the object store, such as \
                           redirect_clients = [\"10.0.0.0/8\"], into [store]";
            vec![Warning::new(of_upstream(index, "redirect"), problem)]
        }
        (None, false) => {
            let problem = "no client is redirected: write redirect = true into the [[upstream]] sections that may";
            vec![Warning::new(of_store("redirect_clients"), problem)]
        }
        (None, true) if store.redirect_endpoint.is_some() => {
            let problem =
                "no client is redirected: redirect_clients and redirect = true of an [[upstream]] are missing";
            vec![Warning::new(of_store("redirect_endpoint"), problem)]
        }
        (Some(_), false) if config.server.tls.is_some() => match endpoint {
            Some((key, endpoint)) if endpoint.scheme() == "http" => {
                let problem =
                    "clients that come over TLS are served from here: none is redirected from https:// to http://";
                vec![Warning::new(key, problem)]
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
