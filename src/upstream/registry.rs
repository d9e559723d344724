//! What tells registries apart over reloads of the configuration.

use std::sync::Arc;

use url::Url;

/// A registry under its name and its URLs: under the same name, other URLs may lead to another one. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registry(Arc<(Arc<str>, Vec<Url>)>);

impl Registry {
    pub fn new(name: &Arc<str>, urls: &[Url]) -> Self {
        Self(Arc::new((name.clone(), urls.to_vec())))
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.0.0
    }
}
