//! `forebay config check`: whether the configuration is valid, what of it cannot work, and whether the upstreams respond.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use forebay::{
    app::{
        self,
        check::{Facts, Ports, warnings},
    },
    config::{self, Key, Loaded, Mistake, show::place_to_json},
    upstream::{self, ErrorKind, Upstream},
    visible::printable,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    ConfigArguments, Failure,
    control::{self, ControlError},
    output::{print, print_json, remark},
    running::Places,
};

/// What the command line asks of a check.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// Fail if there are warnings.
    pub strict: bool,
    /// Ask each upstream, and the object store.
    pub online: bool,
    /// One JSON document in place of text.
    pub json: bool,
    pub control: Option<PathBuf>,
}

/// What was found.
#[derive(Default)]
struct Report {
    file: Option<PathBuf>,
    upstreams: usize,
    errors: Vec<Mistake>,
    warnings: Vec<Mistake>,
    /// What is no warning, and good to know.
    notes: Vec<String>,
    /// Each upstream that was asked, and why it failed.
    online: Vec<(String, Option<String>)>,
    /// The object store, if it was asked, and why it failed.
    store: Option<(String, Option<String>)>,
}

/// Validates the configuration and the files it names.
///
/// # Errors
/// It cannot be used; with `strict` it has warnings; with `online` an upstream or the object store does not respond.
pub(super) fn run(arguments: &ConfigArguments, options: &Options) -> Result<(), Failure> {
    let mut report = Report::default();
    let checked = check(arguments, options, &mut report);
    if options.json {
        let printed = print_json(&report.to_json(checked.as_ref().err()));
        return checked.and(printed);
    }
    checked
}

fn check(arguments: &ConfigArguments, options: &Options, report: &mut Report) -> Result<(), Failure> {
    let loaded = arguments.load().inspect_err(|error| report.errors = error.mistakes().to_vec())?;
    report.file.clone_from(&loaded.file);
    let app::Checked { upstreams, store, errors } = app::check(&loaded.config);
    report.upstreams = upstreams.len();
    report.errors.extend(errors.iter().map(|error| error.mistake(&loaded)));
    report.check_authorities(&upstreams, &loaded, options)?;
    if let Some(error) = config::Error::of(report.errors.clone()) {
        let has_flaws = report.errors.len() > errors.len();
        let is_configuration = has_flaws || errors.iter().any(app::Error::is_configuration);
        return Err(if is_configuration { error.into() } else { Failure::Failed(error.into()) });
    }
    report.look(&loaded, options);
    if !options.json {
        report.say()?;
    }
    if options.online {
        let runtime = Runtime::new().context("cannot start the runtime").map_err(Failure::Failed)?;
        report.online = runtime.block_on(ping(upstreams, options.json))?;
        report.store = store.map(|store| runtime.block_on(ping_store(&store, options.json))).transpose()?;
        let failed = report.online.iter().filter(|(_, problem)| problem.is_some()).count();
        if failed > 0 {
            let total = report.online.len();
            return Err(Failure::Failed(anyhow::anyhow!("{failed} of {total} upstreams failed")));
        }
        if report.store.as_ref().is_some_and(|(_, problem)| problem.is_some()) {
            return Err(Failure::Failed(anyhow::anyhow!("the object store failed")));
        }
    }
    match report.warnings.len() {
        count if options.strict && count > 0 => {
            let word = if count == 1 { "warning" } else { "warnings" };
            Err(Failure::Failed(anyhow::anyhow!("{count} {word}, which --strict does not let pass")))
        }
        _ => Ok(()),
    }
}

impl Report {
    /// Tells which certificates of `ca` cannot be used.
    fn check_authorities(&mut self, upstreams: &[Upstream], loaded: &Loaded, options: &Options) -> Result<(), Failure> {
        let mut flaws = upstreams
            .iter()
            .flat_map(|upstream| upstream.ca_flaws().texts.iter().map(|flaw| format!("{}: {flaw}", upstream.name())));
        match options.json {
            true => self.notes.extend(flaws),
            false => flaws.try_for_each(|flaw| say(&flaw))?,
        }
        for upstream in upstreams.iter().filter(|upstream| upstream.ca_flaws().all) {
            let index = loaded.config.upstreams.iter().position(|config| config.name == *upstream.name());
            let key = index.map(|index| Key::new("upstream").item(index).field("ca"));
            let problem = "no certificate of the file can be used";
            self.errors.extend(key.map(|key| loaded.origins.mistake(&key, problem)));
        }
        Ok(())
    }

    /// Looks for what cannot work.
    fn look(&mut self, loaded: &Loaded, options: &Options) {
        let named = options.control.clone().map(|path| Places::Sockets(vec![path]));
        let ports = match control::configuration(&named.unwrap_or_else(|| Places::of_config(&loaded.config))) {
            Ok(running) => bound(&running),
            Err(error @ ControlError::Denied(_)) => {
                self.notes.push(format!("{error}; so a port that its forebay has counts as another program's"));
                Ports::default()
            }
            // No forebay runs here, or it cannot be asked.
            Err(_) => Ports::default(),
        };
        let facts = Facts::gather(&loaded.config, ports);
        self.notes.extend(facts.ours().map(|address| format!("{address} is in use by the forebay that runs here")));
        self.warnings.clone_from(&loaded.warnings);
        let found = warnings(&loaded.config, &facts);
        self.warnings.extend(found.into_iter().map(|warning| loaded.origins.mistake(&warning.key, warning.problem)));
    }

    fn name(&self) -> String {
        self.file.as_deref().map_or_else(|| "the built-in configuration".into(), Path::to_string_lossy).into_owned()
    }

    fn say(&self) -> Result<(), Failure> {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        for warning in &self.warnings {
            // Results go to standard output; the count of warnings is among them.
            remark(&format!("warning: {warning}"));
        }
        self.notes.iter().try_for_each(|note| say(note))?;
        let (upstreams, warnings) = (self.upstreams, self.warnings.len());
        let mut line = format!("{}: ok, {upstreams} upstream{}", self.name(), plural(upstreams));
        if warnings > 0 {
            line += &format!(", {warnings} warning{}", plural(warnings));
        }
        say(&line)
    }

    fn to_json(&self, failure: Option<&Failure>) -> Value {
        let mistakes = |mistakes: &[Mistake]| mistakes.iter().map(mistake_to_json).collect::<Vec<_>>();
        let online = self.online.iter().map(|(name, problem)| json!({ "upstream": name, "problem": problem }));
        json!({
            "ok": failure.is_none(),
            "file": self.file.as_deref().map(Path::to_string_lossy),
            "upstreams": self.upstreams,
            "errors": mistakes(&self.errors),
            "warnings": mistakes(&self.warnings),
            "notes": self.notes,
            "online": online.collect::<Vec<_>>(),
            "store": self.store.as_ref().map(|(url, problem)| json!({ "url": url, "problem": problem })),
        })
    }
}

fn mistake_to_json(mistake: &Mistake) -> Value {
    json!({ "place": place_to_json(mistake.place()), "key": mistake.key(), "problem": mistake.problem() })
}

/// Where the running forebay listens.
fn bound(running: &Value) -> Ports {
    let address = |value: &Value| value.as_str()?.parse().ok();
    let registry = running["listening"].as_array().into_iter().flatten().filter_map(address).collect();
    Ports::Configured { registry, admin: address(&running["admin"]) }
}

/// Pings all upstreams concurrently, and tells the results in the file's order.
async fn ping(upstreams: Vec<Upstream>, as_json: bool) -> Result<Vec<(String, Option<String>)>, Failure> {
    let pings: Vec<_> = upstreams
        .into_iter()
        .map(|upstream| {
            let (name, by_client) = (upstream.name().to_string(), upstream.uses_client_credentials());
            (name, by_client, tokio::spawn(async move { upstream.ping().await }))
        })
        .collect();
    let mut results = Vec::with_capacity(pings.len());
    for (name, by_client, ping) in pings {
        let answer = ping.await.map_err(anyhow::Error::from).and_then(|answer| Ok(answer?));
        let (line, problem) = match answer {
            Ok(()) => (format!("{name}: ok"), None),
            Err(error) if by_client && is_refusal(&error) => {
                (format!("{name}: ok (requires client credentials)"), None)
            }
            Err(error) => (format!("{name}: failed: {error:#}"), Some(format!("{error:#}"))),
        };
        if !as_json {
            say(&line)?;
        }
        results.push((name, problem));
    }
    Ok(results)
}

/// Has the object store take an object, and tells the result.
async fn ping_store(store: &app::StorePing, as_json: bool) -> Result<(String, Option<String>), Failure> {
    let (name, problem) = (store.name(), store.run().await.err());
    if !as_json {
        say(&match &problem {
            None => format!("{name}: ok"),
            Some(problem) => format!("{name}: failed: {problem}"),
        })?;
    }
    Ok((name, problem))
}

/// An upstream that requires client credentials may refuse an anonymous request.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<upstream::Error>().is_some_and(|error| error.kind == ErrorKind::Unauthorized)
}

fn say(line: &str) -> Result<(), Failure> {
    print(&format!("{}\n", printable(line)))
}
