//! The places for those who follow the events.
//!
//! What must hold: they leave places for other requests, on the socket as on the admin listener.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    access::{Caller, Token},
    response::ApiError,
};

/// How many follow on the control socket: half of its clients.
const MAX_ON_SOCKET: usize = 16;
/// How many follow on the admin listener: half of its connections.
const MAX_ON_LISTENER: usize = 32;
/// How many of those may have no token.
const MAX_WITHOUT_TOKEN: usize = 8;

/// All places.
pub(super) struct FollowerPlaces {
    on_socket: Arc<Semaphore>,
    on_listener: Arc<Semaphore>,
    without_token: Arc<Semaphore>,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub(super) struct FollowerPlace {
    _permit: OwnedSemaphorePermit,
}

impl Default for FollowerPlaces {
    fn default() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self {
            on_socket: places(MAX_ON_SOCKET),
            on_listener: places(MAX_ON_LISTENER),
            without_token: places(MAX_WITHOUT_TOKEN),
        }
    }
}

impl FollowerPlaces {
    /// A place for one more.
    ///
    /// # Errors
    /// Too many follow already.
    pub(super) fn take(&self, caller: Caller) -> Result<FollowerPlace, ApiError> {
        let (places, most) = match caller {
            Caller::Socket => (&self.on_socket, MAX_ON_SOCKET),
            Caller::Listener { token: Token::Right, .. } => (&self.on_listener, MAX_ON_LISTENER),
            Caller::Listener { .. } => (&self.without_token, MAX_WITHOUT_TOKEN),
        };
        match places.clone().try_acquire_owned() {
            Ok(permit) => Ok(FollowerPlace { _permit: permit }),
            Err(_) => {
                let why = format!("{most} clients follow the events already");
                Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_leave_places_to_others() {
        let places = FollowerPlaces::default();
        let without = Caller::Listener { is_local: true, token: Token::NotConfigured };
        let with = Caller::Listener { is_local: true, token: Token::Right };
        for (caller, most) in [(Caller::Socket, MAX_ON_SOCKET), (without, MAX_WITHOUT_TOKEN), (with, MAX_ON_LISTENER)] {
            let mut taken: Vec<_> = (0..most).map(|_| places.take(caller).unwrap()).collect();
            assert_eq!(places.take(caller).unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
            taken.pop();
            assert!(places.take(caller).is_ok());
        }
    }
}
