//! Who may change something (pure).
//!
//! Where forebay has credentials, it would lend them to whoever asks: so it wants to know who that is, by a password or a
//! certificate. Where it has none, the upstream is asked in nobody's name or the client's own, and decides.

use crate::{access::Identity, error::Error};

/// Whether a change at an upstream needs a user of ours.
pub fn needs_user(has_credentials: bool) -> bool {
    has_credentials
}

/// `has_users`: whether there is anybody who could say who they are.
///
/// # Errors
/// Who asks has to say who they are, or cannot.
pub fn permit(has_credentials: bool, identity: &Identity, has_users: bool) -> Result<(), Error> {
    match identity {
        Identity::User(_) | Identity::Certificate => Ok(()),
        Identity::Anonymous | Identity::Client(_) if !needs_user(has_credentials) => Ok(()),
        Identity::Anonymous | Identity::Client(_) if has_users => Err(Error::Unauthenticated),
        Identity::Anonymous | Identity::Client(_) => Err(Error::NoUsers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_credentials_are_lent_to_those_we_know() {
        let (user, client) = (Identity::User("ann".into()), Identity::Client("ann".into()));
        for (identity, has_credentials, has_users, status) in [
            (&user, true, true, None),
            (&user, false, true, None),
            (&Identity::Anonymous, false, false, None),
            (&Identity::Anonymous, false, true, None),
            (&Identity::Anonymous, true, true, Some(401)),
            (&Identity::Anonymous, true, false, Some(403)),
            (&Identity::Certificate, false, true, None),
            (&Identity::Certificate, true, true, None),
            (&Identity::Certificate, true, false, None),
            (&client, false, false, None),
            (&client, true, true, Some(401)),
        ] {
            let refused = permit(has_credentials, identity, has_users).err().map(|error| error.status().as_u16());
            assert_eq!(refused, status, "{identity:?} {has_credentials} {has_users}");
        }
    }
}
