//! Manifests that are not what their digest says: on the disk, on the way, and in the upstream's own words.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use forebay::oci::{Algorithm, Digest};
use http::Method;

use super::{assert_is, files};
use forebay_test_support::manifest::{OCI_MANIFEST, asked, manifest};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::Mirror,
};

const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const OTHER: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What happens to a file behind forebay's back, and its name.
type Damage = (&'static str, fn(&mut Vec<u8>));

#[tokio::test]
async fn what_is_damaged_on_disk_is_fetched_again_and_never_served() {
    let damages: [Damage; 5] = [
        ("a byte is another one", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("cut short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("longer", |bytes| bytes.push(b' ')),
        ("empty", Vec::clear),
        ("no type", |bytes| bytes[..8].fill(b' ')),
    ];
    for (damage, spoil) in damages {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let mut mirror = Mirror::of(&registry).await;
        mirror.get(&manifest("1")).await;
        mirror.drain().await;
        let kept = files(&mirror.cache_dir().join("manifests"));
        assert_eq!(kept.len(), 1, "{kept:?}");
        let mut bytes = fs::read(&kept[0]).unwrap();
        spoil(&mut bytes);
        fs::write(&kept[0], bytes).unwrap();
        mirror.start().await;
        registry.take_down(Server::Api).await;
        assert_eq!(mirror.get(&manifest(&image.manifest)).await.status, 502, "{damage}");
        assert_eq!(mirror.get(&manifest("1")).await.status, 502, "{damage}");
        registry.bring_up(Server::Api).await;
        for path in [manifest(&image.manifest), manifest("1")] {
            assert_is(&mirror.get(&path).await, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
        }
        assert_eq!(asked(&registry, Method::GET), 2, "{damage}: once at first, once again");
    }
}

#[tokio::test]
async fn bytes_that_do_not_match_are_refused_and_not_kept() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::manifests(), Fault::Corrupt { at: 7 });
    for (path, mismatches) in [(manifest(&image.manifest), 1.0), (manifest("1"), 2.0)] {
        let refused = mirror.get(&path).await;
        assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"));
        assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, mismatches);
    }
    for kind in ["manifests", "tags"] {
        assert!(files(&mirror.cache_dir().join(kind)).is_empty(), "{kind}");
    }
    registry.heal();
    for path in [manifest(&image.manifest), manifest("1")] {
        assert_is(&mirror.get(&path).await, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_manifest() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    for fault in [Fault::Truncate { at: 20 }, Fault::ContentLength(20), Fault::html()] {
        registry.fault_times(2, When::manifests(), fault.clone());
        for path in [manifest(&image.manifest), manifest("1")] {
            let refused = mirror.get(&path).await;
            assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"), "{fault:?}");
        }
    }
    assert_is(&mirror.get(&manifest("1")).await, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
}

#[tokio::test]
async fn a_digest_header_that_lies_about_a_tag_is_a_mismatch() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    registry.fault(When::manifests(), Fault::Header("docker-content-digest", Some(OTHER.to_owned())));
    let refused = mirror.get(&manifest("1")).await;
    assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"));
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 1.0);
    // For a request by digest, the requested digest decides, not the header.
    let head = mirror.head(&manifest(&image.manifest)).await;
    assert_eq!((head.status, head.header("docker-content-digest")), (200, Some(image.manifest.as_str())));
    assert_is(&mirror.get(&manifest(&image.manifest)).await, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
}

#[tokio::test]
async fn without_a_digest_header_the_bytes_decide() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror = Mirror::of(&registry).await;
    for said in [None, Some("nonsense".to_owned())] {
        registry.fault(When::manifests(), Fault::Header("docker-content-digest", said));
        assert_is(&mirror.get(&manifest("1")).await, OCI_MANIFEST, &image.manifest, &image.manifest_bytes);
    }
}

/// A schema 1 manifest as libtrust signs it, and the digest of what is signed.
fn signed(payload: &str) -> (String, Digest) {
    let head = payload.strip_suffix("\n}").unwrap();
    let protected = serde_json::json!({ "formatLength": head.len(), "formatTail": URL_SAFE_NO_PAD.encode("\n}") });
    let signature =
        serde_json::json!([{ "signature": "AAAA", "protected": URL_SAFE_NO_PAD.encode(protected.to_string()) }]);
    (format!("{head},\n   \"signatures\": {signature}\n}}"), Digest::of(Algorithm::Sha256, payload.as_bytes()))
}

#[tokio::test]
async fn a_signed_manifest_is_named_by_what_is_signed() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (document, digest) =
        signed("{\n   \"schemaVersion\": 1,\n   \"name\": \"team/app\",\n   \"fsLayers\": [],\n   \"history\": []\n}");
    let answer = |body: &str| {
        let headers = vec![("content-type", SIGNED.to_owned()), ("docker-content-digest", digest.to_string())];
        Fault::Answer { status: 200, headers, body: body.to_owned() }
    };
    registry.fault_times(2, When::manifests(), answer(&document.replace("team/app", "team/bad")));
    for path in [manifest(&digest), manifest("1")] {
        assert_eq!(mirror.get(&path).await.status, 502, "what is signed was changed");
    }
    registry.fault(When::manifests(), answer(&document));
    for path in [manifest("1"), manifest(&digest)] {
        assert_is(&mirror.get(&path).await, SIGNED, &digest, document.as_bytes());
    }
    registry.take_down(Server::Api).await;
    mirror.restart().await;
    for path in [manifest("1"), manifest(&digest)] {
        assert_is(&mirror.get(&path).await, SIGNED, &digest, document.as_bytes());
    }
}

/// A captive portal, or a load balancer whose registry is down.
#[tokio::test]
async fn a_page_in_the_place_of_a_tag_is_an_outage() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let mirror =
        Mirror::build(&registry).config(|config| config.cache.tag_ttl = std::time::Duration::ZERO).start().await;
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    for media_type in ["application/json", "application/vnd.oci.image.index.v1+json", "text/plain", "application/xml"] {
        for body in [r#"{"login":"https://sso.example/"}"#, "{}", "[]", "", "busy", "<busy/>"] {
            let headers = vec![("content-type", media_type.to_owned())];
            registry.fault(When::manifests(), Fault::Answer { status: 200, headers, body: body.to_owned() });
            for method in [Method::GET, Method::HEAD] {
                let stale = mirror.request(method, "/v2/team/app/manifests/1", &[]).await;
                assert_eq!(stale.status, 200, "{media_type} {body}");
                assert_eq!(stale.header("docker-content-digest"), Some(image.manifest.as_str()), "{media_type} {body}");
            }
            assert_eq!(mirror.get("/v2/team/app/manifests/2").await.status, 502, "{media_type} {body}");
            registry.heal();
        }
    }
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.body, image.manifest_bytes);
}
