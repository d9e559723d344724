//! `[[warm]]`: images that are kept warm by a schedule.

use std::time::Duration;

use super::{Platforms, schedule::Schedule};

/// One job: some images, and when they are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// As for docker, in the order of the file.
    pub images: Vec<String>,
    pub schedule: Schedule,
    pub platforms: Platforms,
    /// How long the images are pinned after each run; `None`: they are not.
    pub pin: Option<Duration>,
}
