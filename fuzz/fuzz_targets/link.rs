//! `Link`: whatever the upstream sends, the client gets a next page of forebay, at the path that the client used.

#![no_main]

use forebay::registry::pagination_link::next_page;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

const PATH: &str = "/v2/team/app/tags/list";

// Each line of the input is a line of the header.
fuzz_target!(|data: &[u8]| {
    let lines: Vec<_> =
        data.split(|&byte| byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    for namespace in [None, Some("ghcr.io")] {
        let Some(next) = next_page(&lines, PATH, namespace) else { continue };
        let next = next.to_str().expect("a link of ours is text");
        let query = next.strip_prefix("</v2/team/app/tags/list?").and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        let query = query.expect("a link leads to the path that the client used");
        assert!(!query.contains(['<', '>', '"', ',', ' ']));
        // The client can parse the link.
        let again = HeaderValue::from_str(next).expect("a link of ours is a header");
        assert!(next_page([&again], PATH, namespace).is_some());
    }
});
