//! `forebay check`: whether the configuration is valid, and whether the upstreams respond.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use forebay::{
    app,
    upstream::{self, ErrorKind, Upstream},
};
use tokio::runtime::Runtime;

use super::{ConfigArguments, Failure};

/// Validates the configuration and the files it names; with `online`, pings every upstream.
pub(super) fn run(arguments: &ConfigArguments, online: bool) -> Result<(), Failure> {
    let loaded = arguments.load()?;
    let upstreams = app::check(&loaded.config).map_err(|error| Failure::of(error, &loaded))?;
    let name = loaded.file.as_deref().map_or_else(|| "the built-in configuration".into(), Path::to_string_lossy);
    loaded.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    let count = upstreams.len();
    for upstream in &upstreams {
        upstream.ca_flaws().texts.iter().for_each(|flaw| say(&format!("{}: {flaw}", upstream.name())));
    }
    if let Some(upstream) = upstreams.iter().find(|upstream| upstream.ca_flaws().all) {
        return Err(Failure::Configuration(anyhow::anyhow!(
            "upstream {}: no certificate of `ca` can be used",
            upstream.name()
        )));
    }
    say(&format!("{name}: ok, {count} upstream{}", if count == 1 { "" } else { "s" }));
    if online { ping(upstreams).map_err(Failure::Failed) } else { Ok(()) }
}

/// Pings all upstreams concurrently, and prints the results in the file's order.
fn ping(upstreams: Vec<Upstream>) -> anyhow::Result<()> {
    let total = upstreams.len();
    let failed = Runtime::new().context("cannot start the runtime")?.block_on(async {
        let pings: Vec<_> = upstreams
            .into_iter()
            .map(|upstream| {
                let (name, by_client) = (upstream.name().clone(), upstream.uses_client_credentials());
                (name, by_client, tokio::spawn(async move { upstream.ping().await }))
            })
            .collect();
        let mut failed = 0;
        for (name, by_client, ping) in pings {
            let answer = ping.await.map_err(anyhow::Error::from).and_then(|answer| Ok(answer?));
            match answer {
                Ok(()) => say(&format!("{name}: ok")),
                Err(error) if by_client && is_refusal(&error) => {
                    say(&format!("{name}: ok (requires client credentials)"));
                }
                Err(error) => {
                    failed += 1;
                    say(&format!("{name}: failed: {error:#}"));
                }
            }
        }
        failed
    });
    anyhow::ensure!(failed == 0, "{failed} of {total} upstreams failed");
    Ok(())
}

/// An upstream that requires client credentials may refuse an anonymous request.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<upstream::Error>().is_some_and(|error| error.kind == ErrorKind::Unauthorized)
}

/// A closed pipe (`forebay check | head -1`) is no failure of the check.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
