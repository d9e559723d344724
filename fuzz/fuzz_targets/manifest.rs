//! Manifests of schema 2, the payload of signed ones of schema 1, media types and `Accept`.

#![no_main]

use forebay::oci::{Accept, AcceptClass, Content, Manifest, MediaType, schema1_payload};
use http::{HeaderMap, HeaderValue, header::ACCEPT};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        let kind = manifest.media_type().and_then(MediaType::kind);
        let (is_index, descriptors) = match manifest.content {
            Content::Image { config, layers } => (false, [vec![config], layers].concat()),
            Content::Index { manifests } => (true, manifests),
        };
        assert!(kind.is_none_or(|kind| kind.is_index() == is_index));
        assert!(descriptors.iter().all(|descriptor| i64::try_from(descriptor.size).is_ok()));
    }
    if let Some(payload) = schema1_payload(data) {
        assert!(payload.len() <= 2 * data.len());
    }
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    if let Ok(media_type) = MediaType::try_from(&value) {
        assert_eq!(HeaderValue::from(&media_type).as_bytes(), data.trim_ascii());
    }
    let class = Accept::from_headers(&HeaderMap::from_iter([(ACCEPT, value)])).class();
    assert_eq!(class.to_string().parse::<AcceptClass>(), Ok(class));
});
