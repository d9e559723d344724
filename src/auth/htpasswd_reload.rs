//! The htpasswd file is read again when it changes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::AccessControl;
use crate::{metrics::Metrics, repeated_error::RepeatedError};

/// How often the file is looked at. Its content counts, not its time: that works with links, and on network file systems.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at the file of the rules of now every few seconds until `shutdown`. What it says holds when it was the same on
/// two looks: a file that is being written is no file without users.
pub async fn watch(current: impl Fn() -> Arc<AccessControl>, metrics: Metrics, shutdown: CancellationToken) {
    let mut trouble = RepeatedError::default();
    let mut seen = None;
    while tokio::time::timeout(LOOK, shutdown.cancelled()).await.is_err() {
        let access = current();
        let before = seen.take();
        let looked = tokio::task::spawn_blocking(move || access.look(before)).await;
        match looked {
            Ok(Ok(ReloadCheck::Unchanged)) => trouble.over(),
            Ok(Ok(ReloadCheck::Changing(fingerprint))) => seen = Some(fingerprint),
            Ok(Ok(ReloadCheck::Changed(file))) => {
                trouble.over();
                metrics.reload("htpasswd", true);
                info!(htpasswd = %file.display(), "the new users are in force");
            }
            Ok(Err(failure)) => {
                if trouble.is_news(&failure) {
                    metrics.reload("htpasswd", false);
                    error!(
                        error = &failure as &dyn std::error::Error,
                        "the htpasswd file is not usable; the old users stay"
                    );
                }
            }
            // The runtime is ending, and this task with it.
            Err(_) => return,
        }
    }
}

/// What looking at the file found.
pub(super) enum ReloadCheck {
    Unchanged,
    /// It is another one than before, which may still be written.
    Changing([u8; 32]),
    /// It has been the same twice, and is in force.
    Changed(PathBuf),
}
