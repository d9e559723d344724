//! The credential helper that the configuration of an upstream leads to.

use super::{
    super::{Config, CredentialSource},
    docker_config::{self, DockerConfig, Entry},
};

/// The name of the helper that forebay will run for an upstream's credentials; `None` if it runs none, or if its docker
/// `config.json` cannot be read. Blocks on that file.
pub(crate) fn named_helper(config: &Config) -> Option<String> {
    match &config.credential {
        CredentialSource::Helper(helper) => Some(helper.clone()),
        CredentialSource::DockerConfig(path) => match DockerConfig::read(path).ok()?.find(&docker_config::keys(config))
        {
            Entry::Helper { helper, .. } => Some(helper.to_owned()),
            Entry::Missing | Entry::Credential(_) => None,
        },
        CredentialSource::Anonymous | CredentialSource::Password { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_helper_is_named_by_its_key_or_in_the_docker_config() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let at = |credential| Config { credential, ..Config::at("quay.io", &["https://quay.io"]) };
        assert_eq!(named_helper(&at(CredentialSource::Helper("ecr-login".to_owned()))).as_deref(), Some("ecr-login"));
        assert_eq!(named_helper(&at(CredentialSource::Anonymous)), None);
        for (text, expected) in [
            (r#"{"credHelpers":{"quay.io":"pass"}}"#, Some("pass")),
            (r#"{"credHelpers":{"ghcr.io":"pass"}}"#, None),
            (r#"{"credsStore":"desktop"}"#, Some("desktop")),
            (r#"{"credsStore":"desktop","auths":{"quay.io":{"auth":"dXNlcjpzZWNyZXQ="}}}"#, None),
            ("{", None),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(named_helper(&at(CredentialSource::DockerConfig(file.clone()))).as_deref(), expected, "{text}");
        }
    }
}
