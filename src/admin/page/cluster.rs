//! How the members of the cluster are.

use crate::{cluster::MemberReport, html::Html, units::bytes};

/// How many members are shown: those that do not answer first.
const SHOWN: usize = 20;

/// Nothing, if this forebay is in no cluster.
pub(super) fn write(html: &mut Html, mut members: Vec<MemberReport>) {
    if members.is_empty() {
        return;
    }
    html.markup(
        "<section id=\"cluster\" aria-labelledby=\"cluster-title\">\n\
         <h2 id=\"cluster-title\">How is the cluster?</h2>\n<p>",
    );
    let all = members.len();
    let dead = members.iter().filter(|member| !member.is_alive).count();
    let received: u64 = members.iter().map(|member| member.received).sum();
    match dead {
        0 => html.text(&format!("All {all} members answer. ")),
        _ => html.text(&format!("{dead} of {all} members do not answer. ")),
    };
    html.text(&format!("This forebay got {} from others, and not from registries, since its start.", bytes(received)));
    html.markup(
        "</p>\n\
         <div class=\"scroll\" id=\"cluster-table\" tabindex=\"0\" role=\"group\" aria-labelledby=\"cluster-title\">\n\
         <table>\n<thead><tr><th scope=\"col\">Member</th><th scope=\"col\">State</th><th scope=\"col\">Zone</th>\
         <th scope=\"col\" class=\"number\">Owns</th><th scope=\"col\" class=\"number\">Sent us</th></tr></thead>\n<tbody>\n",
    );
    members.sort_by_key(|member| (member.is_alive, !member.is_this));
    members.iter().take(SHOWN).for_each(|member| row(html, member));
    html.markup("</tbody>\n</table>\n</div>\n");
    if all > SHOWN {
        html.markup("<p>")
            .text(&format!("{} more: ", all - SHOWN))
            .markup("<code>forebay status --cluster</code></p>\n");
    }
    html.markup("</section>\n");
}

fn row(html: &mut Html, member: &MemberReport) {
    html.markup("<tr><th scope=\"row\">").text(&member.name).markup("</th><td>");
    match (&member.why, member.is_this) {
        (_, true) => html.text("this forebay"),
        (None, false) => html.text("ok"),
        (Some(why), false) => html.markup("<span class=\"state-bad\">").text(why).markup("</span>"),
    };
    html.markup("</td><td>").text(member.zone.as_deref().unwrap_or("-")).markup("</td><td class=\"number\">");
    html.text(&format!("{:.1} %", member.share * 100.0)).markup("</td><td class=\"number\">");
    let received = if member.is_this { "-".to_owned() } else { bytes(member.received) };
    html.text(&received).markup("</td></tr>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: usize, why: Option<&str>) -> MemberReport {
        MemberReport {
            name: format!("http://10.0.0.{number}:5000").into(),
            is_this: number == 0,
            is_alive: why.is_none(),
            why: why.map(str::to_owned),
            zone: (number == 1).then(|| "a<b".to_owned()),
            share: 0.25,
            requests: 0,
            received: 2048,
        }
    }

    fn shown(members: Vec<MemberReport>) -> String {
        let mut html = Html::default();
        write(&mut html, members);
        String::from_utf8(html.finish().to_vec()).unwrap()
    }

    #[test]
    fn a_forebay_alone_has_no_section() {
        assert_eq!(shown(Vec::new()), "");
    }

    #[test]
    fn members_that_do_not_answer_come_first() {
        let mut members: Vec<_> = (0..30).map(|number| member(number, None)).collect();
        members[29] = member(29, Some("it cannot be reached"));
        let html = shown(members);
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text}: {html}"));
        assert!(at("1 of 30 members do not answer") < at("it cannot be reached"));
        assert!(at("it cannot be reached") < at("this forebay") && at("this forebay") < at("a&lt;b"));
        assert!(html.contains("10 more: ") && html.contains("25.0 %") && !html.contains("10.0.0.28"));
    }
}
