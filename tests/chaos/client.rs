//! One of the clients: asks for this and that in its own manner, and compares what it got with the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    dice::Dice,
    goods::{Good, Goods},
    http::{self, Got, Pace},
    http2,
    proxy::Proxy,
    rot::Rot,
    tally::{Tally, Wrong},
};
use forebay_test_support::real::image::digest;

/// docker-registry has no manifest for a client that does not say that it takes its type.
pub const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json";

pub const STALL_OF_HEALTHY: &str = "longest stall of a client of the healthy upstream";
pub const STALL_OF_SICK: &str = "longest stall of a client of a sick upstream";

/// For so long forebay remembers a refusal, and some more.
const REMEMBERED: Duration = Duration::from_secs(5);

pub struct World {
    pub seed: u64,
    pub port: u16,
    pub goods: Goods,
    pub proxies: Vec<Proxy>,
    pub tally: Arc<Tally>,
    pub rot: Rot,
    pub stop: AtomicBool,
    /// Odd while forebay is down.
    pub life: AtomicU64,
    /// The registry that pushes go to.
    pub pushed_to: u16,
    /// Upstreams to ask, in the proportion in which they are here.
    pub upstreams: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Whole,
    Old,
    Http2,
    Slow,
    Aborted,
    Range,
    Tag,
    Head,
    Missing,
    List,
}

const MANNERS: [Manner; 16] = [
    Manner::Whole,
    Manner::Whole,
    Manner::Whole,
    Manner::Whole,
    Manner::Old,
    Manner::Http2,
    Manner::Http2,
    Manner::Slow,
    Manner::Aborted,
    Manner::Range,
    Manner::Range,
    Manner::Range,
    Manner::Tag,
    Manner::Head,
    Manner::Missing,
    Manner::List,
];

pub async fn run(world: Arc<World>, number: u64) {
    let mut dice = Dice::new(world.seed, ("client", number));
    while !world.stop.load(Ordering::Relaxed) {
        let upstream = *dice.one_of(&world.upstreams);
        let manner = *dice.one_of(&MANNERS);
        let good = world.goods.of(&mut dice, upstream);
        if world.ask(&mut dice, good, manner).await.is_none() {
            // forebay is down.
            world.tally.count("requests without a connection");
            sleep(Duration::from_millis(100)).await;
        }
        // Clients that all ask without a pause would only measure the machine.
        sleep(Duration::from_millis(dice.below(200))).await;
    }
}

impl World {
    /// `None`: there was no connection.
    async fn ask(&self, dice: &mut Dice, good: &Good, manner: Manner) -> Option<()> {
        let began = Instant::now();
        let life = self.life.load(Ordering::Acquire);
        let path = good.path();
        let size = good.blob.bytes.len();
        let get =
            |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}\r\nConnection: close\r\n\r\n");
        let got = match manner {
            Manner::Whole => http::exchange(self.port, &get(&path), b"", Pace::Fast).await,
            Manner::Old => {
                http::exchange(self.port, &format!("GET {path} HTTP/1.0\r\n{ACCEPT}\r\n\r\n"), b"", Pace::Fast).await
            }
            Manner::Http2 => http2::get(self.port, &path).await,
            Manner::Slow => http::exchange(self.port, &get(&path), b"", Pace::Slow(size / 20 + 1)).await,
            Manner::Aborted => {
                let after = dice.below(size as u64) as usize;
                http::exchange(self.port, &get(&path), b"", Pace::Abort(after)).await
            }
            Manner::Range => return self.ask_for_range(dice, good, began).await,
            Manner::Tag => {
                let Some(tagged) = self.goods.all.iter().find(|g| g.upstream == good.upstream && g.tag.is_some())
                else {
                    return Some(());
                };
                let tag = tagged.tag.as_deref().unwrap_or_default();
                let path = format!("/v2/{}/{}/manifests/{tag}", tagged.upstream, tagged.repository);
                let got = http::exchange(self.port, &get(&path), b"", Pace::Fast).await.ok()?;
                self.judge(tagged, manner, &got, began);
                return Some(());
            }
            Manner::Head => {
                let head = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}\r\nConnection: close\r\n\r\n");
                let got = http::exchange(self.port, &head, b"", Pace::Fast).await.ok()?;
                if got.status == 200 && got.header("content-length") != Some(&*size.to_string()) && !self.may_lie(good)
                {
                    self.tally.violation(Wrong::Answer, "wrong length of a HEAD", format!("{path}: {}", got.head));
                }
                self.note(good, manner, &got);
                self.judge_status(good, manner, &got, began);
                return Some(());
            }
            Manner::Missing => {
                let path = format!("/v2/{}/{}/manifests/none{}", good.upstream, good.repository, dice.below(1000));
                let got = http::exchange(self.port, &get(&path), b"", Pace::Fast).await.ok()?;
                if got.status == 200 {
                    self.tally.violation(Wrong::Answer, "a tag that there is not", format!("{path}: {}", got.head));
                }
                self.note(good, manner, &got);
                return Some(());
            }
            Manner::List => {
                let path = format!("/v2/{}/{}/tags/list", good.upstream, good.repository);
                let got = http::exchange(self.port, &get(&path), b"", Pace::Fast).await.ok()?;
                self.note(good, manner, &got);
                return Some(());
            }
        }
        .ok()?;
        if manner != Manner::Slow && life == self.life.load(Ordering::Acquire) {
            let what = if good.upstream == "healthy.test" { STALL_OF_HEALTHY } else { STALL_OF_SICK };
            let detail = || format!("{manner:?} {path} {} after {:?}", got.status, began.elapsed());
            self.tally.longest(what, got.stall, detail);
        }
        self.judge(good, manner, &got, began);
        Some(())
    }

    async fn ask_for_range(&self, dice: &mut Dice, good: &Good, began: Instant) -> Option<()> {
        let size = good.blob.bytes.len() as u64;
        let first = dice.below(size);
        let last = first + dice.below(size - first);
        let path = good.path();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}\r\nRange: bytes={first}-{last}\r\nConnection: close\r\n\r\n"
        );
        let got = http::exchange(self.port, &request, b"", Pace::Fast).await.ok()?;
        if got.status == 206 && got.complete {
            let right = good.blob.bytes.get(first as usize..=last as usize).unwrap_or_default();
            if got.header("content-range") != Some(&*format!("bytes {first}-{last}/{size}")) && !self.may_lie(good) {
                self.tally.violation(
                    Wrong::Answer,
                    "wrong Content-Range",
                    format!("{path} {first}-{last}: {}", got.head),
                );
            } else if got.body == right {
                self.tally.count("parts that were right");
            } else if self.rot.explains(&good.blob.digest, began) {
                self.tally.count("wrong parts of a blob that this test damaged");
            } else if self.rot.has_damaged_a_part_since(&good.blob.digest, began) {
                self.tally.count("wrong parts that this test damaged on their way");
            } else if !got.is_hit() && self.rot.has_damaged_a_part_of(&good.blob.digest) {
                self.tally.count("wrong parts of a download that goes on with a part that this test damaged");
            } else if !got.is_hit() && self.may_lie(good) {
                self.tally.count("wrong parts of a download in flight");
            } else {
                self.tally.violation(Wrong::Answer, "wrong part", format!("{path} {first}-{last}: {}", got.head));
            }
            self.note(good, Manner::Range, &got);
        } else {
            self.judge(good, Manner::Range, &got, began);
        }
        Some(())
    }

    /// Some line has sent wrong bytes of this.
    fn may_lie(&self, good: &Good) -> bool {
        self.proxies.iter().any(|proxy| proxy.has_lied_about(&good.blob.digest))
    }

    fn note(&self, good: &Good, manner: Manner, got: &Got) {
        let outcome = match got.status {
            0 => "no answer".to_owned(),
            status => format!("{status}{}", if got.complete { "" } else { ", broken off" }),
        };
        self.tally.count(format!("requests {} {outcome}", good.upstream));
        self.tally.count(format!("manner {manner:?}"));
        self.tally.count("requests");
        self.tally.add("bytes", got.body.len() as u64);
    }

    /// What there is may be out of reach, but no client is to be told that its request is wrong.
    fn judge_status(&self, good: &Good, manner: Manner, got: &Got, began: Instant) {
        let right = match got.status {
            // The sick upstreams are the others' trouble.
            400.. if good.upstream == "healthy.test" => false,
            // The upstream told a length that is too short, and what comes is not whole yet.
            416 if !got.is_hit() && self.may_lie(good) => true,
            400 | 404 | 405 | 416 => false,
            // An upstream refuses a Range with it, which is no answer to a client; and the whole, which is one.
            403 => {
                let refused =
                    |proxy: &Proxy| good.names().any(|name| proxy.has_refused_since(name, began - REMEMBERED));
                self.proxies.iter().any(refused)
            }
            _ => true,
        };
        if !right {
            let body = String::from_utf8_lossy(got.body.get(..got.body.len().min(300)).unwrap_or_default());
            let what = format!("{manner:?} {}: {} {body}", good.path(), got.head);
            self.tally.violation(Wrong::Refusal, &format!("{} of what there is", got.status), what);
        }
    }

    fn judge(&self, good: &Good, manner: Manner, got: &Got, began: Instant) {
        self.note(good, manner, got);
        self.judge_status(good, manner, got, began);
        if got.status != 200 || !got.complete {
            return;
        }
        if digest(&got.body) == good.blob.digest {
            self.tally.count("whole bodies that were right");
        } else if self.rot.explains(&good.blob.digest, began) {
            self.tally.count("wrong bodies of a blob that this test damaged");
        } else if self.rot.has_damaged_a_part_since(&good.blob.digest, began) {
            self.tally.count("wrong bodies that this test damaged on their way");
        } else {
            let length = got.body.len();
            self.tally.violation(
                Wrong::Answer,
                "wrong answer",
                format!("{manner:?} {} ({length} bytes): {}", good.path(), got.head),
            );
        }
    }

    /// When all is well again: whether it can be had, within so many tries.
    pub async fn can_be_had(&self, good: &Good) -> Result<(), String> {
        let path = good.path();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{ACCEPT}\r\nConnection: close\r\n\r\n");
        let mut last = String::new();
        for _ in 0..40 {
            let began = Instant::now();
            match http::exchange(self.port, &request, b"", Pace::Fast).await {
                Ok(got) => {
                    self.judge(good, Manner::Whole, &got, began);
                    if got.status == 200 && got.complete {
                        return Ok(());
                    }
                    let end = if got.complete { "complete" } else { "broken off" };
                    last = format!(
                        "{end} after {} bytes: {} {}",
                        got.body.len(),
                        got.head,
                        String::from_utf8_lossy(got.body.get(..got.body.len().min(300)).unwrap_or_default())
                    );
                }
                Err(error) => last = error.to_string(),
            }
            sleep(Duration::from_secs(1)).await;
        }
        Err(last)
    }
}
