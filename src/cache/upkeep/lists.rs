//! The lists of usage in the object store: `usage/<process>/<hour>`, and `usage/summary`.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, SystemTime},
};

use super::{
    Upkeep,
    ages::hours,
    shelf::DIGITS,
    usage::{MAX_LIST, MAX_SUMMARY, Usage, list},
};
use crate::store::{Error, ErrorKind, IfPresent, ObjectName};

const SUMMARY: &str = "usage/summary";
const LISTS: &str = "usage/";
/// How long a list or the summary may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// After a list that could not be written.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// How many lists are put together at a time: the others next time.
const MAX_LISTS: usize = 10_000;

/// No other process, of this or another machine, has this name.
pub(super) fn process_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// What the next list tells, and when: a list that could not be written is not lost.
#[derive(Debug, PartialEq, Eq)]
struct Untold {
    /// Uses since then.
    since: SystemTime,
    pause: Duration,
    interval: Duration,
}

impl Untold {
    /// At the start: what the last process did not tell any more is in the first list.
    fn new(now: SystemTime, interval: Duration) -> Self {
        Self { since: now.checked_sub(interval).unwrap_or(now), pause: interval, interval }
    }

    fn is_told(&mut self, now: SystemTime) {
        (self.since, self.pause) = (now, self.interval);
    }

    /// `pause`: how long the store is left alone.
    fn is_refused(&mut self, pause: Option<Duration>) {
        self.pause = pause.unwrap_or_default().max(RETRY_PAUSE).min(self.interval);
    }
}

/// What forebays have told.
#[derive(Default)]
pub(super) struct Told {
    pub usage: Usage,
    /// The lists that are in it and not yet in the summary.
    lists: Vec<ObjectName>,
}

impl Upkeep {
    /// Leaves lists of what was used here. Never returns.
    pub(super) async fn tell_usage(&self) -> std::convert::Infallible {
        let mut untold = Untold::new(SystemTime::now(), self.0.times.usage_interval);
        loop {
            tokio::time::sleep(untold.pause).await;
            let now = SystemTime::now();
            match self.tell_usage_since(untold.since, now).await {
                Ok(()) => untold.is_told(now),
                Err(error) => {
                    tracing::debug!(%error, "a list of usage is not written into the object store: again after a pause");
                    untold.is_refused(self.0.objects.write_pause());
                }
            }
        }
    }

    async fn tell_usage_since(&self, since: SystemTime, now: SystemTime) -> Result<(), Error> {
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

    /// Puts the lists of all forebays together, and writes nothing.
    pub(super) async fn collect_usage(&self) -> Result<Told, Error> {
        let summary = self.text_of(&ObjectName::new(SUMMARY), MAX_SUMMARY).await?.unwrap_or_default();
        let mut told = Told { usage: Usage::of_summary(&summary, hours(SystemTime::now())), lists: Vec::new() };
        // By parts, which names that are none of forebay's do not stop.
        for digit in DIGITS.chars() {
            match self.collect_lists(&format!("{LISTS}{digit}"), &mut told).await {
                Err(error) if error.kind == ErrorKind::Refused => {
                    tracing::warn!(%error, "some lists of usage in the object store are not read");
                }
                collected => collected?,
            }
        }
        Ok(told)
    }

    async fn collect_lists(&self, prefix: &str, told: &mut Told) -> Result<(), Error> {
        let mut token = None;
        loop {
            let page = self.0.objects.patient().list(prefix, token.as_deref()).await?;
            for object in page.objects {
                let Some(hour) = hour_of(&object.name).filter(|_| told.lists.len() < MAX_LISTS) else { continue };
                // One from the future would keep its contents for ever.
                let hour = hour.min(hours(SystemTime::now()));
                if let Some(text) = self.text_of(&object.name, MAX_LIST).await? {
                    told.usage.add_list(&text, hour);
                }
                // One that tells nothing is removed all the same.
                told.lists.push(object.name);
            }
            token = page.next;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes the summary, and removes the lists that are in it. What fails is done by the next pass.
    pub(super) async fn sum_up(&self, told: Told) {
        if told.lists.is_empty() {
            return;
        }
        let objects = self.0.objects.patient();
        let done = async {
            objects.put(&ObjectName::new(SUMMARY), &told.usage.summary().into(), IfPresent::Replace).await?;
            for name in &told.lists {
                objects.delete(name).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the lists of usage in the object store are put together the next time");
        }
    }

    /// A list or the summary; `None`: there is none any more, or none that forebay wrote.
    ///
    /// # Errors
    /// The store fails.
    async fn text_of(&self, name: &ObjectName, max: usize) -> Result<Option<String>, Error> {
        match self.0.objects.patient().get_small(name, max, READ_TIMEOUT).await {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.is_of_store() || error.kind == ErrorKind::NotAsked => Err(error),
            // Another forebay may have put the lists together.
            Err(error) if error.kind == ErrorKind::Missing => Ok(None),
            Err(error) => {
                tracing::warn!(%name, %error, "usage in the object store cannot be read, and is forgotten");
                Ok(None)
            }
        }
    }
}

/// When the list of this name was written.
fn hour_of(name: &ObjectName) -> Option<u32> {
    let (process, hour) = name.as_str().strip_prefix(LISTS)?.split_once('/')?;
    // Another program may have such names in the bucket.
    let is_process = process.len() == 16 && process.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_process.then(|| hour.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_that_could_not_be_told_are_in_the_next_list() {
        let (hour, second) = (Duration::from_secs(60 * 60), Duration::from_secs(1));
        let start = SystemTime::UNIX_EPOCH + hour * 24;
        let mut untold = Untold::new(start, hour);
        for (minutes, result, since, pause) in [
            (60, Ok(()), 60, hour),
            (120, Err(None), 60, second * 60),
            (121, Err(Some(second * 5)), 60, second * 60),
            (122, Err(Some(second * 300)), 60, second * 300),
            (127, Err(Some(hour * 2)), 60, hour),
            (187, Ok(()), 187, hour),
        ] {
            let now = start + Duration::from_secs(60 * minutes);
            match result {
                Ok(()) => untold.is_told(now),
                Err(pause) => untold.is_refused(pause),
            }
            let since = start + Duration::from_secs(60 * since);
            assert_eq!((untold.since, untold.pause), (since, pause), "{minutes}");
        }
        assert_eq!(Untold::new(start, hour).since, start - hour);
    }
}
