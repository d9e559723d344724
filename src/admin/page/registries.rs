//! How the registries behind forebay are.

use std::time::SystemTime;

use crate::{
    admin::api::upstreams::{State, health},
    history::Unconfigured,
    html::Html,
    metrics::Label as _,
    peer,
    units::seconds,
    upstream::{Health, Upstream},
};

pub(super) fn write(html: &mut Html, upstreams: &[Upstream], unconfigured: &[Unconfigured], now: SystemTime) {
    html.markup(
        "<section id=\"registries\" aria-labelledby=\"registries-title\">\n\
         <h2 id=\"registries-title\">How are the registries?</h2>\n\
         <div class=\"scroll\" id=\"registries-table\" tabindex=\"0\" role=\"group\" aria-labelledby=\"registries-title\">\n\
         <table>\n<thead><tr><th scope=\"col\">Registry</th><th scope=\"col\">State</th>\
         <th scope=\"col\" class=\"number\">Pulls left</th><th scope=\"col\" class=\"number\">Latency</th>\
         <th scope=\"col\">Last failure</th></tr></thead>\n<tbody>\n",
    );
    for upstream in upstreams {
        let paused = upstream.paused_since();
        row(html, upstream.name(), (State::of(upstream), paused), &health(upstream), now);
    }
    html.markup("</tbody>\n</table>\n</div>\n");
    if !unconfigured.is_empty() {
        html.markup("<h3>Asked for, and not configured</h3>\n<ul>\n");
    }
    for Unconfigured { name, requests, last, peer } in unconfigured {
        html.markup("<li><strong>")
            .text(name)
            .markup("</strong>, ")
            .text(&requests.to_string())
            .markup(" times, last ");
        html.ago(*last, now)
            .markup(" by ")
            .text(&peer::address(peer))
            .markup(": to serve it, add an <code>[[upstream]]</code> with ");
        html.markup("<code>name = \"").text(name).markup("\"</code></li>\n");
    }
    html.markup(if unconfigured.is_empty() { "</section>\n" } else { "</ul>\n</section>\n" });
}

fn row(html: &mut Html, name: &str, (state, paused): (State, Option<SystemTime>), health: &Health, now: SystemTime) {
    html.markup("<tr><th scope=\"row\">").text(name).markup("</th><td>");
    match state {
        State::Ok => html.markup("ok"),
        State::Unknown => html.markup("not asked yet"),
        State::Paused => html.markup("<span class=\"state-bad\">paused by an operator</span>"),
        State::CredentialsRefused => html.markup("<span class=\"state-bad\">refuses the credentials of forebay</span>"),
        State::Down => html.markup("<span class=\"state-bad\">does not answer</span>"),
    };
    if let Some(since) = paused.or(health.down_since) {
        html.markup(": it began ").ago(since, now);
    }
    html.markup("</td><td class=\"number\">").text(&pulls_left(health)).markup("</td><td class=\"number\">");
    html.text(&latency(health)).markup("</td><td>");
    match health.last_failure {
        Some((cause, at)) => html.text(cause.as_str()).markup(", ").ago(at, now),
        None => html.markup("none"),
    };
    html.markup("</td></tr>\n");
}

/// As the registry last told them.
fn pulls_left(health: &Health) -> String {
    match health.pulls {
        Some((Some(limit), Some(remaining), _)) => format!("{remaining} of {limit}"),
        Some((None, Some(remaining), _)) => remaining.to_string(),
        Some((_, None, _)) | None => "-".to_owned(),
    }
}

/// The median, and what one of twenty requests exceeds.
fn latency(health: &Health) -> String {
    health.latency.map_or_else(
        || "-".to_owned(),
        |(median, p95)| format!("{}, p95 {}", seconds(median.as_secs_f64()), seconds(p95.as_secs_f64())),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::FailureCause;

    fn told(state: State, health: &Health) -> String {
        let mut html = Html::default();
        let paused = (state == State::Paused).then_some(SystemTime::UNIX_EPOCH);
        row(&mut html, "docker.io", (state, paused), health, SystemTime::UNIX_EPOCH + Duration::from_secs(90));
        String::from_utf8(html.finish().to_vec()).unwrap()
    }

    #[test]
    fn a_registry_is_told_with_what_is_known_of_it() {
        let at = SystemTime::UNIX_EPOCH;
        let unknown = told(State::Unknown, &Health::default());
        assert!(
            unknown.contains("<td>not asked yet</td><td class=\"number\">-</td><td class=\"number\">-</td><td>none")
        );
        let failure = Some((FailureCause::Dns, at));
        let down = told(State::Down, &Health { down_since: Some(at), last_failure: failure, ..Health::default() });
        assert!(
            down.contains("does not answer</span>") && down.contains("1 min ago") && down.contains("<td>dns, <time")
        );
        let paused = told(State::Paused, &Health::default());
        assert!(paused.contains("paused by an operator</span>: it began <time") && paused.contains("1 min ago"));
        let latency = Some((Duration::from_millis(31), Duration::from_millis(2100)));
        let well = told(State::Ok, &Health { latency, pulls: Some((Some(200), Some(143), at)), ..Health::default() });
        assert!(
            well.contains("<td>ok</td>") && well.contains("143 of 200") && well.contains("31 ms, p95 2.1 s"),
            "{well}"
        );
    }
}
