//! What failed, and why: requests of the last hour, grouped by upstream and cause (pure).

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{history::FinishedRequest, html::Html, metrics::Label as _, request_id::RequestId, upstream::FailureCause};

/// How many groups are shown: those with the most requests.
const MAX_GROUPS: usize = 20;

/// All that failed.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Those with the most requests first.
    groups: Vec<Group>,
    /// How many requests are in groups that are not shown.
    others: usize,
    /// How many requests the reader may not see.
    pub hidden: usize,
}

/// Requests that failed for the same cause.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// That the requests name, configured or not; `None`: they name none.
    upstream: Option<Arc<str>>,
    cause: &'static str,
    requests: usize,
    /// The newest of them: when it ended, its id, and what it was about.
    at: SystemTime,
    id: RequestId,
    image: Option<String>,
}

/// Groups requests, of which the newest come first.
pub(super) fn group<'a>(requests: impl Iterator<Item = &'a FinishedRequest>) -> Failures {
    let mut places = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for request in requests {
        let Some(cause) = request.upstream_cause.or(request.failure) else { continue };
        let unconfigured = || request.unconfigured.as_deref().map(Arc::from);
        let upstream: Option<Arc<str>> = request.upstream.clone().or_else(unconfigured);
        let place = *places.entry((upstream.clone(), cause)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.requests += 1,
            None => groups.push(Group {
                upstream,
                cause,
                requests: 1,
                at: request.ended_at,
                id: request.id,
                image: request.subject().map(|subject| subject.as_str().to_owned()),
            }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.requests));
    let others = groups.iter().skip(MAX_GROUPS).map(|group| group.requests).sum();
    groups.truncate(MAX_GROUPS);
    Failures { groups, others, hidden: 0 }
}

impl Failures {
    pub(super) fn write(&self, html: &mut Html, now: SystemTime) {
        html.markup(
            "<section id=\"failures\" aria-labelledby=\"failures-title\">\n\
             <h2 id=\"failures-title\">What failed in the last hour, and why?</h2>\n",
        );
        if self.groups.is_empty() && self.hidden == 0 {
            html.markup("<p>Nothing: clients got what they asked for.</p>\n</section>\n");
            return;
        }
        if !self.groups.is_empty() {
            self.table(html, now);
        }
        if self.hidden > 0 {
            html.markup("<p>").text(&self.hidden.to_string()).markup(
                " more may be of registries that authorize each client; without <code>admin.token_file</code> and its token \
                 they are not shown.</p>\n",
            );
        }
        html.markup("</section>\n");
    }

    fn table(&self, html: &mut Html, now: SystemTime) {
        html.markup(
            "<div class=\"scroll\" id=\"failures-table\" tabindex=\"0\" role=\"group\" aria-labelledby=\"failures-title\">\n\
             <table>\n<thead><tr><th scope=\"col\">Cause</th><th scope=\"col\">Registry</th>\
             <th scope=\"col\" class=\"number\">Requests</th><th scope=\"col\">The last one</th></tr></thead>\n<tbody>\n",
        );
        for group in &self.groups {
            html.markup("<tr><th scope=\"row\">").text(group.cause);
            if let Some(meaning) = meaning(group.cause) {
                html.markup(" <span>").markup(meaning).markup("</span>");
            }
            html.markup("</th>").cell(group.upstream.as_deref().unwrap_or("none")).number(&group.requests.to_string());
            html.markup("<td>").ago(group.at, now).markup(" ").text(group.image.as_deref().unwrap_or_default());
            html.markup(" <code>forebay log ").text(&group.id.to_string()).markup("</code></td></tr>\n");
        }
        html.markup("</tbody>\n</table>\n</div>\n");
        if self.others > 0 {
            html.markup("<p>").text(&self.others.to_string()).markup(" more requests failed for other causes.</p>\n");
        }
    }
}

/// What a cause of an upstream means; `None`: it is none, but the word of an error that forebay told the client.
fn meaning(cause: &str) -> Option<&'static str> {
    let cause = FailureCause::ALL.iter().find(|known| known.as_str() == cause)?;
    Some(match cause {
        FailureCause::Dns => "no address of the registry was found",
        FailureCause::Refused => "no connection could be made, or it ended early",
        FailureCause::Timeout => "the registry did not answer in time",
        FailureCause::Tls => "the TLS handshake failed",
        FailureCause::Credentials => "the registry refuses the credentials of forebay, or they cannot be read",
        FailureCause::NotARegistry => "what answers there is no registry",
        FailureCause::Status => "the registry said that it cannot answer",
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn failed(number: u64, upstream: &str, cause: Option<&'static str>, failure: &'static str) -> FinishedRequest {
        let request = FinishedRequest::of_test(number, Instant::now()).failed(502, failure);
        FinishedRequest { upstream: Some(upstream.into()), upstream_cause: cause, ..request }
    }

    #[test]
    fn failures_are_grouped_by_registry_and_cause() {
        let requests = [
            failed(6, "quay.io", Some("dns"), "upstream_unavailable"),
            failed(5, "docker.io", None, "manifest_unknown"),
            failed(4, "docker.io", Some("dns"), "upstream_unavailable"),
            failed(3, "docker.io", None, "manifest_unknown"),
            failed(2, "docker.io", Some("dns"), "upstream_resting"),
            failed(1, "docker.io", Some("dns"), "upstream_unavailable"),
            FinishedRequest {
                upstream: None,
                unconfigured: Some("nvcr.io".into()),
                ..failed(0, "", None, "unconfigured_upstream")
            },
        ];
        let failures = group(requests.iter());
        let found = failures.groups.iter().map(|it| (it.upstream.as_deref(), it.cause, it.requests, it.id.number));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                (Some("docker.io"), "dns", 3, 4),
                (Some("docker.io"), "manifest_unknown", 2, 5),
                (Some("quay.io"), "dns", 1, 6),
                (Some("nvcr.io"), "unconfigured_upstream", 1, 0),
            ]
        );
        let mut html = Html::default();
        failures.write(&mut html, requests[0].ended_at);
        let text = String::from_utf8(html.finish().to_vec()).unwrap();
        assert!(text.contains("dns <span>no address of the registry was found</span>"), "{text}");
        assert!(text.contains("0 s ago</time> docker.io/library/app:1 <code>forebay log 00000007-4</code>"), "{text}");
    }

    #[test]
    fn more_groups_than_are_shown_are_counted() {
        let names: Vec<_> = (0..MAX_GROUPS + 3).map(|number| format!("r{number}.lan")).collect();
        let requests: Vec<_> = names.iter().map(|name| failed(1, name, Some("tls"), "upstream_unavailable")).collect();
        let failures = group(requests.iter());
        assert_eq!((failures.groups.len(), failures.others), (MAX_GROUPS, 3));
        assert!(group(std::iter::empty()).groups.is_empty());
        let text = |failures: Failures| {
            let mut html = Html::default();
            failures.write(&mut html, SystemTime::UNIX_EPOCH);
            String::from_utf8(html.finish().to_vec()).unwrap()
        };
        assert!(text(Failures::default()).contains("Nothing: clients got what they asked for."));
        let hidden = text(Failures { hidden: 3, ..Failures::default() });
        assert!(hidden.contains("<p>3 more may be of registries") && !hidden.contains("Nothing"), "{hidden}");
    }
}
