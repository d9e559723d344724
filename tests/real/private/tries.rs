//! What bob may try to get what is ann's: cached, on its way to her, after a restart, and while the registry is down.

mod list;

use self::list::Try;
use super::{ANN, BOB, World};
use forebay_test_support::{
    mirror::Answer,
    real::{
        forebay::{Forebay, local},
        gate::Gate,
        image::{Blob, Format, Image, Referrer},
    },
    until::until,
    wire::{exchange, exchange_with_body},
};

/// Held on its way after this much of it.
const HALF: u64 = 1_000_000;

/// What is hers, what is his, and what is open to all; all of it cached.
struct Case {
    world: World,
    gate: Gate,
    forebay: Forebay,
    hers: Image,
    his: Image,
    signature: Referrer,
    /// A layer that no client has pulled yet.
    large: Blob,
    /// Where she goes on with an upload of hers.
    upload: String,
}

impl Case {
    async fn new() -> Case {
        let world = World::new().await;
        let hers = Image::new(Format::Oci, 91, &[70_000, 900]);
        let his = Image::new(Format::Oci, 92, &[50_000]);
        let large = Blob::random(93, 4_000_000);
        world.registry.pusher().image("ann/app", "secret-tag", &hers).await;
        world.registry.pusher().image("bob/app", "1", &his).await;
        world.registry.store("ann/app", &large);
        let signature = Referrer::of(&hers.manifest, b"a signature");
        world.registry.pusher().referrer("ann/app", &signature).await;
        world.hub.pusher().image("team/open", "1", &Image::new(Format::Oci, 94, &[500])).await;
        let gate = Gate::before(world.registry.port).await;
        let forebay = world.forebay(&gate.url(), "").await;
        let case = Case { world, gate, forebay, hers, his, signature, large, upload: String::new() };
        case.warm().await;
        let begun = case.ask("POST", "/v2/ann/app/blobs/uploads/", &[("authorization", &ANN.basic())]).await;
        assert_eq!(begun.status, 202);
        let upload = begun.header("location").expect("an upload has a place").to_owned();
        Case { upload, ..case }
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(local(self.forebay.port), &format!("{method} {target}"), headers).await
    }

    /// Each pulls what is theirs, and gets it.
    async fn warm(&self) {
        for (user, repository, tag, image) in
            [(ANN, "ann/app", "secret-tag", &self.hers), (BOB, "bob/app", "1", &self.his)]
        {
            for (path, content) in paths(repository, tag, image) {
                let headers = [("authorization", &*user.basic()), ("accept", image.manifest.media_type)];
                let head = self.ask("HEAD", &path, &headers).await;
                let answer = self.ask("GET", &path, &headers).await;
                assert_eq!((head.status, answer.status), (200, 200), "{path}");
                assert!(answer.body == content.bytes, "{path}");
            }
        }
        // The tag that has what refers to it: where pushes are taken, clients read and write it themselves.
        let path = format!("/v2/ann/app/manifests/{}", self.hers.manifest.blob.digest.replace(':', "-"));
        let headers = [("authorization", &*ANN.basic()), ("accept", "application/vnd.oci.image.index.v1+json")];
        let listed = self.ask("GET", &path, &headers).await;
        assert!(String::from_utf8_lossy(&listed.body).contains(&self.signature.manifest.blob.digest));
    }

    async fn assert_nothing_helps(&self, when: &str) {
        let tries = self.tries();
        assert!(tries.len() > 20);
        for tried in &tries {
            let headers: Vec<(&str, &str)> = tried.headers.iter().map(|(name, value)| (*name, &**value)).collect();
            let answer = {
                let line = format!("{} {}", tried.method, tried.target);
                exchange_with_body(local(self.forebay.port), &line, &headers, &tried.body).await
            };
            self.assert_tells_nothing(tried, &answer, when);
        }
        // Nor whether she has something by a name; once what he was refused a moment ago is not remembered any more.
        until(&format!("{when}: it makes no difference what there is"), async || {
            let mut told = Vec::new();
            for (repository, tag) in [("ann/app", "secret-tag"), ("ann/app", "none"), ("ann/none", "secret-tag")] {
                let target = format!("/v2/{repository}/manifests/{tag}");
                let answer = self.ask("GET", &target, &[("authorization", &BOB.basic())]).await;
                // The registry's own words name what he asked for, and forebay's the id of the request.
                let words = String::from_utf8_lossy(&answer.body).replace(repository, "REPOSITORY");
                let words = answer.header("x-request-id").map_or(words.clone(), |id| words.replace(id, "ID"));
                told.push((answer.status, words));
            }
            told.iter().all(|answer| *answer == told[0]).then_some(())
        })
        .await;
    }

    fn assert_tells_nothing(&self, tried: &Try, answer: &Answer, when: &str) {
        let shown = || {
            let Try { method, target, headers, .. } = tried;
            let body = String::from_utf8_lossy(&answer.body);
            format!("{when}: {method} {target} {headers:?}: {} {:?} {body}", answer.status, answer.headers)
        };
        // A mount that is not made is an upload to his own repository.
        let begun = tried.method == "POST" && answer.status == 202;
        let refused = matches!(answer.status, 400 | 401 | 403 | 404 | 405 | 421 | 429 | 502 | 503);
        // Of his own repository he is told that nothing in it refers to what is hers.
        let nothing = answer.status == 200 && tried.target.starts_with("/v2/bob/app/referrers/");
        assert!(begun || refused || nothing, "{}", shown());
        for name in ["etag", "docker-content-digest", "content-range", "accept-ranges", "link", "last-modified"] {
            assert_eq!(answer.header(name), None, "{}", shown());
        }
        let all = [&self.hers.config, &self.hers.manifest.blob, &self.large, &self.signature.manifest.blob];
        let all = self.hers.layers.iter().chain(all);
        let all: Vec<&Blob> = all.collect();
        for (_, value) in &answer.headers {
            assert!(all.iter().all(|blob| *value != blob.bytes.len().to_string()), "{}", shown());
        }
        if tried.method == "HEAD" || begun {
            assert!(answer.body.is_empty(), "{}", shown());
            return;
        }
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let is_empty = json["manifests"].as_array().is_some_and(Vec::is_empty);
        assert!(if nothing { is_empty } else { !answer.error_code().is_empty() }, "{}", shown());
        let body = String::from_utf8_lossy(&answer.body);
        // What he said himself is no news.
        let asked = tried.target.clone() + &String::from_utf8_lossy(&tried.body);
        let news = all.iter().map(|blob| blob.hex()).chain(["secret-tag"]).filter(|word| !asked.contains(word));
        for word in news {
            assert!(!body.contains(word), "{}", shown());
        }
    }
}

/// What a client asks for that pulls an image, and what it gets.
fn paths<'a>(repository: &str, tag: &str, image: &'a Image) -> Vec<(String, &'a Blob)> {
    let manifest = &image.manifest.blob;
    let manifests =
        [tag, &manifest.digest].map(|reference| (format!("/v2/{repository}/manifests/{reference}"), manifest));
    let blobs = image.layers.iter().chain([&image.config]);
    manifests.into_iter().chain(blobs.map(|blob| (format!("/v2/{repository}/blobs/{}", blob.digest), blob))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_this_gets_anything_of_anothers() {
    let mut case = Case::new().await;
    case.assert_nothing_helps("cached").await;

    // The large layer is on its way to her.
    case.gate.hold_each_after(HALF);
    let (port, target) = (case.forebay.port, format!("/v2/ann/app/blobs/{}", case.large.digest));
    let hers = tokio::spawn(async move {
        exchange(local(port), &format!("GET {target}"), &[("authorization", &ANN.basic())]).await
    });
    until("her layer is on its way", async || {
        (case.forebay.metric("forebay_fills_in_flight", &[]).await > 0.0).then_some(())
    })
    .await;
    case.assert_nothing_helps("in flight").await;
    assert!(case.forebay.metric("forebay_fills_in_flight", &[]).await > 0.0 && !hers.is_finished());
    case.gate.open();
    let hers = hers.await.expect("she has no panic");
    assert!(hers.status == 200 && hers.body == case.large.bytes);

    // All that did nothing to what is theirs, either.
    case.warm().await;
    case.forebay.kill();
    case.forebay.revive().await;
    case.assert_nothing_helps("after a restart").await;
    case.warm().await;
    case.world.stop();
    case.assert_nothing_helps("while the registry is down").await;
    case.forebay.kill();
    case.forebay.revive().await;
    case.assert_nothing_helps("restarted while the registry is down").await;
    case.world.assert_sent_once_at_most(super::blobs(&case.hers));
}
