//! Tags, the catalogue and referrers: in pages, as many of them as `n` says, after `last`.

use serde_json::{Value, json};

use super::{
    State,
    record::Record,
    serve::{Found, below_v2},
};

impl State {
    /// Whether this is a path that an older registry does not know.
    pub(super) fn has_no_such_endpoint(&self, record: &Record) -> bool {
        !self.referrers && below_v2(&record.path).is_some_and(|path| path.contains("/referrers/"))
    }

    /// `None` when this is no list; an inner one when there is no such repository.
    pub(super) fn list(&self, path: &str, record: &Record) -> Option<Option<Found>> {
        if path == "_catalog" {
            let (names, link) = page(record, self.content.repositories(), |name| name);
            return Some(Some(found("application/json", link, &json!({ "repositories": names }))));
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            let tags = self.content.tags(repository);
            if tags.is_empty() {
                return Some(None);
            }
            let (tags, link) = page(record, tags, |tag| tag);
            return Some(Some(found("application/json", link, &json!({ "name": repository, "tags": tags }))));
        }
        let (repository, subject) = path.split_once("/referrers/")?;
        Some(Some(self.referrers(record, repository, subject)))
    }

    fn referrers(&self, record: &Record, repository: &str, subject: &str) -> Found {
        let mut referrers = self.content.referrers(repository, subject);
        let filter = record.parameter("artifactType");
        let mut headers = vec![];
        if !filter.is_empty() {
            referrers.retain(|(_, _, content, _)| filter.iter().any(|wanted| content["artifactType"] == **wanted));
            headers.push(("oci-filters-applied", "artifactType".to_owned()));
        }
        let (referrers, link) = page(record, referrers, |(digest, ..)| digest);
        let manifests: Vec<Value> = referrers
            .into_iter()
            .map(|(digest, media_type, content, size)| {
                json!({ "mediaType": media_type, "digest": digest, "size": size, "artifactType": content["artifactType"] })
            })
            .collect();
        let index = "application/vnd.oci.image.index.v1+json";
        headers.extend(link);
        found(index, headers, &json!({ "schemaVersion": 2, "mediaType": index, "manifests": manifests }))
    }
}

type Link = Option<(&'static str, String)>;

fn found(media_type: &str, headers: impl IntoIterator<Item = (&'static str, String)>, content: &Value) -> Found {
    let headers = headers.into_iter().collect();
    Found { media_type: media_type.to_owned(), digest: None, headers, bytes: content.to_string().into() }
}

/// The requested page of a sorted list, and where the next one begins.
fn page<'a, T: 'a>(record: &Record, mut all: Vec<T>, name: impl for<'b> Fn(&'b T) -> &'b str) -> (Vec<T>, Link) {
    if let Some(last) = record.parameter("last").first() {
        all.retain(|one| name(one) > last.as_str());
    }
    let Some(n) = record.parameter("n").first().and_then(|n| n.parse::<usize>().ok()) else { return (all, None) };
    let more = all.len() > n;
    all.truncate(n);
    let link = all.last().filter(|_| more).map(|last| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let asked = url::form_urlencoded::parse(record.query.as_bytes());
        query.extend_pairs(asked.filter(|(key, _)| key != "last")).append_pair("last", name(last));
        ("link", format!("<{}?{}>; rel=\"next\"", record.path, query.finish()))
    });
    (all, link)
}
