//! `forebay log`: the latest pulls and pushes, what became of them, and what happens now.

use std::{ops::ControlFlow, time::Duration};

use clap::Args;
use forebay::{peer::Network, request_id::RequestId};
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::{
    Failure, control,
    events::Event,
    output::{json_line, print, print_json, print_more},
    request_rows::{Style, followed_head, followed_line, pulls_table, requests_table},
    running::{Places, RunningArguments},
    text,
};

/// More than a history has.
const ALL: usize = 10_000;

#[derive(Debug, Args)]
pub(super) struct LogArguments {
    /// A request or a pull, by its X-Request-Id: print all requests of the pull
    #[arg(value_name = "ID", conflicts_with_all = ["errors", "slow", "image", "client", "limit", "follow"])]
    id: Option<RequestId>,
    /// Only what failed
    #[arg(long)]
    errors: bool,
    /// Only what took so long, such as "5s"
    #[arg(long, alias = "slower", value_name = "DURATION", value_parser = text::duration_argument)]
    slow: Option<Duration>,
    /// Only these images: a name as for docker, or a pattern with "*"
    #[arg(long, value_name = "PATTERN")]
    image: Option<String>,
    /// Only this client, or those of a network such as "10.0.0.0/8"
    #[arg(long, value_name = "ADDR")]
    client: Option<Network>,
    /// How many pulls
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Print each request that ends from now on
    #[arg(short, long, conflicts_with = "limit")]
    follow: bool,
    #[command(flatten)]
    running: RunningArguments,
}

impl LogArguments {
    /// # Errors
    /// No forebay answers, or it knows no such id.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let places = self.running.places()?;
        if self.follow {
            return self.print_events(&places);
        }
        let get = |path: &str| Ok::<_, Failure>(control::get(&places, path)?);
        match self.id {
            Some(id) => self.print_pull(id, get),
            None => self.print_latest(&get(&self.path("pulls", Some(self.limit)))?),
        }
    }

    /// The latest pulls, for a person the newest last.
    fn print_latest(&self, document: &Value) -> Result<(), Failure> {
        if self.running.json {
            return print_json(document);
        }
        let mut pulls: Vec<&Value> = document["pulls"].as_array().into_iter().flatten().collect();
        pulls.reverse();
        print(&pulls_table(&pulls, Style::of_stdout()))
    }

    /// The requests of one pull, for a person in their order.
    fn print_pull(&self, id: RequestId, get: impl Fn(&str) -> Result<Value, Failure>) -> Result<(), Failure> {
        let pulls = get(&format!("/api/v1/pulls?id={id}&limit=1"))?;
        let pull = &pulls["pulls"][0];
        // That of a single request which belongs to no pull is its own.
        let of_pull = pull["id"].as_str().map_or_else(|| id.to_string(), str::to_owned);
        let document = get(&format!("/api/v1/requests?id={of_pull}&limit={ALL}"))?;
        let mut requests: Vec<&Value> = document["requests"].as_array().into_iter().flatten().collect();
        if requests.is_empty() {
            return Err(Failure::Failed(anyhow::anyhow!(
                "forebay knows no request {id}: it remembers the latest {ALL} since its start; older ones are in its log"
            )));
        }
        if self.running.json {
            return print_json(&document);
        }
        requests.reverse();
        let style = Style::of_stdout();
        let head = if pull.is_null() { String::new() } else { pulls_table(&[pull], style) + "\n" };
        print(&(head + &requests_table(&requests, style)))
    }

    /// The requests that end from now on, until the reader leaves.
    fn print_events(&self, places: &Places) -> Result<(), Failure> {
        if !self.running.json
            && let ControlFlow::Break(ended) = print_more(&followed_head(Style::of_stdout()))
        {
            return ended;
        }
        let each = |event: Event| {
            let line = match (&*event.name, self.running.json) {
                ("request", false) => followed_line(&event.data, Style::of_stdout()),
                ("request" | "left_out", true) => json_line(&event.data),
                ("left_out", false) => format!("({} events left out: too many to print)\n", event.data["events"]),
                _ => return ControlFlow::Continue(()),
            };
            print_more(&line)
        };
        control::follow(places, &self.path("events", None), each)?.unwrap_or(Ok(()))
    }

    /// The path of a resource with the flags as its parameters.
    fn path(&self, resource: &str, limit: Option<u16>) -> String {
        let mut query = Serializer::new(String::new());
        if self.errors {
            query.append_pair("errors", "true");
        }
        let parameters = [
            ("slower", self.slow.map(|slow| humantime::format_duration(slow).to_string())),
            ("image", self.image.clone()),
            ("client", self.client.map(|client| client.to_string())),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        for (name, value) in parameters {
            query.extend_pairs(value.map(|value| (name, value)));
        }
        format!("/api/v1/{resource}?{}", query.finish())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        log: LogArguments,
    }

    #[test]
    fn flags_become_parameters() {
        for (arguments, expected) in [
            (&["log"][..], "/api/v1/pulls?limit=20"),
            (&["log", "--errors", "--limit", "3"], "/api/v1/pulls?errors=true&limit=3"),
            (&["log", "--slower", "5s"], "/api/v1/pulls?slower=5s&limit=20"),
            (
                &["log", "--slow", "90s", "--client", "10.0.0.1"],
                "/api/v1/pulls?slower=1m+30s&client=10.0.0.1%2F32&limit=20",
            ),
            (&["log", "--image", "ghcr.io/*&x=1"], "/api/v1/pulls?image=ghcr.io%2F*%26x%3D1&limit=20"),
        ] {
            let Line { log } = Line::try_parse_from(arguments).unwrap();
            assert_eq!(log.path("pulls", Some(log.limit)), expected);
        }
        for arguments in [
            &["log", "58fd6720"][..],
            &["log", "58fd6720-4", "--errors"],
            &["log", "58fd6720-4", "-f"],
            &["log", "-f", "--limit", "3"],
            &["log", "--slow", "5"],
            &["log", "--client", "node1"],
            &["log", "--limit", "0"],
        ] {
            assert!(Line::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
