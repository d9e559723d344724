//! `[[warm]]`: images that are kept warm by a schedule.

use super::{Platforms, schedule::Schedule};

/// One job: some images, and when they are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// As for docker, in the order of the file.
    pub images: Vec<String>,
    pub schedule: Schedule,
    pub platforms: Platforms,
}
