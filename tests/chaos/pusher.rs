//! A client that pushes: what it was told to be there must be there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    client::{ACCEPT, World},
    dice::Dice,
    http::{self, Got, Pace},
    tally::Wrong,
};
use forebay_test_support::real::image::{Blob, Format, Image};

const UPSTREAM: &str = "push.test";

pub async fn run(world: Arc<World>, number: u64) {
    let mut dice = Dice::new(world.seed, ("pusher", number));
    let repository = format!("pushed/by{number}");
    let mut round = 0;
    while !world.stop.load(Ordering::Relaxed) {
        round += 1;
        let layer = 1 + dice.below(600_000) as usize;
        let image = Image::new(Format::Oci, world.seed ^ (number << 32 | round), &[layer]);
        if world.push(&repository, &image).await.is_none() {
            world.tally.count("pushes that were broken off");
        }
        sleep(Duration::from_millis(300 + dice.below(1500))).await;
    }
}

impl World {
    /// `None`: something failed, as it may.
    async fn push(&self, repository: &str, image: &Image) -> Option<()> {
        for blob in image.layers.iter().chain([&image.config]) {
            self.push_blob(repository, blob).await?;
            self.tally.count("blobs pushed");
            self.must_be_there(repository, "blobs", blob).await;
        }
        let life = self.life.load(Ordering::Acquire);
        let tag = "latest";
        let manifest = &image.manifest;
        let head = format!(
            "PUT /v2/{UPSTREAM}/{repository}/manifests/{tag} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: {}\r\nContent-Length: {}\r\n\r\n",
            manifest.media_type,
            manifest.blob.bytes.len()
        );
        let put = self.send(&head, &manifest.blob.bytes).await?;
        if put.status != 201 {
            return None;
        }
        self.tally.count("manifests pushed");
        self.must_be_there(repository, "manifests", &manifest.blob).await;
        let get = format!(
            "GET /v2/{UPSTREAM}/{repository}/manifests/{tag} HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}\r\nConnection: close\r\n\r\n"
        );
        let got = self.send(&get, b"").await?;
        if got.status == 200 && got.complete && got.body != manifest.blob.bytes {
            // What was on its way to the disk when forebay was killed may be lost; a restart asks again.
            if got.is_stale() || life != self.life.load(Ordering::Acquire) {
                self.tally.count("older manifests after a push, told to be stale or after a kill");
            } else {
                self.tally.violation(
                    Wrong::Answer,
                    "older manifest after a push",
                    format!("{repository}:{tag}: {}", got.head),
                );
            }
        }
        Some(())
    }

    async fn push_blob(&self, repository: &str, blob: &Blob) -> Option<()> {
        let post = format!(
            "POST /v2/{UPSTREAM}/{repository}/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let got = self.send(&post, b"").await?;
        if got.status != 202 {
            return None;
        }
        let location = got.header("location")?;
        // Absolute or not, it is forebay's own.
        let path = location.find("/v2/").and_then(|at| location.get(at..))?;
        let mark = if path.contains('?') { '&' } else { '?' };
        let put = format!(
            "PUT {path}{mark}digest={} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            blob.digest,
            blob.bytes.len()
        );
        (self.send(&put, &blob.bytes).await?.status == 201).then_some(())
    }

    async fn send(&self, head: &str, content: &[u8]) -> Option<Got> {
        let began = Instant::now();
        let got = http::exchange(self.port, head, content, Pace::Fast).await.ok()?;
        let method = head.split(' ').next().unwrap_or_default();
        self.tally.count("requests");
        self.tally.count(format!("requests {UPSTREAM} {method} {}", got.status));
        self.tally.longest("longest request of a push", began.elapsed(), || format!("{method} {}", got.status));
        (got.status != 0).then_some(got)
    }

    /// In the registry itself.
    async fn must_be_there(&self, repository: &str, kind: &str, blob: &Blob) {
        let request = format!(
            "GET /v2/{repository}/{kind}/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             {ACCEPT}\r\n\r\n",
            blob.digest
        );
        // The registry, too, is killed now and then.
        for _ in 0..50 {
            if let Ok(got) = http::exchange(self.pushed_to, &request, b"", Pace::Fast).await
                && got.complete
            {
                if got.status != 200 || got.body != blob.bytes {
                    self.tally.violation(
                        Wrong::Lost,
                        "lost after a push",
                        format!("{repository} {kind} {}: {}", blob.digest, got.head),
                    );
                }
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.tally.count("pushes that could not be looked for");
    }
}
