//! Is it healthy?

use std::time::SystemTime;

use crate::{
    admin::State,
    cache::storage::StoreStatus,
    html::Html,
    units::{bytes, percent},
};

/// What tells whether forebay is healthy.
pub(super) struct Health<'a> {
    pub state: State,
    /// What a person should look at, in sentences.
    pub attention: Vec<String>,
    pub started: SystemTime,
    pub store: &'a StoreStatus,
}

impl Health<'_> {
    pub(super) fn write(&self, html: &mut Html, now: SystemTime) {
        html.markup("<section id=\"health\" aria-labelledby=\"health-title\">\n");
        html.markup("<h2 id=\"health-title\">Is it healthy?</h2>\n");
        self.verdict(html);
        html.markup("<p>forebay ").text(env!("CARGO_PKG_VERSION")).markup(", started ").ago(self.started, now);
        html.markup(".</p>\n");
        self.disk(html, now);
        html.markup("</section>\n");
    }

    fn verdict(&self, html: &mut Html) {
        let is_ready = self.state == State::Ready;
        if is_ready && self.attention.is_empty() {
            html.markup("<p class=\"good\" data-say=\"forebay is healthy.\">Yes: no person has to look.</p>\n");
            return;
        }
        let first = if is_ready { self.attention.first().map_or("", |first| first) } else { self.state.as_str() };
        html.markup("<ul class=\"bad\" data-say=\"").text(first).markup("\">\n");
        if !is_ready {
            html.markup("<li>forebay is ").text(self.state.as_str()).markup("</li>\n");
        }
        for sentence in &self.attention {
            html.markup("<li>").text(sentence).markup("</li>\n");
        }
        html.markup("</ul>\n");
    }

    fn disk(&self, html: &mut Html, now: SystemTime) {
        let (used, most) = (self.store.usage.total(), self.store.max_bytes);
        html.markup("<p><label for=\"disk\">Disk</label> <meter id=\"disk\" min=\"0\" max=\"").text(&most.to_string());
        html.markup("\" value=\"").text(&used.to_string()).markup("\"></meter> ").text(&bytes(used)).markup(" of ");
        html.text(&bytes(most));
        if let Some(percent) = percent(used, most) {
            html.markup(" (").text(&percent).markup(")");
        }
        if let Some(free) = self.store.free_bytes {
            html.markup("; the file system has ").text(&bytes(free)).markup(" free");
        }
        if let Some(oldest) = self.store.oldest_use {
            html.markup("; the oldest use of what is here was ").ago(oldest, now);
        }
        html.markup(if self.store.is_scanned { ".</p>\n" } else { "; forebay still reads what is there.</p>\n" });
    }
}
