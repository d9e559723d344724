//! `kill -9` in the middle of downloads over several connections: a kill loses the chunk of each that is not whole, and
//! what was not written yet.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, When},
    mirror::UPSTREAM,
    program::Program,
    raw::Raw,
    until::until,
};

const MIB: usize = 1024 * 1024;
const LEN: usize = 40 * MIB;
const CONNECTIONS: usize = 4;
/// How many MiB come before each kill. The last ones are more than a kill may cost.
const KILLS: [usize; 4] = [0, 1, 2, 14];

/// At most 4 MB/s for each connection, so that more of them are worth it.
const SLOW: Fault = Fault::Throttle { piece: 32 * 1024, pause: Duration::from_millis(8) };

fn received(metrics: &str) -> usize {
    let line = metrics.lines().find(|line| line.starts_with("forebay_upstream_received_bytes_total{"));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as usize)
}

/// How many chunks lie whole in the file, and how many of them the map does not have.
fn whole_and_lost(part: &Path, content: &Bytes) -> (usize, usize) {
    let file = fs::read(part).unwrap();
    let noted = blob::chunks(part);
    let whole: Vec<_> =
        (0..LEN / MIB).filter(|n| file.get(n * MIB..(n + 1) * MIB) == content.get(n * MIB..(n + 1) * MIB)).collect();
    let lost = whole.iter().filter(|n| noted.get(**n) != Some(&(MIB as u64)));
    (whole.len(), lost.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kill_loses_at_most_a_chunk_of_each_connection() {
    let registry = FakeRegistry::start().await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), SLOW);
    let mut directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = 0\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\nconnections = {CONNECTIONS}\n",
        registry.url()
    );
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    // Bytes: what the upstream sent, what the map has, and what came in vain.
    let (mut all, mut noted, mut lost) = (0, 0, 0);
    for (kill, came) in KILLS.into_iter().enumerate() {
        let program = Program::serve(directory, "info").await;
        registry.forget_requests();
        let _client = Raw::get(program.registry, &path(&digest), &[]).await;
        if kill == 0 {
            // The first worker sends no Range, so there is another one.
            registry.wait_for(|seen| seen.iter().filter(|seen| seen.header("range").is_some()).count() >= 2).await;
        }
        let enough = (came * MIB).min((LEN - noted) / 2);
        until("some of it came", async || received(&program.metrics().await) >= enough).await;
        let came = received(&program.metrics().await);
        directory = program.kill();
        let part = blob::partial(&directory.path().join("cache"), &digest);
        if !part.exists() {
            // On a slow machine, all of it came before the kill.
            assert!(blob::file(&directory.path().join("cache"), &digest).exists());
            all += LEN - noted;
            break;
        }
        let (whole, chunks) = whole_and_lost(&part, &content);
        assert!(chunks <= CONNECTIONS, "kill {kill} loses {chunks} of {whole} chunks");
        let now = usize::try_from(blob::written(&part)).unwrap();
        assert!(now >= noted, "kill {kill} loses what was noted before: {now} of {noted} bytes are left");
        // What came after the count and was noted counts as having come.
        let came = came.max(now - noted);
        let in_vain = came - (now - noted);
        assert!(in_vain <= CONNECTIONS * 3 * MIB, "kill {kill} loses {in_vain} of {came} bytes");
        (all, noted, lost) = (all + came, now, lost + in_vain);
    }
    registry.heal();
    let program = Program::serve(directory, "info").await;
    let end = Raw::get(program.registry, &path(&digest), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    all += received(&program.metrics().await);
    // Where the streams of two connections meet, one may have received a piece too much.
    let most = LEN + lost + CONNECTIONS * MIB / 4;
    assert!(all <= most, "the upstream sent {all} bytes, for {LEN} and {lost} that the kills cost");
    let cache = program.directory().join("cache");
    until("the blob is stored", async || blob::file(&cache, &digest).exists()).await;
    assert_eq!(blob::files(&cache.join("tmp")).len(), 0);
}
