//! The latest pulls and pushes of all clients.

use std::time::SystemTime;

use crate::{
    history::Pull,
    html::Html,
    metrics::Label as _,
    units::{bytes, seconds},
};

pub(super) fn write(html: &mut Html, pulls: &[Pull], now: SystemTime) {
    html.markup(
        "<section id=\"pulls\" aria-labelledby=\"pulls-title\">\n<h2 id=\"pulls-title\">What was pulled last?</h2>\n",
    );
    if pulls.is_empty() {
        html.markup("<p>Nothing yet.</p>\n</section>\n");
        return;
    }
    html.markup(
        "<div class=\"scroll\" id=\"pulls-table\" tabindex=\"0\" role=\"group\" aria-labelledby=\"pulls-title\">\n\
         <table>\n<thead><tr><th scope=\"col\">Image</th><th scope=\"col\">Outcome</th><th scope=\"col\">Client</th>\
         <th scope=\"col\" class=\"number\">Got</th><th scope=\"col\" class=\"number\">Took</th>\
         <th scope=\"col\">Ended</th></tr></thead>\n<tbody>\n",
    );
    for pull in pulls {
        row(html, pull, now);
    }
    html.markup("</tbody>\n</table>\n</div>\n</section>\n");
}

fn row(html: &mut Html, pull: &Pull, now: SystemTime) {
    let image = pull.image();
    html.markup("<tr><th scope=\"row\">").text(image.as_ref().map_or("no image", |image| image.as_str()));
    html.markup("</th><td>");
    if pull.operation() != "pull" {
        html.text(pull.operation()).markup(", ");
    }
    html.text(pull.outcome().as_str());
    if let Some(failed) = pull.failed() {
        let cause = failed.upstream_cause.or(failed.failure).unwrap_or_default();
        html.markup(": <span class=\"state-bad\">").text(cause).markup("</span>");
    }
    html.markup("</td>")
        .cell(&client(pull))
        .number(&bytes(pull.sent()))
        .number(&seconds(pull.duration().as_secs_f64()));
    html.markup("<td>").ago(pull.newest().ended_at, now).markup("</td></tr>\n");
}

/// Its address, and the first word of what it calls itself.
fn client(pull: &Pull) -> String {
    let newest = pull.newest();
    let address = newest.address().map_or_else(|| newest.peer.to_string(), |address| address.to_string());
    let program = newest.user_agent().and_then(|agent| agent.split_whitespace().next());
    [Some(&*address), program].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
