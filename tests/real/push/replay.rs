//! One script of all endpoints, against the registry itself and through forebay: the same answers.

use reqwest::{Method, Url};

use super::open_mirror;
use forebay_test_support::real::{
    download::client,
    image::{Blob, Format, Image, digest},
    registry::Registry,
};

/// The headers that the specification names. An upload's own name is another each time, so only that it has one counts.
const NAMED: [&str; 10] = [
    "content-type",
    "content-length",
    "docker-content-digest",
    "docker-distribution-api-version",
    "location",
    "range",
    "docker-upload-uuid",
    "oci-subject",
    "oci-filters-applied",
    "link",
];

/// What a step was answered, as far as the answers must be the same.
type Seen = (String, u16, Vec<(String, String)>, String);

struct Replay {
    base: Url,
    seen: Vec<Seen>,
}

impl Replay {
    async fn step(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> String {
        let url = self.base.join(path).expect("a path of the script");
        let step = format!("{method} {}", masked(url.path()));
        let request = client().request(method.clone(), url.clone()).body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        let place = header("location").map(|location| url.join(&location).expect("a Location is a URL"));
        let named = NAMED.iter().filter_map(|name| {
            let value = match *name {
                "location" => masked(place.as_ref()?.path()),
                "docker-upload-uuid" => header(name).map(|_| "a name".to_owned())?,
                // How the body is written is the sender's own.
                "content-length" if status >= 400 => return None,
                // Parameters (a charset) say nothing that JSON does not say.
                "content-type" if header("content-length").as_deref() == Some("0") => return None,
                "content-type" => header(name)?.split(';').next()?.to_owned(),
                _ => header(name)?,
            };
            Some(((*name).to_owned(), value))
        });
        let named = named.collect();
        let bytes = answer.bytes().await.expect("a whole answer");
        let body = match serde_json::from_slice::<serde_json::Value>(&bytes) {
            Ok(json) if json["errors"].is_array() => json["errors"][0]["code"].to_string(),
            _ => digest(&bytes),
        };
        self.seen.push((step, status, named, body));
        place.map_or_else(String::new, |place| place.to_string())
    }

    async fn run(base: &str) -> Vec<Seen> {
        let mut replay = Replay { base: Url::parse(base).expect("a URL"), seen: Vec::new() };
        replay.script().await;
        replay.seen
    }

    async fn script(&mut self) {
        let (get, head, put, post) = (Method::GET, Method::HEAD, Method::PUT, Method::POST);
        let (patch, delete) = (Method::PATCH, Method::DELETE);
        let image = Image::new(Format::Oci, 77, &[50_000, 700]);
        let blobs: Vec<&Blob> = image.layers.iter().chain([&image.config]).collect();
        let manifest = &image.manifest.blob;
        let uploads = "/v2/team/app/blobs/uploads/";
        let none: &[(&str, &str)] = &[];
        let octets = [("content-type", "application/octet-stream")];

        self.step(get.clone(), "/v2/", none, "").await;
        // Nothing is there yet.
        for blob in &blobs {
            self.step(head.clone(), &format!("/v2/team/app/blobs/{}", blob.digest), none, "").await;
        }
        self.step(get.clone(), "/v2/team/app/tags/list", none, "").await;
        self.step(get.clone(), "/v2/team/app/manifests/1", none, "").await;
        // POST and PUT; POST, PATCH and PUT; POST, chunks in order, out of order, and the status between them.
        let place = self.step(post.clone(), uploads, none, "").await;
        let end = format!("{place}&digest={}", blobs[0].digest);
        self.step(put.clone(), &end, &octets, blobs[0].bytes.clone()).await;
        self.step(put.clone(), &end, &octets, blobs[0].bytes.clone()).await;
        let place = self.step(post.clone(), uploads, none, "").await;
        let place = self.step(patch.clone(), &place, &octets, blobs[1].bytes.clone()).await;
        self.step(put.clone(), &format!("{place}&digest={}", blobs[1].digest), none, "").await;
        let place = self.step(post.clone(), uploads, none, "").await;
        let chunk = |range: &'static str| [("content-type", "application/octet-stream"), ("content-range", range)];
        let bytes = &blobs[2].bytes;
        let place = self.step(patch.clone(), &place, &chunk("0-9"), bytes.slice(..10)).await;
        let status = self.step(get.clone(), &place, none, "").await;
        self.step(patch.clone(), &status, &chunk("20-29"), bytes.slice(20..30)).await;
        self.step(get.clone(), &status, none, "").await;
        self.step(delete.clone(), &status, none, "").await;
        let place = self.step(post.clone(), uploads, none, "").await;
        let place = self.step(patch.clone(), &place, &chunk("0-9"), bytes.slice(..10)).await;
        let last = format!("{place}&digest={}", blobs[2].digest);
        self.step(put.clone(), &last, &octets, bytes.slice(10..)).await;
        // A digest that is wrong, and one that is none; an upload that is cancelled; POST alone.
        let place = self.step(post.clone(), uploads, none, "").await;
        self.step(put.clone(), &format!("{place}&digest={}", blobs[0].digest), &octets, "other").await;
        let place = self.step(post.clone(), uploads, none, "").await;
        self.step(put.clone(), &format!("{place}&digest=nonsense"), &octets, "other").await;
        let place = self.step(post.clone(), uploads, none, "").await;
        self.step(delete.clone(), &place, none, "").await;
        self.step(get.clone(), &place, none, "").await;
        self.step(post.clone(), &format!("{uploads}?digest={}", digest(b"alone")), &octets, "alone").await;
        // Mounts: of what is there, of what is not, from nowhere.
        for (mount, from) in
            [(&blobs[0].digest, "&from=team/app"), (&digest(b"not there"), "&from=team/app"), (&blobs[0].digest, "")]
        {
            self.step(post.clone(), &format!("/v2/team/other/blobs/uploads/?mount={mount}{from}"), none, "").await;
        }
        // Manifests, by tag and by digest.
        let typed = [("content-type", image.manifest.media_type)];
        let accepted = [("accept", image.manifest.media_type)];
        let (by_tag, by_digest) =
            ("/v2/team/app/manifests/1".to_owned(), format!("/v2/team/app/manifests/{}", manifest.digest));
        for path in [&by_tag, &by_digest, &"/v2/team/app/manifests/2".to_owned()] {
            self.step(put.clone(), path, &typed, manifest.bytes.clone()).await;
        }
        self.step(put.clone(), &by_tag, &typed, "nonsense").await;
        let unknown = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": image.manifest.media_type, "layers": [],
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": 9, "digest": digest(b"not there") },
        }));
        self.step(put.clone(), &by_tag, &typed, unknown.expect("JSON")).await;
        self.step(put.clone(), &format!("/v2/team/app/manifests/{}", digest(b"other")), &typed, manifest.bytes.clone())
            .await;
        for path in [&by_tag, &by_digest] {
            self.step(head.clone(), path, &accepted, "").await;
            self.step(get.clone(), path, &accepted, "").await;
        }
        for blob in &blobs {
            self.step(get.clone(), &format!("/v2/team/app/blobs/{}", blob.digest), none, "").await;
        }
        for query in ["", "?n=1", "?n=1&last=1"] {
            self.step(get.clone(), &format!("/v2/team/app/tags/list{query}"), none, "").await;
        }
        // Deletions, each of them twice, and what is left.
        for _ in 0..2 {
            self.step(delete.clone(), &by_digest, none, "").await;
            self.step(delete.clone(), &format!("/v2/team/app/blobs/{}", blobs[0].digest), none, "").await;
        }
        for path in [by_tag, by_digest, format!("/v2/team/app/blobs/{}", blobs[0].digest)] {
            self.step(head.clone(), &path, &accepted, "").await;
            self.step(get.clone(), &path, &accepted, "").await;
        }
    }
}

/// A path without the name of an upload.
fn masked(path: &str) -> String {
    match path.split_once("/uploads/") {
        Some((front, session)) if !session.is_empty() => format!("{front}/uploads/…"),
        _ => path.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_answers_through_forebay_as_the_registry_does() {
    let (direct, behind) = (Registry::open().await, Registry::open().await);
    let forebay = open_mirror(&behind).await;
    let expected = Replay::run(&direct.url()).await;
    let found = Replay::run(&forebay.url("")).await;
    assert_eq!(expected.len(), found.len());
    // A script whose every step fails would be the same as well.
    for (status, least) in [(200, 11), (201, 7), (202, 15), (204, 2), (400, 5), (404, 14)] {
        let seen = expected.iter().filter(|(_, of, ..)| *of == status).count();
        assert!(seen >= least, "{seen} answers of {status}: {expected:#?}");
    }
    let differences: Vec<_> = expected.iter().zip(&found).filter(|(direct, through)| direct != through).collect();
    assert!(differences.is_empty(), "direct, and through forebay: {differences:#?}");
}
