//! Joining the download of a blob, or starting it.

use std::sync::Arc;

use super::{
    Download, Downloads, driver,
    table::{Entry, Subscription},
};
use crate::cache::Source;

/// How somebody came to a fill.
pub enum Joined {
    /// It was started for this one.
    Leader(Subscription),
    /// It was there.
    Follower(Subscription),
}

impl Downloads {
    /// Joins the fill of this blob from this registry for a client, or starts it. There is never more than one: no wait and no
    /// error, and nothing that is not verified, comes from one registry to the clients of another.
    pub async fn join(&self, source: &Source) -> Joined {
        let joined = self.join_or_start(source, true).await;
        joined.membership().want();
        joined
    }

    /// The same for what no client has asked for yet.
    pub async fn join_ahead(&self, source: &Source) -> Joined {
        self.join_or_start(source, false).await
    }

    async fn join_or_start(&self, source: &Source, wanted: bool) -> Joined {
        loop {
            let leaving: Arc<Download> = match self.enter_or_add(source, wanted) {
                Entry::Joined(membership) => return Joined::Follower(membership),
                Entry::Added(membership) => {
                    self.tasks().spawn(driver::run(self.clone(), membership.fill().clone()));
                    return Joined::Leader(membership);
                }
                Entry::Leaving(leaving) => leaving,
            };
            // It was given up a moment ago and still holds its temporary file.
            let _ = leaving.end().await;
            if self.shutdown().is_cancelled() {
                return Joined::Follower(self.enter_ended(&leaving, wanted));
            }
        }
    }
}

impl Joined {
    fn membership(&self) -> &Subscription {
        match self {
            Self::Leader(membership) | Self::Follower(membership) => membership,
        }
    }

    pub fn into_membership(self) -> Subscription {
        match self {
            Self::Leader(membership) | Self::Follower(membership) => membership,
        }
    }
}
