//! All windows: which one a reader joins, and when another one is opened.
//!
//! What must hold: a blob of a registry has at most two windows whose transfers run.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{
    Opening, Seat, Wanted, Window,
    choice::{Choice, Span, choose},
    memory::WindowMemory,
    pieces::End,
    pump::pump,
};
use crate::cache::{ContentKey, Origin, Source, blob::read_error::ReadError};

/// For how long a reader lets one that stands before it open the window for both.
const COURTESY: Duration = Duration::from_secs(1);

/// The readers that may share unverified bytes: those of one blob and origin.
type WindowKey = (ContentKey, Origin);

fn key_of(source: &Source) -> WindowKey {
    (source.id(), source.origin())
}

/// A cheap handle on all windows.
#[derive(Clone)]
pub(crate) struct Windows(Arc<Inner>);

struct Inner {
    entries: Mutex<HashMap<WindowKey, Entry>>,
    memory: WindowMemory,
    tasks: TaskTracker,
    end: CancellationToken,
}

/// The windows on one blob, and the readers that wait for one.
struct Entry {
    windows: Vec<Arc<Window>>,
    /// The positions of the waiting readers, by their numbers.
    waiting: BTreeMap<u64, u64>,
    next_number: u64,
    changed: watch::Sender<()>,
}

impl Entry {
    fn new() -> Self {
        Self { windows: Vec::new(), waiting: BTreeMap::new(), next_number: 0, changed: watch::Sender::new(()) }
    }

    /// The windows as [`choose`] sees them, without those that failed.
    fn spans(&self) -> Vec<Span> {
        let span = |window: &Arc<Window>| {
            let pieces = window.pieces();
            Span {
                low: pieces.low(),
                high: pieces.high(),
                is_running: pieces.end.is_none(),
                has_failed: matches!(pieces.end, Some(End::Failed(_))),
            }
        };
        self.windows.iter().map(span).collect()
    }

    /// Tells the pumps how many readers wait: those who hold the windows back must go on or fall out.
    fn tell_waiting(&self) {
        for window in &self.windows {
            window.pieces().outside = self.waiting.len();
            window.moved.notify_one();
        }
    }
}

/// What became of a reader's attempt to get a seat.
enum Attempt {
    Seat(Seat),
    /// The reader must not wait for the transfers of others.
    Alone,
    Wait {
        /// For a reader that waits at an earlier position.
        defers: bool,
    },
}

/// A reader without a seat, until this is dropped.
struct Waiting<'a> {
    windows: &'a Windows,
    key: &'a WindowKey,
    number: u64,
    changed: watch::Receiver<()>,
    /// It has a seat: nothing changes for those that wait on.
    is_seated: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut entries = self.windows.0.entries.lock();
        if let Some(entry) = entries.get_mut(self.key) {
            entry.waiting.remove(&self.number);
            entry.tell_waiting();
            if !self.is_seated {
                entry.changed.send_replace(());
            }
            if entry.windows.is_empty() && entry.waiting.is_empty() {
                entries.remove(self.key);
            }
        }
    }
}

impl Windows {
    /// Pumps run as tasks of `tasks` and end with `end`.
    pub(in crate::cache::blob) fn new(tasks: TaskTracker, end: CancellationToken) -> Self {
        let entries = Mutex::default();
        Self(Arc::new(Inner { entries, memory: WindowMemory::new(), tasks, end }))
    }

    /// Whether a new reader of the blob should come here rather than request it once more: it can begin at the front
    /// of a window, or as many transfers run as may.
    pub(in crate::cache::blob) fn serve(&self, source: &Source) -> bool {
        let entries = self.0.entries.lock();
        let Some(entry) = entries.get(&key_of(source)) else { return false };
        let mirrors = source.upstream.via_mirrors();
        entry.windows.iter().all(|window| window.admits(mirrors))
            && !matches!(choose(&entry.spans(), &[], 0), Choice::Open)
    }

    /// A seat at this position: in a window that has it or will, else in a new one, which begins as `opening` says.
    /// Waits while neither may be. `None` if a window may, through other forebays, be waiting for this request.
    pub(in crate::cache::blob) async fn seat(
        &self,
        wanted: &Wanted<'_>,
        mut opening: impl FnMut() -> Opening,
    ) -> Option<Seat> {
        let key = key_of(wanted.source);
        let mut waiting: Option<Waiting<'_>> = None;
        let mut is_courteous = true;
        loop {
            let own = waiting.as_ref().map(|waiting| waiting.number);
            let defers = match self.try_seat(&key, wanted, own.filter(|_| !is_courteous), &mut opening) {
                Attempt::Seat(seat) => {
                    if let Some(waiting) = &mut waiting {
                        waiting.is_seated = true;
                    }
                    return Some(seat);
                }
                Attempt::Alone => return None,
                Attempt::Wait { defers } => defers,
            };
            match &mut waiting {
                // What happens between the attempt and this is an event after the attempt.
                None => waiting = Some(self.wait(&key, wanted.position)),
                Some(waiting) if defers => {
                    is_courteous = timeout(COURTESY, waiting.changed.changed()).await.is_ok();
                }
                // The entry lives as long as a reader waits.
                Some(waiting) => _ = waiting.changed.changed().await,
            }
        }
    }

    fn try_seat(
        &self,
        key: &WindowKey,
        wanted: &Wanted<'_>,
        impatient: Option<u64>,
        opening: &mut impl FnMut() -> Opening,
    ) -> Attempt {
        let mirrors = wanted.source.upstream.via_mirrors();
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(Entry::new);
        let others: Vec<u64> = if impatient.is_some() { Vec::new() } else { entry.waiting.values().copied().collect() };
        loop {
            match choose(&entry.spans(), &others, wanted.position) {
                Choice::Join(index) => {
                    let window = entry.windows.get(index).filter(|window| window.admits(mirrors));
                    let Some(window) = window else { return Attempt::Alone };
                    // The window may have moved on since.
                    if let Some(seat) = Seat::new(window.clone(), wanted.position, false) {
                        return Attempt::Seat(seat);
                    }
                }
                Choice::Open => {
                    let window = self.open(wanted, opening());
                    entry.windows.push(window.clone());
                    entry.tell_waiting();
                    entry.changed.send_replace(());
                    return Seat::new(window, wanted.position, true).map_or(Attempt::Alone, Attempt::Seat);
                }
                Choice::Defer | Choice::Wait if mirrors.is_some() => return Attempt::Alone,
                choice => return Attempt::Wait { defers: choice == Choice::Defer },
            }
        }
    }

    /// From now on pumps know that this reader waits.
    fn wait<'a>(&'a self, key: &'a WindowKey, position: u64) -> Waiting<'a> {
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(Entry::new);
        entry.next_number += 1;
        let (number, changed) = (entry.next_number, entry.changed.subscribe());
        entry.waiting.insert(number, position);
        entry.tell_waiting();
        Waiting { windows: self, key, number, changed, is_seated: false }
    }

    /// Begins a window; the caller gives it its first seat under the lock of the table.
    fn open(&self, wanted: &Wanted<'_>, opening: Opening) -> Arc<Window> {
        let Wanted { source, position, front } = *wanted;
        let window = Arc::new(Window::new(source.clone(), position, front.clone(), self.0.memory.share()));
        let is_theirs = !front.is_in_file();
        let run = run(self.clone(), window.clone(), opening, is_theirs);
        self.0.tasks.spawn(run.instrument(source.upstream.trace().span()));
        window
    }

    /// Takes a window out of the table, if no reader has a seat in it. None can come meanwhile: that needs the lock.
    fn remove_unread(&self, window: &Window) -> bool {
        self.change(window, |entry| {
            let is_unread = !window.pieces().has_readers();
            if is_unread {
                entry.windows.retain(|other| !std::ptr::eq(&**other, window));
            }
            is_unread
        })
    }

    /// Changes the entry of a window, and wakes the readers that wait for one.
    fn change<T>(&self, window: &Window, change: impl FnOnce(&mut Entry) -> T) -> T {
        let key = key_of(&window.source);
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(Entry::new);
        let value = change(entry);
        entry.changed.send_replace(());
        if entry.windows.is_empty() && entry.waiting.is_empty() {
            entries.remove(&key);
        }
        value
    }
}

/// Runs a window until no reader is left.
async fn run(windows: Windows, window: Arc<Window>, opening: Opening, is_theirs: bool) {
    let ended = WindowEnd { windows, window };
    let WindowEnd { windows, window } = &ended;
    let mut pumping = pin!(pump(window, opening, is_theirs));
    let mut is_over = false;
    loop {
        tokio::select! {
            biased;
            () = windows.0.end.cancelled() => return,
            () = window.unread.notified() => {
                if windows.remove_unread(window) {
                    return;
                }
            }
            pumped = &mut pumping, if !is_over => {
                is_over = true;
                window.update(|pieces| pieces.end = Some(pumped.map_or_else(End::Failed, |()| End::Body)));
                windows.change(window, |_| {});
            }
        }
    }
}

/// Takes the window out of the table, however its task ends: no reader waits for a task that is gone.
struct WindowEnd {
    windows: Windows,
    window: Arc<Window>,
}

impl Drop for WindowEnd {
    fn drop(&mut self) {
        let Self { windows, window } = self;
        window.update(|pieces| {
            pieces.end.get_or_insert(End::Failed(ReadError::Abandoned));
        });
        windows.change(window, |entry| entry.windows.retain(|other| !Arc::ptr_eq(other, window)));
    }
}
