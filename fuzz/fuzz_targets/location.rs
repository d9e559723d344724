//! `Location` of an upload: whatever the upstream sends, the upload continues at the configured origin.

#![no_main]

use forebay::upstream::upload_location::{target_of, url_of};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|data: &[u8]| {
    let Ok(location) = HeaderValue::from_bytes(data) else { return };
    for base in ["https://ghcr.io/p", "http://[::1]:5000"] {
        let base = Url::parse(base).expect("a URL of ours");
        let asked = base.join("/v2/a/blobs/uploads/").expect("a URL of ours");
        let Ok(target) = target_of(&base, &asked, &location) else { continue };
        assert!(target.starts_with('/'));
        let url = url_of(&base, &target).expect("what was taken is asked");
        assert_eq!(url.origin(), base.origin());
        assert!(url.username().is_empty() && url.password().is_none());
    }
    // Only forebay makes a sealed target; it is judged all the same.
    let base = Url::parse("https://ghcr.io").expect("a URL of ours");
    if let Ok(url) = location.to_str().map_err(drop).and_then(|target| url_of(&base, target).map_err(drop)) {
        assert_eq!(url.origin(), base.origin());
    }
});
