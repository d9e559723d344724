//! Which clients may push, mount and delete (pure).
//!
//! If forebay pushes with its own credentials, it requires a user: a password or, if the operator configures it, a
//! client certificate. If forebay has none, the upstream receives the client's own credentials or none, and decides.
//! `access.push_users`, if set, names the users that may push; an upstream with `access = "client"` decides alone.

use crate::{
    auth::{Identity, PushUsers},
    error::ErrorKind,
};

/// The properties of the upstream and of the configuration that decide on pushes.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// forebay pushes with its own credentials.
    pub has_credentials: bool,
    /// There is an htpasswd file, so that a client can log in.
    pub has_users: bool,
    /// The only users that may push, if configured.
    pub push_users: Option<PushUsers>,
}

impl Policy {
    /// Whether a push requires an authenticated client.
    pub(crate) fn requires_user(&self) -> bool {
        self.has_credentials || self.push_users.is_some()
    }

    /// Lets a client push.
    ///
    /// # Errors
    /// The client has to log in, cannot, or is not among the users that may push.
    pub(crate) fn permit(&self, identity: &Identity) -> Result<(), ErrorKind> {
        match (identity, &self.push_users) {
            (Identity::User(_), None) => Ok(()),
            (Identity::User(name), Some(named)) if named.users.contains(name) => Ok(()),
            (Identity::Certificate, Some(named)) if named.certificates => Ok(()),
            (Identity::User(_) | Identity::Certificate, Some(_)) => Err(ErrorKind::NoPushUser),
            (Identity::Certificate, None) if self.has_credentials => Err(ErrorKind::OnlyPulls),
            (Identity::Anonymous | Identity::Client(_), _) if self.requires_user() => Err(match self.has_users {
                true => ErrorKind::Unauthenticated,
                false if self.push_users.is_some() => ErrorKind::NoPushUser,
                false => ErrorKind::NoUsers,
            }),
            (Identity::Certificate | Identity::Anonymous | Identity::Client(_), _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(policy: &Policy, identity: &Identity) -> Option<u16> {
        policy.permit(identity).err().map(|error| error.status().as_u16())
    }

    #[test]
    fn our_credentials_are_used_for_known_users_only() {
        let (user, client) = (Identity::User("ann".into()), Identity::Client("ann".into()));
        for (identity, has_credentials, has_users, expected) in [
            (&user, true, true, None),
            (&user, false, true, None),
            (&Identity::Anonymous, false, false, None),
            (&Identity::Anonymous, false, true, None),
            (&Identity::Anonymous, true, true, Some(401)),
            (&Identity::Anonymous, true, false, Some(403)),
            (&Identity::Certificate, false, true, None),
            (&Identity::Certificate, true, true, Some(403)),
            (&Identity::Certificate, true, false, Some(403)),
            (&client, false, false, None),
            (&client, true, true, Some(401)),
        ] {
            let policy = Policy { has_credentials, has_users, push_users: None };
            assert_eq!(status(&policy, identity), expected, "{identity:?} {policy:?}");
        }
    }

    #[test]
    fn a_client_that_cannot_log_in_is_told_what_is_missing() {
        let named = Some(PushUsers { users: Default::default(), certificates: true });
        let policy = |push_users| Policy { has_credentials: true, has_users: false, push_users };
        assert!(matches!(policy(named).permit(&Identity::Anonymous), Err(ErrorKind::NoPushUser)));
        assert!(matches!(policy(None).permit(&Identity::Anonymous), Err(ErrorKind::NoUsers)));
    }

    #[test]
    fn only_users_in_push_users_may_push() {
        let named = |users: &[&str], certificates| {
            Some(PushUsers { users: users.iter().map(|user| (*user).into()).collect(), certificates })
        };
        let (ci, ann) = (Identity::User("ci".into()), Identity::User("ann".into()));
        for (push_users, identity, has_users, expected) in [
            (named(&["ci"], false), &ci, true, None),
            (named(&["ci"], false), &ann, true, Some(403)),
            (named(&["ci"], false), &Identity::Certificate, true, Some(403)),
            (named(&["ci"], false), &Identity::Anonymous, true, Some(401)),
            (named(&["ci"], true), &Identity::Certificate, true, None),
            (named(&[], true), &Identity::Certificate, false, None),
            (named(&[], true), &Identity::Anonymous, false, Some(403)),
            (named(&[], true), &ann, true, Some(403)),
            (named(&[], false), &ci, true, Some(403)),
            (named(&[], false), &Identity::Anonymous, true, Some(401)),
        ] {
            for has_credentials in [true, false] {
                let policy = Policy { has_credentials, has_users, push_users: push_users.clone() };
                assert_eq!(status(&policy, identity), expected, "{identity:?} {policy:?}");
                assert!(policy.requires_user());
            }
        }
    }
}
