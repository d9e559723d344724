//! The well-known public registries, and the settings that a configuration file may omit for them.

/// The known settings of a registry.
pub(super) struct Registry {
    pub name: &'static str,
    pub url: &'static str,
    pub aliases: &'static [&'static str],
    /// Its token realms, if they are on another host than its API.
    pub realms: &'static [&'static str],
    pub library: bool,
}

/// The registry of image names that name none.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// The upstreams of a configuration without upstreams, Docker Hub first.
pub(super) const WELL_KNOWN: [Registry; 10] = [
    Registry {
        name: DOCKER_HUB,
        url: "https://registry-1.docker.io",
        aliases: &["index.docker.io", "registry-1.docker.io"],
        realms: &["auth.docker.io"],
        library: true,
    },
    plain("ghcr.io", "https://ghcr.io"),
    plain("quay.io", "https://quay.io"),
    plain("gcr.io", "https://gcr.io"),
    plain("registry.k8s.io", "https://registry.k8s.io"),
    plain("mcr.microsoft.com", "https://mcr.microsoft.com"),
    plain("public.ecr.aws", "https://public.ecr.aws"),
    Registry { realms: &["authn.nvidia.com"], ..plain("nvcr.io", "https://nvcr.io") },
    plain("ccr.ccs.tencentyun.com", "https://ccr.ccs.tencentyun.com"),
    plain("dockerhub.qingcloud.com", "https://dockerhub.qingcloud.com"),
];

/// Their names, in their order.
pub(super) fn names() -> Vec<&'static str> {
    WELL_KNOWN.iter().map(|registry| registry.name).collect()
}

/// The well-known registry of this name.
pub(super) fn find(name: &str) -> Option<&'static Registry> {
    WELL_KNOWN.iter().find(|registry| registry.name == name)
}

const fn plain(name: &'static str, url: &'static str) -> Registry {
    Registry { name, url, aliases: &[], realms: &[], library: false }
}
