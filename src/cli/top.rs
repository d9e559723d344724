//! `forebay top`: what is sent and downloaded now, drawn anew until it is interrupted.

use std::{
    io::{self, IsTerminal as _},
    ops::ControlFlow,
    time::Duration,
};

use clap::Args;
use rustix::process::{Signal as SystemSignal, getpid, kill_process};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{
    Failure, control,
    output::{json_line, print, print_more},
    running::{Places, RunningArguments},
    screen::Screen,
    top_table::{By, table},
};

const RESOURCE: &str = "/api/v1/transfers";
/// How long a document is shown before forebay is asked for the next one, for which it measures half a second.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct TopArguments {
    /// What each row is about
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, conflicts_with = "json")]
    by: By,
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
        if self.running.json {
            return self.print_documents(&places);
        }
        if self.once || !io::stdout().is_terminal() {
            return print(&table(&control::get(&places, RESOURCE)?, self.by, None));
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let shown = runtime.block_on(self.show(places));
        // A request that is still under way holds nothing up.
        runtime.shutdown_background();
        shown
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
        let mut screen = Screen::begin().map_err(failed)?;
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
                screen.draw(|width| table(&document, self.by, Some(width))).map_err(failed)?;
                tokio::select! {
                    () = &mut shown => break,
                    () = end.recv() => return Ok(()),
                    _ = resized.recv() => {}
                    _ = suspended.recv() => {
                        drop(screen);
                        kill_process(getpid(), SystemSignal::STOP).map_err(failed)?;
                        // The shell has let it go on.
                        screen = Screen::begin().map_err(failed)?;
                    }
                }
            }
        }
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
