//! Who may change something (pure).
//!
//! Where forebay has credentials, it would lend them to every client: so it wants to know who that is, by a password or, where
//! the operator says so, a certificate. Where it has none, the upstream gets the client's own credentials or none, and
//! decides. `access.push_users`, where it is set, names all who may; but an upstream with `access = "client"` decides alone.

use crate::{
    auth::{Identity, PushUsers},
    error::ErrorKind,
};

/// What an upstream and the configuration say of changes.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Changes are made with credentials of ours.
    pub has_credentials: bool,
    /// There is a client who could say who it is.
    pub has_users: bool,
    /// Who alone may make changes, where that is configured.
    pub push_users: Option<PushUsers>,
}

impl Terms {
    /// Whether a change needs a client that says who it is.
    pub(crate) fn need_user(&self) -> bool {
        self.has_credentials || self.push_users.is_some()
    }

    /// Whether this client may make changes.
    ///
    /// # Errors
    /// It has to say who it is, cannot, or is none of those who may.
    pub(crate) fn permit(&self, identity: &Identity) -> Result<(), ErrorKind> {
        match (identity, &self.push_users) {
            (Identity::User(_), None) => Ok(()),
            (Identity::User(name), Some(named)) if named.users.contains(name) => Ok(()),
            (Identity::Certificate, Some(named)) if named.certificates => Ok(()),
            (Identity::User(_) | Identity::Certificate, Some(_)) => Err(ErrorKind::NoPushUser),
            (Identity::Certificate, None) if self.has_credentials => Err(ErrorKind::OnlyPulls),
            (Identity::Anonymous | Identity::Client(_), _) if self.need_user() => Err(match self.has_users {
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

    fn status(terms: &Terms, identity: &Identity) -> Option<u16> {
        terms.permit(identity).err().map(|error| error.status().as_u16())
    }

    #[test]
    fn our_credentials_are_lent_to_those_we_know() {
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
            let terms = Terms { has_credentials, has_users, push_users: None };
            assert_eq!(status(&terms, identity), expected, "{identity:?} {terms:?}");
        }
    }

    #[test]
    fn a_client_that_cannot_say_who_it_is_is_told_what_is_missing() {
        let named = Some(PushUsers { users: Default::default(), certificates: true });
        let terms = |push_users| Terms { has_credentials: true, has_users: false, push_users };
        assert!(matches!(terms(named).permit(&Identity::Anonymous), Err(ErrorKind::NoPushUser)));
        assert!(matches!(terms(None).permit(&Identity::Anonymous), Err(ErrorKind::NoUsers)));
    }

    #[test]
    fn those_who_are_named_may_push_and_no_others() {
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
                let terms = Terms { has_credentials, has_users, push_users: push_users.clone() };
                assert_eq!(status(&terms, identity), expected, "{identity:?} {terms:?}");
                assert!(terms.need_user());
            }
        }
    }
}
