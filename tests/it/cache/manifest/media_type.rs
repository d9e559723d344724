//! The digest does not cover the type: no upstream decides it for the clients of another.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use forebay::oci::{Algorithm, Digest};
use http::Method;

use super::files;
use forebay_test_support::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use forebay_test_support::{
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::Mirror,
};

const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

async fn mirror_of(good: &FakeRegistry, evil: &FakeRegistry) -> Mirror {
    let upstream = |name: &str, registry: &FakeRegistry| {
        format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{}\"]\n", registry.url())
    };
    Mirror::parse(&format!("{}default = true\n{}", upstream("good.example", good), upstream("evil.example", evil)))
        .start()
        .await
}

fn good(reference: impl std::fmt::Display) -> String {
    format!("/v2/team/app/manifests/{reference}")
}

fn evil(reference: impl std::fmt::Display) -> String {
    format!("/v2/evil.example/team/app/manifests/{reference}")
}

fn answer(media_type: &str, digest: &Digest, body: &str) -> Fault {
    let headers = vec![("content-type", media_type.to_owned()), ("docker-content-digest", digest.to_string())];
    Fault::Answer { status: 200, headers, body: body.to_owned() }
}

async fn assert_good(mirror: &Mirror, reference: &str, media_type: &str, content: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let told = mirror.request(method.clone(), &good(reference), &[]).await;
        assert_eq!((told.status, told.header("content-type")), (200, Some(media_type)), "{method} {reference}");
        assert!(method == Method::HEAD || told.body == content, "other bytes");
    }
}

#[tokio::test]
async fn another_upstreams_type_for_the_same_bytes_is_refused() {
    let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let text = std::str::from_utf8(&image.manifest_bytes).unwrap();
    let mut mirror = mirror_of(&registry, &hostile).await;
    mirror.get(&good(1)).await;
    for media_type in [OCI_INDEX, DOCKER_MANIFEST, SIGNED] {
        hostile.heal();
        hostile.fault(When::manifests(), answer(media_type, &image.manifest, text));
        let refused = mirror.get_with(&evil(1), &[("accept", media_type)]).await;
        assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"), "{media_type}");
        for accept in [media_type, OCI_MANIFEST, "*/*"] {
            mirror.get_with(&evil(&image.manifest), &[("accept", accept)]).await;
        }
        for reference in ["1", image.manifest.as_str()] {
            assert_good(&mirror, reference, OCI_MANIFEST, &image.manifest_bytes).await;
        }
    }
    mirror.restart().await;
    for reference in ["1", image.manifest.as_str()] {
        assert_good(&mirror, reference, OCI_MANIFEST, &image.manifest_bytes).await;
    }
}

#[tokio::test]
async fn a_header_that_is_no_manifest_type_says_nothing() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (number, said) in
        ["text/plain", "application/json; charset=utf-8", "application/octet-stream"].iter().enumerate()
    {
        let image = registry.add_image("team/app", &number.to_string(), &[b"layer"]);
        registry.heal();
        registry.fault(When::manifests(), Fault::Header("content-type", Some((*said).to_owned())));
        assert_good(&mirror, image.manifest.as_str(), OCI_MANIFEST, &image.manifest_bytes).await;
    }
}

/// Some registries give any blob by way of its manifests, under the type it has.
#[tokio::test]
async fn an_images_configuration_is_not_taken_for_its_manifest() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (number, kind) in
        ["application/vnd.oci.image.config.v1+json", "application/octet-stream"].into_iter().enumerate()
    {
        for config in [r#"{"Cmd":["a"]}"#, "{}"] {
            let text = format!(r#"{{"architecture":"amd64","x":{number},"config":{config},"rootfs":{{}}}}"#);
            let digest = registry.add_manifest("team/app", kind, text.clone());
            assert_good(&mirror, digest.as_str(), kind, text.as_bytes()).await;
        }
    }
}

/// A registry, or a cache before it, that calls everything text/html: the content tells, and by tag it has to.
#[tokio::test]
async fn a_right_manifest_is_served_though_called_html() {
    for kind in ["text/html", "text/html; charset=utf-8", "application/xhtml+xml"] {
        let registry = FakeRegistry::start().await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        registry.fault(When::manifests(), Fault::Header("content-type", Some(kind.to_owned())));
        for method in [Method::GET, Method::HEAD] {
            let mirror = Mirror::of(&registry).await;
            for reference in [image.manifest.as_str(), "1"] {
                let told = mirror.request(method.clone(), &good(reference), &[]).await;
                assert_eq!((told.status, told.header("content-type")), (200, Some(OCI_MANIFEST)), "{method} {kind}");
                assert_good(&mirror, reference, OCI_MANIFEST, &image.manifest_bytes).await;
            }
        }
        // What says no type itself gets none of such a header, and another content is refused.
        let mirror = Mirror::of(&registry).await;
        let unsaid = registry.add_manifest("team/app", OCI_MANIFEST, "{\"layers\":[]}");
        assert_good(&mirror, unsaid.as_str(), OCI_MANIFEST, b"{\"layers\":[]}").await;
        let other = registry.add_image("team/app", "2", &[b"other"]);
        for body in ["<html>please log in</html>", "{\"login\":true}", ""] {
            registry.heal();
            registry.fault(When::manifests(), answer(kind, &other.manifest, body));
            for reference in [other.manifest.as_str(), "2"] {
                let refused = mirror.get(&good(reference)).await;
                assert_eq!((refused.status, &*refused.error_code()), (502, "UNAVAILABLE"), "{body} {kind}");
                assert_eq!(mirror.head(&good(reference)).await.status, 502, "{body} {kind}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrapper_that_hashes_to_a_manifest_is_no_manifest() {
    let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let text = std::str::from_utf8(&image.manifest_bytes).unwrap();
    let (head, tail) = text.split_at(text.len() - 1);
    let protected = serde_json::json!({ "formatLength": head.len(), "formatTail": URL_SAFE_NO_PAD.encode(tail) });
    let signatures = serde_json::json!([{ "protected": URL_SAFE_NO_PAD.encode(protected.to_string()) }]);
    let wrapper = format!("{head},\"signatures\":{signatures}}}");
    hostile.fault(When::manifests(), answer(SIGNED, &image.manifest, &wrapper));
    let mut mirror = mirror_of(&registry, &hostile).await;
    for path in [evil(1), evil(&image.manifest)] {
        assert_eq!(mirror.get(&path).await.status, 502);
    }
    mirror.get(&good(1)).await;
    // What an earlier version may have kept.
    mirror.drain().await;
    let kept = files(&mirror.cache_dir().join("manifests"));
    fs::write(&kept[0], format!("{SIGNED}\n{wrapper}")).unwrap();
    mirror.start().await;
    assert_good(&mirror, image.manifest.as_str(), OCI_MANIFEST, &image.manifest_bytes).await;
    // And the same bytes under another type.
    mirror.drain().await;
    fs::write(&kept[0], format!("{OCI_INDEX}\n{text}")).unwrap();
    registry.take_down(Server::Api).await;
    mirror.start().await;
    assert_good(&mirror, image.manifest.as_str(), OCI_MANIFEST, &image.manifest_bytes).await;
}

/// The digest covers the type that a document says, which counts more than the head that it comes with.
#[tokio::test]
async fn by_digest_a_documents_own_type_outweighs_the_head() {
    let document = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    for header in [DOCKER_MANIFEST, OCI_MANIFEST, "text/plain"] {
        let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let digest = registry.add_manifest("team/app", header, document.clone());
        let mut mirror = mirror_of(&registry, &hostile).await;
        for _ in 0..2 {
            assert_good(&mirror, digest.as_str(), OCI_INDEX, document.as_bytes()).await;
            mirror.restart().await;
        }
    }
}

/// Docker's schema 2 has the same shapes; what is inside tells it apart, where the document has no `mediaType`.
#[tokio::test]
async fn a_docker_manifest_without_media_type_is_served_as_one() {
    const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let digest = "a".repeat(64);
    let descriptor = |kind: &str| format!(r#"{{"mediaType":"{kind}","size":1,"digest":"sha256:{digest}"}}"#);
    let config = descriptor("application/vnd.docker.container.image.v1+json");
    let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip");
    let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
    let list = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(DOCKER_MANIFEST));
    for (document, header, expected) in [
        (&image, DOCKER_MANIFEST, Some(DOCKER_MANIFEST)),
        (&image, "application/json", Some(DOCKER_MANIFEST)),
        (&image, OCI_MANIFEST, Some(OCI_MANIFEST)),
        (&image, DOCKER_LIST, None),
        (&list, DOCKER_LIST, Some(DOCKER_LIST)),
        (&list, "text/plain", Some(DOCKER_LIST)),
        (&list, OCI_INDEX, Some(OCI_INDEX)),
        (&list, DOCKER_MANIFEST, None),
    ] {
        let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let digest = registry.add_manifest("team/app", header, document.clone());
        registry.tag("team/app", "1", &digest);
        // Another upstream's word for the same bytes stays its own.
        for kind in [OCI_MANIFEST, OCI_INDEX] {
            hostile.fault(When::manifests(), answer(kind, &digest, document));
        }
        let mut mirror = mirror_of(&registry, &hostile).await;
        for _ in 0..2 {
            mirror.get(&evil(&digest)).await;
            for reference in ["1", digest.as_str()] {
                match expected {
                    Some(expected) => assert_good(&mirror, reference, expected, document.as_bytes()).await,
                    None => assert_eq!(mirror.get(&good(reference)).await.status, 502, "{header} {document}"),
                }
            }
            mirror.restart().await;
        }
    }
}

/// What the digest does not cover, signatures or the type, each upstream's clients have from their own, also in its outage.
#[tokio::test]
async fn another_upstream_keeps_no_signed_manifest_from_the_disk() {
    let payload =
        "{\n   \"schemaVersion\": 1,\n   \"name\": \"team/app\",\n   \"fsLayers\": [],\n   \"history\": []\n}";
    let head = payload.strip_suffix("\n}").unwrap();
    let signed = |by: &str| {
        let protected = serde_json::json!({ "formatLength": head.len(), "formatTail": URL_SAFE_NO_PAD.encode("\n}") });
        let protected = URL_SAFE_NO_PAD.encode(protected.to_string());
        format!("{head},\n   \"signatures\": {}\n}}", serde_json::json!([{ "signature": by, "protected": protected }]))
    };
    let config = format!(r#"{{"mediaType":"application/vnd.docker.a","size":1,"digest":"sha256:{}"}}"#, "a".repeat(64));
    let untyped = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
    for (digest, [ours, theirs], kinds) in [
        (Digest::of(Algorithm::Sha256, payload.as_bytes()), [signed("AAAA"), signed("BBBB")], [SIGNED, SIGNED]),
        (
            Digest::of(Algorithm::Sha256, untyped.as_bytes()),
            [untyped.clone(), untyped.clone()],
            [DOCKER_MANIFEST, OCI_MANIFEST],
        ),
    ] {
        for evil_first in [true, false] {
            let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
            registry.fault(When::manifests(), answer(kinds[0], &digest, &ours));
            hostile.fault(When::manifests(), answer(kinds[1], &digest, &theirs));
            let mut mirror = mirror_of(&registry, &hostile).await;
            let is = async |mirror: &Mirror, path: String, upstream: usize| {
                let got = mirror.get(&path).await;
                assert_eq!(
                    (got.status, got.header("content-type")),
                    (200, Some(kinds[upstream])),
                    "{path} {evil_first}"
                );
                assert_eq!(got.text(), [&ours, &theirs][upstream], "{path} {evil_first}");
            };
            let order = if evil_first { [1, 0] } else { [0, 1] };
            for upstream in order {
                for reference in ["1", digest.as_str()] {
                    is(&mirror, [good(reference), evil(reference)][upstream].clone(), upstream).await;
                }
            }
            registry.take_down(Server::Api).await;
            hostile.take_down(Server::Api).await;
            mirror.restart().await;
            for upstream in order {
                for reference in ["1", digest.as_str()] {
                    is(&mirror, [good(reference), evil(reference)][upstream].clone(), upstream).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_tag_has_the_type_that_was_said_of_it() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry, &FakeRegistry::start().await).await;
    let text = "{\"schemaVersion\":2,\"layers\":[]}";
    let digest = registry.add_manifest("team/app", "application/vnd.first", text);
    registry.tag("team/app", "1", &digest);
    registry.fault(When::path_of("/manifests/2"), answer("application/vnd.second", &digest, text));
    for _ in 0..2 {
        for (tag, media_type) in [("1", "application/vnd.first"), ("2", "application/vnd.second")] {
            assert_good(&mirror, tag, media_type, text.as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn what_a_document_does_not_say_each_upstream_says_for_itself() {
    let (registry, hostile) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let text = "{\"schemaVersion\":2,\"layers\":[]}";
    let digest = registry.add_manifest("team/app", "application/vnd.good", text);
    registry.tag("team/app", "1", &digest);
    hostile.fault(When::manifests(), answer("application/vnd.evil", &digest, text));
    let mut mirror = mirror_of(&registry, &hostile).await;
    for path in [evil(1), evil(&digest)] {
        assert_eq!(mirror.get(&path).await.header("content-type"), Some("application/vnd.evil"));
    }
    for _ in 0..2 {
        for reference in ["1", digest.as_str()] {
            assert_good(&mirror, reference, "application/vnd.good", text.as_bytes()).await;
        }
        mirror.restart().await;
    }
    registry.take_down(Server::Api).await;
    assert_good(&mirror, "1", "application/vnd.good", text.as_bytes()).await;
    assert_eq!(mirror.get(&evil(&digest)).await.header("content-type"), Some("application/vnd.evil"));
}

/// Under the same name, other URLs lead to another registry.
#[tokio::test]
async fn a_former_registrys_type_is_none_of_the_next_one() {
    let text = "{\"schemaVersion\":2,\"layers\":[]}";
    for restarts in [false, true] {
        let (former, next) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let digest = former.add_manifest("team/app", "application/vnd.former", text);
        next.add_manifest("team/app", "application/vnd.next", text);
        for registry in [&former, &next] {
            registry.tag("team/app", "1", &digest);
        }
        let mut mirror = mirror_of(&former, &FakeRegistry::start().await).await;
        let change = async |mirror: &mut Mirror, urls: Vec<url::Url>| {
            if restarts {
                return mirror.restart_with(|config| config.upstreams[0].urls = urls).await;
            }
            let mut config = mirror.config().clone();
            config.upstreams[0].urls = urls;
            mirror.app().reload(config).unwrap();
        };
        assert_good(&mirror, "1", "application/vnd.former", text.as_bytes()).await;
        // A mirror of it more.
        let down = FakeRegistry::start().await;
        down.take_down(Server::Api).await;
        former.take_down(Server::Api).await;
        change(&mut mirror, vec![down.url(), former.url()]).await;
        for reference in ["1", digest.as_str()] {
            assert_good(&mirror, reference, "application/vnd.former", text.as_bytes()).await;
        }
        next.take_down(Server::Api).await;
        change(&mut mirror, vec![next.url()]).await;
        for reference in ["1", digest.as_str()] {
            for method in [Method::GET, Method::HEAD] {
                let refused = mirror.request(method, &good(reference), &[]).await;
                assert_eq!(refused.status, 502, "{reference} {restarts}");
            }
        }
        next.bring_up(Server::Api).await;
        for reference in [digest.as_str(), "1"] {
            assert_good(&mirror, reference, "application/vnd.next", text.as_bytes()).await;
        }
        next.take_down(Server::Api).await;
        change(&mut mirror, vec![next.url()]).await;
        for reference in [digest.as_str(), "1"] {
            assert_good(&mirror, reference, "application/vnd.next", text.as_bytes()).await;
        }
    }
}
