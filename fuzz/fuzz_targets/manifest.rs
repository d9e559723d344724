//! Manifests of schema 2, the payload of signed ones of schema 1, media types and `Accept`.

#![no_main]

use forebay::oci::{Accept, AcceptClass, Content, Manifest, MediaType, schema1_payload};
use http::{HeaderMap, HeaderValue, header::ACCEPT};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        let index = matches!(manifest.content, Content::Index { .. });
        let kind = manifest.media_type().and_then(MediaType::kind);
        assert!(kind.is_none_or(|kind| kind.is_index() == index));
        assert!(manifest.descriptors().all(|descriptor| i64::try_from(descriptor.size).is_ok()));
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
