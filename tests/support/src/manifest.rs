//! Manifests of the repository `team/app`: their types, paths and requests.

use http::Method;

use crate::fake_registry::FakeRegistry;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The path of a manifest of `team/app`.
pub fn manifest(reference: impl std::fmt::Display) -> String {
    format!("/v2/team/app/manifests/{reference}")
}

/// How many requests for manifests by this method the registry received.
pub fn asked(registry: &FakeRegistry, method: Method) -> usize {
    registry.count(|request| request.method == method && request.path.contains("/manifests/"))
}
