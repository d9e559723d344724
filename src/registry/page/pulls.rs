//! The latest pulls from the address of a visitor: is my pull coming through?

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use crate::{
    cache::Outcome,
    history::{History, Pull, Readers},
    html::Html,
    units::bytes,
};

/// How many pulls are shown.
const LIMIT: usize = 10;

/// What the page tells a visitor of its pulls.
pub(super) enum Pulls {
    /// The pulls from the visitor's address.
    Of { client: IpAddr, pulls: Vec<Pull> },
    /// Other visitors have the same address: forebay cannot tell whose pulls are whose.
    OfSeveral,
}

impl Pulls {
    /// The pulls from this address, and from these upstreams; `None`: the process ends.
    pub(super) async fn of(
        history: &History,
        readers: &Readers,
        client: IpAddr,
        upstreams: Vec<Arc<str>>,
    ) -> Option<Self> {
        let read = move |history: &History| history.pulls_of(client, &upstreams, LIMIT);
        Some(Self::Of { client, pulls: readers.ask(history, read).await? })
    }

    /// The section of the page. Its script fetches the list again and again.
    pub(super) fn section(&self, html: &mut Html) {
        html.markup(
            "<section id=\"pulls\" aria-labelledby=\"pulls-title\">\n\
             <h2 id=\"pulls-title\">Is my pull coming through?</h2>\n",
        );
        if let Self::Of { client, .. } = self {
            html.markup("<p>These are the latest pulls from your address, ").text(&client.to_string()).markup(
                ". You see a pull once its manifest was served.</p>\n<div class=\"scroll\" id=\"pulls-list\" \
                 data-live=\"/page/pulls\" tabindex=\"0\" role=\"group\" aria-labelledby=\"pulls-title\">\n",
            );
            html.append(self.list(SystemTime::now())).markup("</div>\n");
        } else {
            html.append(self.list(SystemTime::now()));
        }
        html.markup("</section>\n");
    }

    /// The pulls alone.
    pub(super) fn list(&self, now: SystemTime) -> Html {
        let mut html = Html::default();
        let Self::Of { pulls, .. } = self else {
            html.markup(
                "<p>Other clients reach this mirror from the same address as you, by a proxy or NAT, so that it cannot \
                 tell your pulls from theirs.</p>\n",
            );
            return html;
        };
        let Some(newest) = pulls.first() else {
            html.markup("<p>There are none yet.</p>\n");
            return html;
        };
        html.markup("<table data-say=\"").text(&name(newest)).markup(": ").text(&result(newest));
        html.markup(
            "\">\n<thead><tr><th scope=\"col\">Image</th><th scope=\"col\">It came</th>\
             <th scope=\"col\" class=\"number\">You got</th><th scope=\"col\">Last request</th></tr></thead>\n<tbody>\n",
        );
        for pull in pulls {
            html.markup("<tr><th scope=\"row\">").text(&name(pull)).markup("</th>").cell(&result(pull));
            html.number(&bytes(pull.sent())).markup("<td>").ago(pull.newest().ended_at, now).markup("</td></tr>\n");
        }
        html.markup("</tbody>\n</table>\n");
        html
    }
}

fn name(pull: &Pull) -> String {
    pull.image().map_or_else(|| "an image".to_owned(), |image| image.as_str().to_owned())
}

/// Where it came from, in words for people.
fn result(pull: &Pull) -> String {
    if let Some(failed) = pull.failed() {
        return match failed.status {
            400.. => format!("not: the response was {}", failed.status),
            _ => "in part: the connection ended early".to_owned(),
        };
    }
    let words = match pull.outcome() {
        Outcome::Hit | Outcome::Revalidated => "from the cache",
        Outcome::Stale => "from the cache, since the registry did not answer",
        Outcome::Redirected => "from the object store",
        Outcome::Joined => "from the registry, with the pull of another client",
        Outcome::Miss | Outcome::Bypass | Outcome::Error => "from the registry",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{byte_counter::ByteCounter, history::FinishedRequest, oci::Operation};

    fn told(requests: impl IntoIterator<Item = FinishedRequest>) -> String {
        let history = History::new(ByteCounter::default());
        requests.into_iter().for_each(|request| history.add(request));
        let client = "10.0.0.1".parse().unwrap();
        let pulls = Pulls::Of { client, pulls: history.pulls_of(client, &["docker.io".into()], LIMIT) };
        let mut html = Html::default();
        pulls.section(&mut html);
        String::from_utf8(html.finish().to_vec()).unwrap()
    }

    #[test]
    fn a_visitor_learns_how_its_pulls_went() {
        let of = |number| FinishedRequest::of_test(number, Instant::now());
        assert!(told([]).contains("from your address, 10.0.0.1.") && told([]).contains("There are none yet."));
        for (request, expected) in [
            (of(1), "from the cache"),
            (FinishedRequest { outcome: Outcome::Miss, ..of(1) }, "from the registry"),
            (FinishedRequest { outcome: Outcome::Redirected, ..of(1) }, "from the object store"),
            (FinishedRequest { outcome: Outcome::Stale, ..of(1) }, "from the cache, since the registry did not answer"),
            (of(1).failed(404, "manifest_unknown"), "not: the response was 404"),
            (of(1).failed(200, "client_left"), "in part: the connection ended early"),
        ] {
            let text = told([request]);
            let row = format!("<th scope=\"row\">docker.io/library/app:1</th><td>{expected}</td>");
            assert!(text.contains(&row), "{expected}: {text}");
            assert!(text.contains(&format!("data-say=\"docker.io/library/app:1: {expected}\"")), "{text}");
        }
    }

    #[test]
    fn only_pulls_that_all_clients_could_do_are_told() {
        let of = |number| FinishedRequest::of_test(number, Instant::now());
        for request in [
            FinishedRequest { is_of_client: true, ..of(1) },
            FinishedRequest { peer: "10.0.0.2:1234".into(), ..of(1) },
            of(1).about(Operation::Push, "1"),
            FinishedRequest { pull: None, ..of(1) },
        ] {
            let text = told([request]);
            assert!(text.contains("There are none yet."), "{text}");
        }
    }
}
