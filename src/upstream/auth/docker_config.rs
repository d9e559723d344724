//! The credentials in a docker `config.json`.
//!
//! What must hold: entries are found as docker and podman find them. No I/O but [`DockerConfig::read`].
//!
//! Source: github.com/docker/cli, `cli/config/configfile` and `cli/config/credentials`.

use std::{collections::HashMap, io, path::Path};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Deserializer};

use super::{
    super::Config,
    credential::{Credential, Secret},
};
use crate::small_file;

/// The longest file, in bytes.
const MAX_LEN: u64 = 1024 * 1024;
/// The key of Docker Hub for helpers and in `config.json`.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The part of a docker `config.json` that is about credentials.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerConfig {
    #[serde(deserialize_with = "null_is_absent")]
    auths: HashMap<String, Option<Auth>>,
    #[serde(deserialize_with = "null_is_absent")]
    creds_store: String,
    #[serde(deserialize_with = "null_is_absent")]
    cred_helpers: HashMap<String, Option<String>>,
}

/// The file's entry for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    Missing,
    Credential(Credential),
    /// forebay has to run a credential helper: `docker-credential-<helper> get`, with `key` as its input.
    Helper {
        helper: &'a str,
        key: &'a str,
    },
}

impl DockerConfig {
    /// Reads a file. Blocks.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&small_file::read_text(path, MAX_LEN)?).map_err(io::Error::from)
    }

    fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The entry of the registry with these [`keys`], in docker's own order: a helper of this registry, the entries of
    /// the file, the helper for all registries.
    pub(super) fn find<'a>(&'a self, keys: &'a [String]) -> Entry<'a> {
        if let Some((key, helper)) = keys.iter().find_map(|key| self.cred_helpers.get_key_value(key))
            && let Some(helper) = helper.as_deref().filter(|helper| !helper.is_empty())
        {
            return Entry::Helper { helper, key };
        }
        let auth = keys.iter().find_map(|key| {
            let exact = self.auths.get(key);
            exact.or_else(|| self.auths.iter().find(|(name, _)| host_of_key(name) == key).map(|(_, auth)| auth))
        });
        if let Some(credential) = auth.and_then(|auth| auth.as_ref()?.credential()) {
            return Entry::Credential(credential);
        }
        match keys.first() {
            Some(key) if !self.creds_store.is_empty() => Entry::Helper { helper: &self.creds_store, key },
            _ => Entry::Missing,
        }
    }
}

/// The keys under which a file may have an upstream's entry; the first is that for helpers.
pub(super) fn keys(config: &Config) -> Vec<String> {
    let mut keys = vec![helper_key(&config.name).to_owned(), config.name.to_string()];
    keys.extend(config.aliases.iter().map(ToString::to_string));
    keys.extend(config.urls.iter().filter_map(|url| match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => Some(format!("{host}:{port}")),
        (Some(host), None) => Some(host.to_owned()),
        (None, _) => None,
    }));
    keys
}

/// One entry of `auths`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// base64 of `username:password`.
    #[serde(deserialize_with = "null_is_absent")]
    auth: String,
    #[serde(deserialize_with = "null_is_absent")]
    username: String,
    #[serde(deserialize_with = "null_is_absent")]
    password: String,
    #[serde(deserialize_with = "null_is_absent")]
    identitytoken: String,
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(&self.auth).unwrap_or_default();
        let pair = String::from_utf8(decoded).unwrap_or_default();
        let (username, password) = pair.split_once(':').unwrap_or((&self.username, &self.password));
        // Some versions of docker padded the password with NUL.
        let password = password.trim_end_matches('\0');
        if !self.identitytoken.is_empty() {
            let token = Secret::new(self.identitytoken.clone());
            return Some(Credential::IdentityToken { username: username.to_owned(), token });
        }
        (!username.is_empty())
            .then(|| Credential::Password { username: username.to_owned(), password: Secret::new(password.to_owned()) })
    }
}

/// The key of an upstream for helpers: the upstream's name, or docker's own key of Docker Hub.
pub(super) fn helper_key(upstream: &str) -> &str {
    if upstream == "docker.io" { DOCKER_HUB_KEY } else { upstream }
}

/// Reads `null` as an absent value: Go writes empty values as `null`.
pub(super) fn null_is_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    value: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// The host in a key of `auths`, which may be a URL of the first registry API.
fn host_of_key(key: &str) -> &str {
    let Some(rest) = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) else {
        // podman writes a path without a scheme, for credentials of a part of a registry only.
        return key.trim_end_matches('/');
    };
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { username: username.to_owned(), password: Secret::new(password.to_owned()) })
    }

    fn found(name: &str, url: &str, json: &str) -> Option<Credential> {
        let (config, keys) = (DockerConfig::parse(json).unwrap(), keys(&Config::at(name, &[url])));
        match config.find(&keys) {
            Entry::Credential(credential) => Some(credential),
            Entry::Missing => None,
            entry @ Entry::Helper { .. } => panic!("{entry:?}"),
        }
    }

    #[test]
    fn an_entry_is_found_as_docker_and_podman_file_it() {
        // "me:se:cret" in base64, with and without padding.
        for (name, url, json, expected) in [
            (
                "ghcr.io",
                "https://ghcr.io",
                r#"{"auths":{"ghcr.io":{"auth":"bWU6c2U6Y3JldA=="}}}"#,
                password("me", "se:cret"),
            ),
            (
                "ghcr.io",
                "https://ghcr.io",
                r#"{"auths":{"ghcr.io":{"auth":"bWU6c2U6Y3JldA"}}}"#,
                password("me", "se:cret"),
            ),
            (
                "ghcr.io",
                "https://ghcr.io",
                r#"{"auths":{"https://ghcr.io/v2/":{"auth":"bWU6cHc="}}}"#,
                password("me", "pw"),
            ),
            (
                "h",
                "https://harbor.lan:8443",
                r#"{"auths":{"harbor.lan:8443":{"auth":"bWU6cHc="}}}"#,
                password("me", "pw"),
            ),
            // "me:pw", padded with NUL.
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{"auth":"bWU6cHcAAAA="}}}"#, password("me", "pw")),
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{"username":"me","password":"pw!"}}}"#, password("me", "pw!")),
            ("h", "https://harbor.lan:8443", r#"{"auths":{"harbor.lan":{"auth":"bWU6cHc="}}}"#, None),
            ("quay.io", "https://quay.io", r#"{"auths":{"quay.io/team":{"auth":"bWU6cHc="}}}"#, None),
            ("ccr.io", "https://ccr.io", r#"{"auths":{"hkccr.io":{"auth":"bWU6cHc="}}}"#, None),
            (
                "docker.io",
                "https://registry-1.docker.io",
                r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cHc="}},"HttpHeaders":{"a":"b"}}"#,
                password("me", "pw"),
            ),
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{"username":"me","password":"pw"}}}"#, password("me", "pw")),
            (
                "a.azurecr.io",
                "https://a.azurecr.io",
                r#"{"auths":{"a.azurecr.io":{"auth":"MDAwMDo=","identitytoken":"long"}}}"#,
                Some(Credential::IdentityToken { username: "0000".into(), token: Secret::new("long".into()) }),
            ),
            ("a.io", "https://a.io", r#"{"auths":{"a.io":{}}}"#, None),
            ("a.io", "https://a.io", "{}", None),
        ] {
            assert_eq!(found(name, url, json), expected, "{json}");
        }
    }

    #[test]
    fn null_in_a_docker_config_is_absent() {
        let pair = r#"{"auth":"bWU6cHc=","username":null,"password":null,"identitytoken":null}"#;
        for (json, expected) in [
            (r#"{"auths":null,"credsStore":null,"credHelpers":null}"#.to_owned(), None),
            (r#"{"auths":{"a.io":null}}"#.to_owned(), None),
            (r#"{"auths":{"a.io":{"auth":null,"username":"me","password":"pw"}}}"#.to_owned(), password("me", "pw")),
            (format!(r#"{{"auths":{{"a.io":{pair},"b.io":null}},"credsStore":null}}"#), password("me", "pw")),
            (format!(r#"{{"auths":{{"a.io":{pair}}},"credHelpers":{{"a.io":null}}}}"#), password("me", "pw")),
        ] {
            assert_eq!(found("a.io", "https://a.io", &json), expected, "{json}");
        }
    }

    #[test]
    fn a_helper_is_chosen_as_docker_chooses_it() {
        for (json, expected) in [
            (r#"{"credHelpers":{"a.io":"own"},"credsStore":"all"}"#, Some(("own", "a.io"))),
            (r#"{"credHelpers":{"b.io":"own"},"credsStore":"all"}"#, Some(("all", "a.io"))),
            (r#"{"credHelpers":{"a.io":""}}"#, None),
        ] {
            let (config, keys) = (DockerConfig::parse(json).unwrap(), keys(&Config::at("a.io", &["https://a.io"])));
            let expected = expected.map_or(Entry::Missing, |(helper, key)| Entry::Helper { helper, key });
            assert_eq!(config.find(&keys), expected, "{json}");
        }
    }
}
