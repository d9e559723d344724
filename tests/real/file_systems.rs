//! Caches on file systems that refuse RWF_NOWAIT, as that of a container without a volume does: the kernel sends all the same.

use forebay_test_support::{
    real::{download::download, forebay::Forebay, image::Blob, registry::Registry},
    until::until,
};

const LEN: usize = 32_000_001;
/// The end of a blob may be copied.
const SMALL: usize = 32 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_sends_from_caches_on_overlayfs_and_tmpfs() {
    let registry = Registry::open().await;
    let blob = Blob::random(5, LEN);
    registry.store("library/big", &blob);
    let config = format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
    for (mounts, told) in [
        ("mkdir cache && mount -t tmpfs none cache", "yes (all files are in memory)"),
        (
            "mkdir base cache && mount -t tmpfs none base && mkdir base/lower base/upper base/work && \
             mount -t overlay none -o lowerdir=base/lower,upperdir=base/upper,workdir=base/work cache",
            "yes, after a read-ahead",
        ),
    ] {
        let forebay = Forebay::start_on(mounts, &config).await;
        until(told, async || forebay.log().contains(told).then_some(())).await;
        let url = forebay.blob_url("library/big", &blob);
        assert!(download(&url).await.is_whole(&blob.digest), "{mounts}: {}", forebay.log());
        until("the blob is cached", async || {
            (forebay.metric("forebay_fills_in_flight", &[]).await == 0.0).then_some(())
        })
        .await;
        for _ in 0..2 {
            let before = forebay.metric("forebay_sent_by_kernel_bytes_total", &[]).await;
            assert!(download(&url).await.is_whole(&blob.digest), "{mounts}: {}", forebay.log());
            let by_kernel = forebay.metric("forebay_sent_by_kernel_bytes_total", &[]).await - before;
            assert!(by_kernel + SMALL as f64 >= LEN as f64, "{mounts}: {by_kernel} of {LEN}");
        }
    }
}
