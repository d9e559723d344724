//! `[[warm]]`: runs of the configuration by their schedules, and what came of the last ones.
//!
//! What must hold: one job runs at a time; a reload keeps the times of jobs that did not change and the results of jobs that
//! have all of their images still, and ends no run.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{Config, ImageOutcome, WarmEvent, WarmRequest, WarmSummary, Warmer};

/// How often the clock is looked at: it may be set, and a machine may sleep.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How many images that failed are remembered of each job.
const MAX_FAILURES: usize = 10;
/// How many events wait for this.
const MAX_WAITING: usize = 16;

/// The jobs of the configuration. A cheap handle.
#[derive(Clone, Default)]
pub(crate) struct WarmJobs(Arc<Jobs>);

#[derive(Default)]
struct Jobs {
    jobs: Mutex<Vec<Job>>,
    changed: Notify,
}

struct Job {
    config: Arc<Config>,
    next: SystemTime,
    /// When its run began that goes on.
    running_since: Option<SystemTime>,
    last: Option<LastRun>,
}

impl Job {
    /// Whether a job has all images of this one: what came of them is as true as before.
    fn is_contained_in(&self, config: &Config) -> bool {
        self.config.images.iter().all(|image| config.images.contains(image))
    }
}

/// The last run of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastRun {
    pub began: SystemTime,
    pub summary: WarmSummary,
    /// Some of the images that failed, each with the reason.
    pub failures: Vec<(String, String)>,
}

/// How a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobReport {
    pub config: Arc<Config>,
    pub next: SystemTime,
    pub is_running: bool,
    pub last: Option<LastRun>,
}

impl WarmJobs {
    /// Takes over the jobs of a configuration.
    pub(crate) fn set(&self, configs: &[Config]) {
        let mut jobs = self.0.jobs.lock();
        let mut before = std::mem::take(&mut *jobs);
        let mut take = |is_it: &dyn Fn(&Job) -> bool| Some(before.swap_remove(before.iter().position(is_it)?));
        let unchanged: Vec<Option<Job>> = configs.iter().map(|config| take(&|job| *job.config == *config)).collect();
        let now = SystemTime::now();
        jobs.extend(configs.iter().zip(unchanged).map(|(config, unchanged)| {
            unchanged.unwrap_or_else(|| Job {
                config: Arc::new(config.clone()),
                next: config.schedule.next(None, now, random()),
                running_since: None,
                last: take(&|job| job.is_contained_in(config)).and_then(|job| job.last),
            })
        }));
        drop(jobs);
        self.0.changed.notify_one();
    }

    /// How all jobs are, in the order of the file.
    pub(crate) fn reports(&self) -> Vec<JobReport> {
        let jobs = self.0.jobs.lock();
        let report = |job: &Job| JobReport {
            config: job.config.clone(),
            next: job.next,
            is_running: job.running_since.is_some(),
            last: job.last.clone(),
        };
        jobs.iter().map(report).collect()
    }

    /// Runs the jobs when they are due. Never returns; drop it to end the run under way.
    pub(crate) async fn run(self, warmer: Warmer) {
        loop {
            let now = SystemTime::now();
            if let Some(config) = self.begin_due(now) {
                let last = warm(warmer.clone(), &config, now).await;
                self.end(&config, last);
                continue;
            }
            let wait = self.next().map_or(LOOK_INTERVAL, |next| next.duration_since(now).unwrap_or_default());
            tokio::select! {
                () = sleep(wait.min(LOOK_INTERVAL)) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn next(&self) -> Option<SystemTime> {
        self.0.jobs.lock().iter().map(|job| job.next).min()
    }

    /// The job that is due for the longest time.
    fn begin_due(&self, now: SystemTime) -> Option<Arc<Config>> {
        let mut jobs = self.0.jobs.lock();
        for job in &mut *jobs {
            job.next = job.next.min(job.config.schedule.latest(now));
        }
        let job = jobs.iter_mut().filter(|job| job.next <= now).min_by_key(|job| job.next)?;
        job.next = job.config.schedule.next(Some(now), now, random());
        job.running_since = Some(now);
        Some(job.config.clone())
    }

    fn end(&self, config: &Arc<Config>, last: LastRun) {
        // A reload may have removed it.
        if let Some(job) = self.0.jobs.lock().iter_mut().find(|job| Arc::ptr_eq(&job.config, config)) {
            (job.running_since, job.last) = (None, Some(last));
        }
    }
}

/// Runs a job, and logs what came of it.
async fn warm(warmer: Warmer, config: &Config, began: SystemTime) -> LastRun {
    let Config { images, schedule, platforms, pin } = config;
    let request = WarmRequest { images: images.clone(), platforms: platforms.clone(), limit: None, pin: *pin };
    let (told, mut events) = mpsc::channel(MAX_WAITING);
    let collecting = async {
        let (mut summary, mut failures) = (WarmSummary::default(), Vec::new());
        while let Some(event) = events.recv().await {
            match event {
                WarmEvent::Progress(_) => {}
                WarmEvent::Image(image) => {
                    if let ImageOutcome::Failed(failure) = image.outcome
                        && failures.len() < MAX_FAILURES
                    {
                        failures.push((image.image, failure.why));
                    }
                }
                WarmEvent::Done(done) => summary = done,
            }
        }
        (summary, failures)
    };
    let ((), (summary, failures)) = tokio::join!(warmer.run(request, told), collecting);
    let WarmSummary { fetched, cached, failed, fetched_bytes, pulls, .. } = summary.clone();
    if failed == 0 {
        tracing::info!(%schedule, fetched, cached, fetched_bytes, pulls, "the images of [[warm]] are in the cache");
    } else {
        let (image, why) = failures.first().map_or(("", ""), |(image, why)| (image, why));
        tracing::warn!(
            %schedule, fetched, cached, failed, fetched_bytes, pulls, image, why,
            "some images of [[warm]] could not be fetched"
        );
    }
    LastRun { began, summary, failures }
}

/// A number that differs from process to process, and from call to call.
fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::{Platforms, Schedule};

    fn config(image: &str, schedule: Schedule) -> Config {
        Config { images: vec![image.to_owned()], schedule, platforms: Platforms::default(), pin: None }
    }

    #[test]
    fn a_clock_that_is_set_back_delays_a_job_by_one_period() {
        let hour = Duration::from_secs(60 * 60);
        let jobs = WarmJobs::default();
        jobs.set(&[config("a", Schedule::Every(hour))]);
        let begun = jobs.begin_due(SystemTime::now() + hour).unwrap();
        jobs.end(&begun, LastRun { began: SystemTime::now(), summary: WarmSummary::default(), failures: Vec::new() });
        // Days ago, by the clock.
        let earlier = SystemTime::now() - 100 * hour;
        assert!(jobs.begin_due(earlier).is_none());
        assert!(jobs.next().unwrap() <= earlier + 2 * hour);
        assert!(jobs.begin_due(earlier + 2 * hour).is_some());
    }

    #[test]
    fn a_reload_keeps_the_jobs_that_did_not_change() {
        let every = Schedule::Every(Duration::from_secs(60 * 60));
        let at = Schedule::At("02:00".parse().unwrap());
        let (first, second, third) = (config("a", every), config("b", every), config("c", at));
        let jobs = WarmJobs::default();
        jobs.set(&[first.clone(), second.clone()]);
        // Both begin within their random delays.
        let later = SystemTime::now() + Duration::from_secs(7 * 60);
        let begun = jobs.begin_due(later).unwrap();
        let last = LastRun { began: later, summary: WarmSummary::default(), failures: Vec::new() };
        jobs.end(&begun, last.clone());
        let other = jobs.begin_due(later).unwrap();
        assert_ne!(begun, other);
        assert!(jobs.begin_due(later).is_none() && jobs.next().unwrap() > later);
        let before = jobs.reports();
        jobs.set(&[third.clone(), (*begun).clone()]);
        let after = jobs.reports();
        assert_eq!(after.len(), 2);
        assert_eq!((&*after[0].config, &after[0].last), (&third, &None));
        let kept = before.iter().find(|report| report.config == begun).unwrap();
        assert_eq!((&after[1], &after[1].last), (kept, &Some(last.clone())));
        // The other one was removed while it ran.
        jobs.end(&other, last);
        assert!(jobs.reports().iter().all(|report| !report.is_running));
    }

    #[test]
    fn a_changed_job_keeps_what_came_of_its_images() {
        let hours = |count: u64| Schedule::Every(Duration::from_secs(count * 60 * 60));
        let jobs = WarmJobs::default();
        jobs.set(&[config("a", hours(1))]);
        let later = SystemTime::now() + Duration::from_secs(7 * 60);
        let failures = vec![("docker.io/library/a:latest".to_owned(), "no such tag".to_owned())];
        let last = LastRun { began: later, summary: WarmSummary { failed: 1, ..WarmSummary::default() }, failures };
        jobs.end(&jobs.begin_due(later).unwrap(), last.clone());
        let both = Config { images: vec!["b".to_owned(), "a".to_owned()], ..config("a", hours(2)) };
        for (configs, expected) in [
            (vec![config("a", hours(2))], vec![Some(last.clone())]),
            // The one that did not change has its own.
            (vec![both.clone(), config("a", hours(2))], vec![None, Some(last.clone())]),
            (vec![config("a", hours(3))], vec![Some(last.clone())]),
            (vec![both], vec![Some(last)]),
            (vec![config("b", hours(2))], vec![None]),
        ] {
            jobs.set(&configs);
            let found: Vec<_> = jobs.reports().into_iter().map(|report| report.last).collect();
            assert_eq!(found, expected, "{configs:?}");
        }
    }
}
