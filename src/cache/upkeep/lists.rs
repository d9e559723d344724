//! The lists of usage in the object store: `usage/<process>/<hour>`, and `usage/summary`.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, SystemTime},
};

use super::{
    Upkeep,
    ages::hours,
    usage::{MAX_LIST, MAX_SUMMARY, Usage, list},
};
use crate::store::{Error, ErrorKind, IfPresent, ObjectName};

const SUMMARY: &str = "usage/summary";
const LISTS: &str = "usage/";
/// How long a list or the summary may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How many lists are put together at a time: the others next time.
const MAX_LISTS: usize = 10_000;

/// No other process, of this or another machine, has this name.
pub(super) fn process_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

impl Upkeep {
    /// Leaves lists of what was used here. Never returns.
    pub(super) async fn tell_usage(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(self.0.times.usage_interval).await;
            if let Err(error) = self.tell_usage_now().await {
                tracing::debug!(%error, "a list of usage is not written into the object store");
            }
        }
    }

    async fn tell_usage_now(&self) -> Result<(), Error> {
        let now = SystemTime::now();
        let since = now.checked_sub(self.0.times.usage_interval).unwrap_or(SystemTime::UNIX_EPOCH);
        let since = u32::try_from(super::minutes(since)).unwrap_or_default();
        let disk = self.0.disk.clone();
        let direct = self.0.objects.take_direct_uses();
        let text = super::blocking(move || {
            let used = disk.contents(|_, object| object.minute >= since);
            let text = list(direct.iter().copied().chain(used.filter_map(|(key, _)| key.front())));
            (text, direct)
        });
        let (text, direct) = text.await;
        if text.is_empty() {
            return Ok(());
        }
        let name = ObjectName::new(format!("{LISTS}{}/{}", self.0.process, hours(now)));
        let told = self.0.objects.put(&name, text.into(), IfPresent::Replace).await;
        if told.is_err() {
            self.0.objects.put_back_direct_uses(direct);
        }
        told
    }

    /// Puts the lists of all forebays together.
    pub(super) async fn collect_usage(&self) -> Result<Usage, Error> {
        let summary = ObjectName::new(SUMMARY);
        let mut usage = match self.text_of(&summary, MAX_SUMMARY).await {
            Ok(text) => Usage::of_summary(&text),
            Err(error) if error.kind == ErrorKind::Missing => Usage::default(),
            Err(error) => return Err(error),
        };
        let mut read = Vec::new();
        let mut token = None;
        loop {
            let page = self.0.objects.list(LISTS, token.take()).await?;
            for object in page.objects {
                let Some(hour) = hour_of(&object.name).filter(|_| read.len() < MAX_LISTS) else { continue };
                // One from the future would keep its contents for ever.
                let hour = hour.min(hours(SystemTime::now()));
                usage.add_list(&self.text_of(&object.name, MAX_LIST).await?, hour);
                read.push(object.name);
            }
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        if !read.is_empty() {
            self.0.objects.put(&summary, usage.summary().into(), IfPresent::Replace).await?;
        }
        for name in read {
            self.0.objects.delete(&name).await?;
        }
        Ok(usage)
    }

    async fn text_of(&self, name: &ObjectName, max: usize) -> Result<String, Error> {
        let bytes = self.0.objects.get_small(name, max, READ_TIMEOUT).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// When the list of this name was written.
fn hour_of(name: &ObjectName) -> Option<u32> {
    let (_, hour) = name.as_str().strip_prefix(LISTS)?.split_once('/')?;
    hour.parse().ok()
}
