//! What is in the cache: a search for images, and what it found.

use std::time::SystemTime;

use url::form_urlencoded;

use super::reader::Reader;
use crate::{
    admin::api::{
        Sources,
        parameters::{ParameterError, Parameters},
    },
    cache::inventory::{Image, PageQuery, PlatformState, Sort},
    html::Html,
    oci::{Platform, Reference},
    rule::Pattern,
    units::bytes,
};

/// How many images a page has.
const LIMIT: usize = 20;
/// How many platforms of an image are named.
const MAX_PLATFORMS: usize = 6;

/// The sorts in the form, each with its word in the query.
const SORTS: [(Sort, &str, &str); 3] =
    [(Sort::Used, "used", "last use"), (Sort::Size, "size", "size"), (Sort::Pulls, "pulls", "pulls")];

/// What a person looks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// As it was typed.
    text: String,
    sort: Sort,
    after: Option<String>,
}

impl Search {
    /// # Errors
    /// The query has something that the form does not send.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, String> {
        let read = || {
            let parameters = Parameters::parse(query, &["match", "sort", "after"])?;
            Ok(Self {
                text: parameters.text("match").unwrap_or_default().trim().to_owned(),
                sort: parameters.value("sort", str::parse)?.unwrap_or_default(),
                after: parameters.text("after").map(str::to_owned),
            })
        };
        read().map_err(|error: ParameterError| error.to_string())
    }

    fn query(&self, reader: Reader, is_upstream: impl Fn(&str) -> bool) -> Result<PageQuery, String> {
        let pattern = match &*self.text {
            "" => None,
            text => Some(Pattern::typed(&anywhere(text), is_upstream).map_err(|error| error.to_string())?),
        };
        let after = self.after.as_deref().map(str::parse).transpose()?;
        Ok(PageQuery { pattern, sort: self.sort, limit: LIMIT, after, sees_clients: reader.sight.of_clients })
    }

    /// The form. It works without a script.
    pub(super) fn form(&self, html: &mut Html) {
        html.markup(
            "<form action=\"/#images\" method=\"get\" role=\"search\">\n<div><label for=\"match\">Name, or a part ",
        );
        html.markup("of it</label>\n<input id=\"match\" name=\"match\" type=\"search\" maxlength=\"500\" value=\"");
        html.text(&self.text)
            .markup("\"></div>\n<div><label for=\"sort\">Sort by</label>\n<select id=\"sort\" name=\"sort\">");
        for (sort, word, title) in SORTS {
            html.markup("<option value=\"").text(word).markup(if sort == self.sort { "\" selected>" } else { "\">" });
            html.text(title).markup("</option>");
        }
        html.markup("</select></div>\n<button>Search</button>\n</form>\n");
    }

    /// Where the page after this one is.
    fn next(&self, cursor: &str) -> String {
        let word = SORTS.iter().find(|(sort, ..)| *sort == self.sort).map_or("used", |(_, word, _)| word);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("match", &self.text).append_pair("sort", word).append_pair("after", cursor);
        format!("/?{}#images", query.finish())
    }
}

/// A pattern for names with this text in them; with a `*`, the text is a pattern already.
fn anywhere(text: &str) -> String {
    if text.contains('*') { text.to_owned() } else { format!("*{text}*") }
}

/// The images that a search found. `problem`: why the query cannot be used.
pub(super) async fn fragment(sources: &Sources, search: &Search, problem: Option<&str>, reader: Reader) -> Html {
    let mut html = Html::default();
    let upstreams = sources.upstreams.load_full();
    let is_upstream = |name: &str| upstreams.iter().any(|upstream| **upstream.name() == *name);
    let query = problem.map_or_else(|| search.query(reader, is_upstream), |problem| Err(problem.to_owned()));
    let query = match query {
        Ok(query) => query,
        Err(problem) => {
            html.markup("<p class=\"bad\" role=\"alert\">").text(&problem).markup("</p>\n");
            return html;
        }
    };
    let Some(page) = sources.inventory.page(query).await else {
        html.markup("<p class=\"bad\">forebay is about to end.</p>\n");
        return html;
    };
    if page.is_reading {
        html.markup(
            "<p class=\"quiet\">forebay still reads what is there: some images are missing, or have no size.</p>\n",
        );
    }
    if page.images.is_empty() {
        html.markup("<p>No image was found.</p>\n");
        return html;
    }
    table(&mut html, &page.images, reader, SystemTime::now());
    if let Some(next) = &page.next {
        html.markup("<p><a href=\"").text(&search.next(&next.to_string())).markup("\">More images</a></p>\n");
    }
    html
}

fn table(html: &mut Html, images: &[Image], reader: Reader, now: SystemTime) {
    html.markup(
        "<div class=\"scroll\" id=\"images-table\" tabindex=\"0\" role=\"group\" aria-labelledby=\"images-title\">\n\
         <table>\n<thead><tr><th scope=\"col\">Image</th><th scope=\"col\">Platforms</th>\
         <th scope=\"col\" class=\"number\">Size</th><th scope=\"col\" class=\"number\">Shared</th>\
         <th scope=\"col\" class=\"number\">Pulls</th><th scope=\"col\">Last use</th><th scope=\"col\">Checked</th>\
         <th scope=\"col\">Here</th>",
    );
    if reader.may_change {
        html.markup("<th scope=\"col\">Actions</th>");
    }
    html.markup("</tr></thead>\n<tbody>\n");
    for (place, image) in images.iter().enumerate() {
        let place = reader.may_change.then_some(place);
        row(html, (place, image), now);
        if let Some(place) = place {
            actions(html, place, image);
        }
        html.markup("</tr>\n");
    }
    html.markup("</tbody>\n</table>\n</div>\n");
}

/// `place`: that of the row, if it has buttons that are named after its image.
fn row(html: &mut Html, (place, image): (Option<usize>, &Image), now: SystemTime) {
    let known = |size: Option<u64>| size.map_or_else(|| "?".to_owned(), bytes);
    html.markup("<tr><th scope=\"row\"");
    if let Some(place) = place {
        html.markup(" id=\"image-").text(&place.to_string()).markup("\"");
    }
    html.markup(">").text(&image.name.to_string()).markup("</th>");
    html.cell(&platforms(&image.platforms, image.more_platforms));
    html.number(&known(image.size)).number(&known(image.shared)).number(&image.pulls.to_string());
    for time in [image.last_use, image.confirmed] {
        match time {
            Some(time) => html.markup("<td>").ago(time, now).markup("</td>"),
            None => html.cell("?"),
        };
    }
    html.markup("<td>").markup(match (image.size, image.is_complete) {
        (None, _) => "not read yet",
        (Some(_), true) => "complete",
        (Some(_), false) => "in part",
    });
    html.markup(if image.is_pinned { ", pinned</td>" } else { "</td>" });
}

/// What a script does to the image. The place is in the ids, so that the focus stays there.
fn actions(html: &mut Html, place: usize, image: &Image) {
    let (pin, pin_title) = if image.is_pinned { ("unpin", "Unpin") } else { ("pin", "Pin") };
    html.markup("<td data-image=\"").text(&image.name.to_string()).markup("\">");
    button(html, ("pin", place), (pin, pin_title));
    // A digest means the same for ever.
    if matches!(image.name.reference, Reference::Tag(_)) {
        button(html, ("refresh", place), ("refresh", "Refresh"));
    }
    button(html, ("remove", place), ("remove", "Remove"));
    html.markup("</td>");
}

fn button(html: &mut Html, (slot, place): (&'static str, usize), (action, title): (&'static str, &'static str)) {
    let place = place.to_string();
    html.markup("<button type=\"button\" id=\"").markup(slot).markup("-").text(&place);
    html.markup("\" data-action=\"").markup(action).markup("\" aria-labelledby=\"").markup(slot).markup("-");
    html.text(&place).markup(" image-").text(&place).markup("\">").markup(title).markup("</button> ");
}

/// The platforms that are here, and how many others there are.
fn platforms(platforms: &[PlatformState], more: usize) -> String {
    let here = platforms.iter().filter(|state| state.is_here);
    let names = here.map(|state| state.platform.as_ref().map_or("?", Platform::as_str));
    let mut text = names.clone().take(MAX_PLATFORMS).collect::<Vec<_>>().join(", ");
    let others = platforms.len().saturating_sub(names.take(MAX_PLATFORMS).count()).saturating_add(more);
    if others > 0 {
        let separator = if text.is_empty() { "" } else { ", " };
        text = format!("{text}{separator}{others} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::access::Sight;

    fn search(query: &str) -> Result<PageQuery, String> {
        let reader = Reader { sight: Sight { of_clients: false }, may_change: false };
        Search::parse(Some(query)).and_then(|search| search.query(reader, |name| name == "docker.io"))
    }

    #[test]
    fn a_search_is_for_a_part_of_a_name() {
        for (query, expected) in [
            ("", None),
            ("match=+", None),
            ("match=node", Some("*node*")),
            ("match=node%3A22&sort=pulls", Some("*node:22*")),
            ("match=node%3A*", Some("node:*")),
        ] {
            let expected = expected.map(|text| Pattern::typed(text, |name| name == "docker.io").unwrap());
            assert_eq!(search(query).unwrap().pattern, expected, "{query}");
        }
        for query in ["sort=age", "limit=1", "after=7", "match=a&match=b"] {
            assert!(search(query).is_err(), "{query}");
        }
    }

    #[test]
    fn the_next_page_goes_on_with_the_same_search() {
        let first = Search::parse(Some("match=a%26b%3D%3C&sort=size")).unwrap();
        let next = first.next("7,shared,docker.io/a/b:1");
        let query = next.strip_prefix("/?").and_then(|rest| rest.strip_suffix("#images")).unwrap();
        let second = Search::parse(Some(query)).unwrap();
        assert_eq!((second.text, second.sort), (first.text, Sort::Size));
        assert_eq!(second.after.as_deref(), Some("7,shared,docker.io/a/b:1"));
    }
}
