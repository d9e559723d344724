//! How the object store is.

use std::time::SystemTime;

use crate::{html::Html, store::Health, units::counted};

/// The store and what waits for its upload; nothing, if there is none.
pub(super) fn write(html: &mut Html, store: Option<(String, Health, usize)>, now: SystemTime) {
    let Some((location, Health { word, failure }, waiting)) = store else { return };
    html.markup(
        "<section id=\"object-store\" aria-labelledby=\"object-store-title\">\n\
         <h2 id=\"object-store-title\">How is the object store?</h2>\n<p><code>",
    );
    html.text(&location).markup("</code>: ");
    match word {
        "ok" | "unknown" => html.text(word),
        _ => html.markup("<span class=\"state-bad\">").text(word).markup("</span>"),
    };
    html.text(match word {
        "unknown" => ". It was not asked yet. ",
        "ok" => ". ",
        _ => ". Pulls go on without it. ",
    });
    if waiting > 0 {
        html.text(&format!("Waiting for the upload: {}. ", counted(waiting as u64, "object")));
    }
    if let Some((at, problem)) = failure {
        html.text("The last failure was ").ago(at, now).text(&format!(": {problem}."));
    }
    html.markup("</p>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(word: &'static str, failure: Option<&str>, waiting: usize) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let failure = failure.map(|problem| (now - Duration::from_secs(120), problem.to_owned()));
        let mut html = Html::default();
        write(&mut html, Some(("s3://images".to_owned(), Health { word, failure }, waiting)), now);
        String::from_utf8(html.finish().to_vec()).unwrap()
    }

    #[test]
    fn a_forebay_without_a_store_has_no_section() {
        let mut html = Html::default();
        write(&mut html, None, SystemTime::now());
        assert!(html.finish().is_empty());
    }

    #[test]
    fn a_store_that_fails_is_marked_and_why() {
        let html = shown("read-only", Some("403 <Denied>"), 2);
        for part in
            ["<span class=\"state-bad\">read-only</span>. Pulls go on", "upload: 2 objects", "403 &lt;Denied&gt;"]
        {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!shown("ok", None, 0).contains("state-bad"));
        assert!(shown("ok", None, 1).contains("upload: 1 object."));
    }
}
