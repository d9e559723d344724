//! `forebay top`: what is sent and downloaded now, drawn anew until it is interrupted.

use std::{
    future::pending,
    io::{self, IsTerminal as _},
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

use clap::Args;
use rustix::process::{Signal as SystemSignal, getpid, kill_process};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{
    Failure, columns, control,
    output::{json_line, print, print_more},
    running::{Places, RunningArguments},
    screen::Screen,
    terminal::{self, Keys},
    text,
    top_since::Since,
    top_table::{By, table},
};

const RESOURCE: &str = "/api/v1/transfers";
/// All pulls of which forebay remembers a request.
const PULLS: &str = "/api/v1/pulls?limit=10000";
/// What the keys do.
const KEYS: &str = "i image  c client  s user  u upstream  q quit";
/// How long a document is shown before forebay is asked for the next one, for which it measures half a second.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    /// What each row is about
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    by: By,
    /// Print the pulls of the last "1h" or so in place of what is under way, and end
    #[arg(long, value_name = "DURATION", value_parser = text::time_span, conflicts_with = "once")]
    since: Option<Duration>,
    /// Print one table and end, as without a terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    running: RunningArguments,
}

impl TopArguments {
    /// # Errors
    /// No forebay answers, or standard output cannot be written.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let places = self.running.places()?;
        if let Some(since) = self.since {
            return self.print_since(&places, since);
        }
        if self.running.json {
            return self.print_documents(&places);
        }
        if self.once || !io::stdout().is_terminal() {
            return print(&table(&control::get(&places, RESOURCE)?, self.by, columns::terminal_width()));
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let shown = runtime.block_on(self.show(places));
        // A request that is still under way holds nothing up.
        runtime.shutdown_background();
        shown
    }

    /// The pulls of the last while, as far as forebay remembers them.
    fn print_since(&self, places: &Places, since: Duration) -> Result<(), Failure> {
        let document = control::get(places, PULLS)?;
        let now = SystemTime::now();
        let from = now.checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
        let pulls = Since::of(&document, self.by, from);
        if self.running.json {
            return print(&json_line(&serde_json::to_value(&pulls).map_err(failed)?));
        }
        print(&pulls.text(self.by, columns::terminal_width(), now))
    }

    /// A document per line until the reader has left, or only one.
    fn print_documents(&self, places: &Places) -> Result<(), Failure> {
        loop {
            match print_more(&json_line(&control::get(places, RESOURCE)?)) {
                ControlFlow::Break(ended) => return ended,
                ControlFlow::Continue(()) if self.once => return Ok(()),
                ControlFlow::Continue(()) => {}
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Draws until a signal ends it.
    async fn show(&self, places: Places) -> Result<(), Failure> {
        let mut end = End::new().map_err(failed)?;
        let mut suspended = signal(SignalKind::from_raw(SystemSignal::TSTP.as_raw())).map_err(failed)?;
        let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
        let mut keys = terminal::is_there().then(Keys::begin).transpose()?;
        let mut screen = Screen::begin().map_err(failed)?;
        let mut by = self.by;
        loop {
            let asked = places.clone();
            let asking = tokio::task::spawn_blocking(move || control::get(&asked, RESOURCE));
            let document = tokio::select! {
                document = asking => document.map_err(failed)??,
                () = end.recv() => return Ok(()),
            };
            let shown = sleep(PAUSE);
            tokio::pin!(shown);
            loop {
                let help = if keys.is_some() { KEYS } else { "" };
                screen.draw(|width| format!("{}\n{help}", table(&document, by, Some(width)))).map_err(failed)?;
                tokio::select! {
                    () = &mut shown => break,
                    () = end.recv() => return Ok(()),
                    _ = resized.recv() => {}
                    key = next_key(&mut keys) => match By::of_key(key) {
                        _ if key == b'q' => return Ok(()),
                        Some(chosen) => by = chosen,
                        None => {}
                    },
                    _ = suspended.recv() => {
                        drop(screen);
                        keys.as_ref().map_or(Ok(()), Keys::pause)?;
                        kill_process(getpid(), SystemSignal::STOP).map_err(failed)?;
                        // The shell has let it go on.
                        keys.as_ref().map_or(Ok(()), Keys::resume)?;
                        screen = Screen::begin().map_err(failed)?;
                    }
                }
            }
        }
    }
}

/// The next key that is typed; without a terminal there is none.
async fn next_key(keys: &mut Option<Keys>) -> u8 {
    match keys {
        Some(keys) => keys.next().await,
        None => pending().await,
    }
}

/// The signals that end the program.
struct End {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl End {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure::Failed(error.into())
}
