//! Joins the download of a blob, or starts it.

use std::sync::Arc;

use tracing::Instrument as _;

use super::{
    Download, Downloads, driver,
    need::Need,
    table::{Entry, Subscription},
};
use crate::cache::Source;

/// How a request got its download.
pub(crate) enum Joined {
    /// The download was started for this request.
    Started(Subscription),
    /// The download was already running.
    Existing(Subscription),
}

impl Downloads {
    /// Joins the download of this blob from this registry for a client, or starts it. There is never more than one per
    /// registry, so no wait, no error and no unverified content passes from one registry to the clients of another.
    pub(crate) async fn join(&self, source: &Source, need: Need) -> Joined {
        let joined = self.join_or_start(source, need, true).await;
        joined.subscription().want();
        joined
    }

    /// The same for a blob that no client has requested yet.
    pub(crate) async fn join_ahead(&self, source: &Source) -> Joined {
        self.join_or_start(source, Need::Whole, false).await
    }

    async fn join_or_start(&self, source: &Source, need: Need, wanted: bool) -> Joined {
        loop {
            let leaving: Arc<Download> = match self.enter_or_add(source, need, wanted) {
                Entry::Joined(subscription) => return Joined::Existing(subscription),
                Entry::Added(subscription) => {
                    let run = driver::run(self.clone(), subscription.download().clone());
                    self.tasks().spawn(run.instrument(source.upstream.trace().span()));
                    return Joined::Started(subscription);
                }
                Entry::Leaving(leaving) => leaving,
            };
            // The download was cancelled a moment ago and still holds its temporary file.
            let _ = leaving.end().await;
            if self.shutdown().is_cancelled() {
                return Joined::Existing(self.enter_ended(&leaving, wanted));
            }
        }
    }
}

impl Joined {
    fn subscription(&self) -> &Subscription {
        match self {
            Self::Started(subscription) | Self::Existing(subscription) => subscription,
        }
    }

    pub(crate) fn into_subscription(self) -> Subscription {
        match self {
            Self::Started(subscription) | Self::Existing(subscription) => subscription,
        }
    }
}
