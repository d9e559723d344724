//! Tables for every operation, and for every request that is refused.

use super::*;

#[test]
fn what_is_read() {
    let (digest, tag) = (DIGEST.parse::<Digest>().unwrap(), "1".parse().unwrap());
    let repository: Repository = "a/b".parse().unwrap();
    let manifest = |reference| Operation::Manifest { repository: repository.clone(), reference };
    let referrers = List::Referrers { repository: repository.clone(), digest: digest.clone() };
    for (path, operation) in [
        ("/v2/_catalog?n=5".to_owned(), Operation::List(List::Catalog)),
        ("/v2/a/b/tags/list?n=5&last=x".into(), Operation::List(List::Tags(repository.clone()))),
        ("/v2/a/b/manifests/1".into(), manifest(Reference::Tag(tag))),
        (format!("/v2/a/b/manifests/{DIGEST}"), manifest(Reference::Digest(digest.clone()))),
        (format!("/v2/a/b/manifests/{}", DIGEST.replace(':', "%3a")), manifest(Reference::Digest(digest.clone()))),
        (format!("/v2/a/b/blobs/{DIGEST}"), Operation::Blob { repository: repository.clone(), digest }),
        (format!("/v2/a/b/referrers/{DIGEST}?artifactType=x"), Operation::List(referrers)),
    ] {
        let uri: Uri = path.parse().unwrap();
        for method in [Method::GET, Method::HEAD] {
            let route = resolve(request(&method, &uri)).unwrap();
            let expected = Destination::Upstream("docker.io".into(), operation.clone());
            assert_eq!(route, Route { destination: expected, namespace: None }, "{method} {path}");
        }
    }
    for path in ["/v2/", "/v2"] {
        let expected = Destination::Base(Some("docker.io".into()));
        assert_eq!(get(path), Ok(Route { destination: expected, namespace: None }), "{path}");
    }
}

fn write_of(route: &Route<Name>) -> Option<&Write> {
    match &route.destination {
        Destination::Upstream(_, Operation::Write { write, .. }) => Some(write),
        _ => None,
    }
}

#[test]
fn what_is_written() {
    use Write::{DeleteBlob, DeleteManifest, NotAllowed, PutManifest, Upload};
    let digest: Digest = DIGEST.parse().unwrap();
    let (by_tag, by_digest) = (Reference::Tag("1".parse().unwrap()), Reference::Digest(digest.clone()));
    let (manifest, exact) = ("/v2/a/b/manifests/1".to_owned(), format!("/v2/a/b/manifests/{DIGEST}?tag=1&tag=2"));
    let (blob, session) = (format!("/v2/a/b/blobs/{DIGEST}"), "/v2/a/b/blobs/uploads/5f1c?_state=x".to_owned());
    let begin = Write::Begin(MountSource::Missing);
    for (path, allowed) in [
        (manifest, vec![("PUT", PutManifest(by_tag.clone())), ("DELETE", DeleteManifest(by_tag))]),
        (exact, vec![("PUT", PutManifest(by_digest.clone())), ("DELETE", DeleteManifest(by_digest))]),
        (blob, vec![("DELETE", DeleteBlob(digest))]),
        (session, ["GET", "HEAD", "PATCH", "PUT", "DELETE"].map(|method| (method, Upload)).to_vec()),
        ("/v2/a/b/blobs/uploads/".to_owned(), vec![("POST", begin.clone())]),
        ("/v2/a/b/blobs/uploads".to_owned(), vec![("POST", begin.clone())]),
        (format!("/v2/a/b/blobs/uploads/?digest={DIGEST}"), vec![("POST", begin)]),
        ("/v2/a/b/tags/list".to_owned(), vec![]),
        (format!("/v2/a/b/referrers/{DIGEST}"), vec![]),
    ] {
        let uri: Uri = path.parse().unwrap();
        let uploads = path.contains("/uploads");
        for name in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "MKCOL"] {
            let method: Method = name.parse().unwrap();
            let route = resolve(request(&method, &uri)).unwrap();
            if !uploads && matches!(name, "GET" | "HEAD") {
                assert_eq!(write_of(&route), None, "{name} {path}");
                continue;
            }
            let expected = allowed.iter().find(|(allowed, _)| *allowed == name);
            let expected = expected.map_or(NotAllowed, |(_, write)| write.clone());
            assert_eq!(write_of(&route), Some(&expected), "{name} {path}");
            assert_eq!(route.label(), oci::Operation::Push);
        }
    }
    for path in ["/v2/", "/v2", "/v2/_catalog"] {
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            let uri = path.parse().unwrap();
            assert_eq!(resolve(request(&method, &uri)), Err(RouteError::MethodNotAllowed), "{method} {path}");
        }
    }
}

#[test]
fn a_mount_names_its_source_as_the_client_sees_it() {
    let here = |name: &str| MountSource::Here(name.parse().unwrap());
    for (uri, source) in [
        ("/v2/a/b/blobs/uploads/", MountSource::Missing),
        ("/v2/a/b/blobs/uploads/?mount=x", MountSource::Missing),
        ("/v2/a/b/blobs/uploads/?mount=x&from=a%2Fc", here("a/c")),
        ("/v2/a/b/blobs/uploads/?mount=x&from=docker.io%2Fa%2Fc", here("a/c")),
        ("/v2/a/b/blobs/uploads/?mount=x&from=alpine", here("library/alpine")),
        ("/v2/a/b/blobs/uploads/?mount=x&from=ghcr.io/a/c", MountSource::Elsewhere),
        ("/v2/ghcr.io/a/b/blobs/uploads/?mount=x&from=ghcr.io/a/c", here("a/c")),
        ("/v2/ghcr.io/a/b/blobs/uploads/?mount=x&from=a/c", MountSource::Elsewhere),
        ("/v2/ghcr.io/a/b/blobs/uploads/?mount=x&from=evil.example/a/c", MountSource::Elsewhere),
        ("/v2/a/b/blobs/uploads/?mount=x&from=a/c&ns=ghcr.io", here("a/c")),
        ("/v2/a/b/blobs/uploads/?mount=x&from=c&ns=ghcr.io", here("c")),
        ("/ghcr.io/v2/a/b/blobs/uploads/?mount=x&from=a/c", here("a/c")),
        ("/v2/a/b/blobs/uploads/?mount=x&from=", MountSource::Elsewhere),
        ("/v2/a/b/blobs/uploads/?mount=x&from=../c", MountSource::Elsewhere),
        ("/v2/a/b/blobs/uploads/?mount=x&from=A", MountSource::Elsewhere),
    ] {
        let route = resolve(request(&Method::POST, &uri.parse().unwrap())).unwrap();
        assert_eq!(write_of(&route), Some(&Write::Begin(source)), "{uri}");
    }
}

#[test]
fn what_is_refused() {
    let name = |uri: &str| matches!(get(uri), Err(RouteError::Name(_)));
    for uri in [
        "/v2/A/manifests/1",
        "/v2/a//b/manifests/1",
        "/v2//a/manifests/1",
        "//v2/a/manifests/1",
        "/x//v2/a/manifests/1",
        "/v2/a/manifests/1/",
        "/v2/a/../b/manifests/1",
        "/v2/../v2/a/manifests/1",
        "/../v2/a/manifests/1",
        "/v2/./a/manifests/1",
        "/v2/a/manifests/..",
        "/v2/a/%2e%2e/b/manifests/1",
        "/v2/a/%2E./manifests/1",
        "/v2/a/%252e%252e/manifests/1",
        "/v2/a%252Fb/manifests/1",
        "/v2/a/manifests/1%2525",
        "/v2/a/manifests/%zz",
        "/v2/a/manifests/1%",
        "/v2/a%00/manifests/1",
        "/v2/a/manifests/1%00",
        "/v2/a%5Cb/manifests/1",
        "/v2/a/manifests/..%5c1",
        "/v2/a%0d%0ab/manifests/1",
        "/v2/a%ff/manifests/1",
        "/v2/a%20b/manifests/1",
        "/v2/a..b/manifests/1",
        "/v2/_a/manifests/1",
        "/v2/manifests/1",
        "/v2/tags/list",
        "/v2/a/b:c/manifests/1",
        "/v2/ghcr.io/A/manifests/1",
        "/v2/unknown/x/../y",
    ] {
        assert!(name(uri), "{uri}: {:?}", get(uri));
    }
    assert!(name(&format!("/v2/{}/manifests/1", vec!["a"; 129].join("/"))));
    for uri in ["/v2/a/blobs/sha256:00", "/v2/a/blobs/latest", "/v2/a/manifests/md5:00", "/v2/a/referrers/x"] {
        assert!(matches!(get(uri), Err(RouteError::Digest(_))), "{uri}");
    }
    assert!(matches!(get(&format!("/v2/a/blobs/{}", DIGEST.to_uppercase())), Err(RouteError::Digest(_))));
    assert!(matches!(get(&format!("/v2/a/blobs/{DIGEST}0")), Err(RouteError::Digest(_))));
    for uri in ["/v2/a/manifests/-x", "/v2/a/manifests/.x", "/v2/a/manifests/a+b", "/v2/a/manifests/a%20b"] {
        assert!(matches!(get(uri), Err(RouteError::Tag(_))), "{uri}");
    }
    for uri in [
        "/",
        "/v1/",
        "/v2x/",
        "/favicon.ico",
        "/v2/x",
        "/v2/ghcr.io",
        "/v2/a/_catalog",
        "/v2/ghcr.io/x/_catalog",
        "/v2/a/tags",
        "/v2/a/manifest/1",
        "*",
    ] {
        assert_eq!(get(uri), Err(RouteError::NotFound), "{uri}");
    }
}
