//! forebay compared on loopback with the programs that a user would pick instead: the table of `benches/RESULTS.md`.
//!
//! `benches/compare/run` installs the missing programs and runs this. What must hold, so that no figure flatters: the
//! rounds of a peer and of forebay alternate; both serve the same bytes; every body has the announced length, and one
//! of each case is compared with its digest; the clients cost so little that they measure the server, or the table says
//! otherwise.
//!
//! `rows/` has the lines of the table in its order; they use `servers/` and `client/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that measures says why it cannot go on, and what it found"
)]

mod client;
mod cpu;
mod machine;
mod proxy;
mod rows;
mod servers;
mod table;

use std::{fs, panic::AssertUnwindSafe, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use futures_util::FutureExt as _;
use rows::Setup;
use tokio::signal::unix::{SignalKind, signal};

/// Measures forebay beside nginx and docker-registry.
#[derive(Parser)]
struct Arguments {
    /// Only the rows with one of these words in their names; `list` names them all.
    words: Vec<String>,
    /// Fewer and shorter rounds: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// How often each side is measured; its median counts.
    #[arg(long)]
    rounds: Option<usize>,
    /// Another binary than the one that Cargo has built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_forebay"))]
    forebay: PathBuf,
    /// Write the table to benches/RESULTS.md too.
    #[arg(long)]
    write: bool,
    /// Be a raw loop that sends FILE by WAY from so many THREADS at PORT: see `servers/limit.rs`.
    #[arg(long, hide = true, num_args = 4)]
    limit: Option<Vec<String>>,
    /// What `cargo bench` says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.words.iter().any(|word| word == "list") {
        rows::CASES.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    machine::raise_file_limit();
    if let Some(arguments) = &arguments.limit {
        servers::limit::serve(arguments).unwrap();
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let finished = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt()).unwrap(), signal(SignalKind::terminate()).unwrap());
        tokio::select! {
            failed = measure(&arguments) => Some(failed),
            // The running row is dropped, and with it every server and folder.
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        }
    });
    // Client threads may still wait for a server that has ended.
    runtime.shutdown_background();
    match finished {
        Some(0) => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::from(130),
    }
}

/// Runs the selected rows; returns how many could not be measured.
async fn measure(arguments: &Arguments) -> usize {
    let setup = Setup {
        quick: arguments.quick,
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 7 }).max(1),
        time: Duration::from_millis(if arguments.quick { 500 } else { 2000 }),
        program: fs::canonicalize(&arguments.forebay).unwrap(),
    };
    let wanted = |name: &str| arguments.words.is_empty() || arguments.words.iter().any(|word| name.contains(word));
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for case in rows::CASES.iter().filter(|case| wanted(case.name)) {
        eprintln!("compare: {}", case.name);
        // A row that cannot be measured must not end the others.
        match AssertUnwindSafe((case.run)(&setup)).catch_unwind().await {
            Ok(row) => {
                eprintln!("{}", table::text(std::slice::from_ref(&row)));
                rows.push(row);
            }
            Err(_) => {
                eprintln!("compare: {} could not be measured\n", case.name);
                failed.push(case.name);
            }
        }
    }
    let mut facts = machine::facts(&setup);
    if !arguments.words.is_empty() {
        facts.push(format!("Only the rows that were asked for: {}.", arguments.words.join(" ")));
    }
    if !failed.is_empty() {
        facts.push(format!("COULD NOT BE MEASURED: {}.", failed.join(", ")));
    }
    println!("{}\n\n{}", facts.join("\n"), table::text(&rows));
    if arguments.write {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md");
        fs::write(file, table::document(&facts, &rows)).unwrap();
    }
    failed.len()
}
