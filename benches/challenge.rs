//! How long forebay takes to parse the challenge of a registry that requires a token.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot run may fail loudly")]

use divan::{Bencher, black_box, counter::BytesCount};
use forebay::upstream::challenge;
use http::HeaderValue;

fn main() {
    divan::main();
}

#[divan::bench(args = [
    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
    r#"Basic realm="registry""#,
    r#"Negotiate, Basic realm="a \"quoted\" realm", Bearer realm="https://ghcr.io/token" , service=ghcr.io, error=invalid_token"#,
])]
fn parse(bencher: Bencher<'_, '_>, text: &str) {
    let value = HeaderValue::from_str(text).unwrap();
    bencher.counter(BytesCount::of_str(text)).bench(|| challenge::parse(std::iter::once(black_box(&value))));
}
