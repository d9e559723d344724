//! What a request needs from its upstream, as the `scope` of a token.
//!
//! A challenge may name more than the request needs, such as `pull,push`. forebay requests what the request needs, and
//! widens that only by a further permission to read the same repository.
//!
//! Source: distribution, "Token Scope Documentation".

use crate::oci::Repository;

/// What Azure's registries require for a list of tags.
const METADATA_READ: &str = "metadata_read";

/// The permission that a request needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum Scope {
    Pull(Repository),
    /// To pull, and to read metadata such as tags, at registries where `pull` does not include that.
    PullMetadata(Repository),
    /// To push to `repository`, and to pull from the repository that a blob is mounted from.
    Push {
        repository: Repository,
        from: Option<Repository>,
    },
    Delete(Repository),
    Catalog,
    /// To authenticate, and no more, as for `GET /v2/`.
    Login,
}

impl Scope {
    /// The repository that the request is for.
    pub(in crate::upstream) fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Pull(repository)
            | Self::PullMetadata(repository)
            | Self::Push { repository, .. }
            | Self::Delete(repository) => Some(repository),
            Self::Catalog | Self::Login => None,
        }
    }

    /// All repositories that the client named: that of the request, and that of a mount.
    pub(in crate::upstream) fn repositories(&self) -> impl Iterator<Item = &Repository> {
        let from = match self {
            Self::Push { from, .. } => from.as_ref(),
            Self::Pull(_) | Self::PullMetadata(_) | Self::Delete(_) | Self::Catalog | Self::Login => None,
        };
        self.repository().into_iter().chain(from)
    }

    /// The values of the `scope` parameters of a token request.
    pub(in crate::upstream) fn parameters(&self) -> Vec<String> {
        match self {
            Self::Pull(repository) => vec![format!("repository:{repository}:pull")],
            Self::PullMetadata(repository) => vec![format!("repository:{repository}:pull,{METADATA_READ}")],
            Self::Push { repository, from } => {
                let mut scopes = vec![format!("repository:{repository}:pull,push")];
                let other = from.as_ref().filter(|from| *from != repository);
                scopes.extend(other.map(|from| format!("repository:{from}:pull")));
                scopes
            }
            // Some registries require `delete`, others `push`; a realm grants the actions that it knows.
            Self::Delete(repository) => vec![format!("repository:{repository}:pull,push,delete")],
            Self::Catalog => vec!["registry:catalog:*".to_owned()],
            Self::Login => vec![],
        }
    }

    /// This scope widened by the `scope` of a challenge. `None` unless the addition is a permission to read the same
    /// repository: forebay requests no permission to push or delete because a challenge names one.
    pub(in crate::upstream) fn widened(&self, challenged: &str) -> Option<Self> {
        let Self::Pull(repository) = self else { return None };
        let reads_metadata = |scope: &str| {
            let resource = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
            resource.is_some_and(|(name, actions)| {
                name == repository.as_str() && actions.split(',').any(|action| action == METADATA_READ)
            })
        };
        challenged.split(' ').any(reads_metadata).then(|| Self::PullMetadata(repository.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_what_the_request_needs() {
        let name = |name: &str| name.parse::<Repository>().unwrap();
        let push = |from: Option<&str>| Scope::Push { repository: name("a/b"), from: from.map(name) };
        for (scope, parameters) in [
            (Scope::Pull(name("library/nginx")), &["repository:library/nginx:pull"][..]),
            (Scope::PullMetadata(name("a/b")), &["repository:a/b:pull,metadata_read"]),
            (push(None), &["repository:a/b:pull,push"]),
            (push(Some("a/b")), &["repository:a/b:pull,push"]),
            (push(Some("c")), &["repository:a/b:pull,push", "repository:c:pull"]),
            (Scope::Delete(name("a")), &["repository:a:pull,push,delete"]),
            (Scope::Catalog, &["registry:catalog:*"]),
            (Scope::Login, &[]),
        ] {
            assert_eq!(scope.parameters(), parameters, "{scope:?}");
        }
    }

    #[test]
    fn a_challenge_widens_a_scope_only_to_read_metadata() {
        let name = || "a/b".parse::<Repository>().unwrap();
        for (named, widened) in [
            ("repository:a/b:metadata_read", true),
            ("repository:a/b:pull,metadata_read", true),
            ("repository:a/b:delete,metadata_read,push", true),
            ("repository:c:pull repository:a/b:metadata_read", true),
            ("repository:a/b:pull", false),
            ("repository:a/b:pull,push,delete,*", false),
            ("repository:a/b:metadata_read_all", false),
            ("repository:a/b/c:metadata_read", false),
            ("repository:c:metadata_read", false),
            ("registry:a/b:metadata_read", false),
            ("metadata_read", false),
            ("", false),
        ] {
            let expected = widened.then(|| Scope::PullMetadata(name()));
            assert_eq!(Scope::Pull(name()).widened(named), expected, "{named}");
        }
        for scope in [Scope::Delete(name()), Scope::PullMetadata(name()), Scope::Catalog, Scope::Login] {
            assert_eq!(scope.widened("repository:a/b:metadata_read"), None, "{scope:?}");
        }
    }
}
