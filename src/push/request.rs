//! The request to the upstream for a client's change (pure).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, Uri, header, request::Parts};

use super::{Push, Seal, session::Session};
use crate::{
    error::ErrorKind,
    oci::query,
    route::{MountSource, Write},
    upstream::{self, WriteAction, WriteTarget},
};

/// The query parameter with the sealed state of an upload.
pub(super) const STATE: &str = "_state";

/// The headers that forebay forwards. All others concern only the client and forebay.
const FORWARDED_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_RANGE, header::ACCEPT];

/// The request to the upstream, and the number of its upload's capture.
///
/// # Errors
/// The upload was not begun through forebay, or the endpoint does not support the method.
pub(super) fn of<'a>(push: Push<'a>, seal: &Seal) -> Result<(upstream::WriteRequest<'a>, Option<u64>), ErrorKind> {
    let (Parts { method, uri, .. }, repository) = (push.head, push.repository);
    let mut capture = None;
    let push_alone = WriteAction::Push { from: None };
    let (target, action) = match push.write {
        Write::Begin(source) => {
            let from = match source {
                MountSource::Here(from) => Some(from.clone()),
                MountSource::Missing | MountSource::Elsewhere => None,
            };
            (
                WriteTarget::Path(query::append(format!("{repository}/blobs/uploads/"), &mount_query(uri, source))),
                WriteAction::Push { from },
            )
        }
        Write::Upload => {
            let sealed = query::parameter(uri, STATE).ok_or(ErrorKind::UploadUnknown)?;
            let session =
                Session::open(push.upstream.name(), repository, &sealed, seal).ok_or(ErrorKind::UploadUnknown)?;
            capture = session.capture;
            let action = if *method == Method::DELETE { WriteAction::Delete } else { push_alone };
            (WriteTarget::UploadSession(with_query(session.target, uri)), action)
        }
        Write::PutManifest(reference) => {
            (WriteTarget::Path(with_query(format!("{repository}/manifests/{reference}"), uri)), push_alone)
        }
        Write::DeleteManifest(reference) => {
            (WriteTarget::Path(with_query(format!("{repository}/manifests/{reference}"), uri)), WriteAction::Delete)
        }
        Write::DeleteBlob(digest) => {
            (WriteTarget::Path(with_query(format!("{repository}/blobs/{digest}"), uri)), WriteAction::Delete)
        }
        Write::NotAllowed => return Err(ErrorKind::MethodNotAllowed),
    };
    let headers: HeaderMap = FORWARDED_HEADERS
        .iter()
        .flat_map(|name| push.head.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())))
        .collect();
    Ok((upstream::WriteRequest { method: method.clone(), repository, target, action, headers }, capture))
}

/// The query, with the source of a mount as the upstream spells it; without the mount if the upstream has no such
/// repository.
fn mount_query(uri: &Uri, source: &MountSource) -> String {
    match source {
        MountSource::Missing => query::encode(forwarded(uri, &[])),
        MountSource::Elsewhere => query::encode(forwarded(uri, &["mount", "from"])),
        MountSource::Here(from) => {
            let named = ("from".into(), from.as_str().into());
            query::encode(forwarded(uri, &["from"]).chain(std::iter::once(named)))
        }
    }
}

/// The client's query parameters, without those that concern only the client and forebay, and without `others`.
fn forwarded<'a>(uri: &'a Uri, others: &[&str]) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
    let is_forwarded = |key: &str| key != query::NAMESPACE && key != STATE && !others.contains(&key);
    query::pairs_of(uri).filter(move |(key, _)| is_forwarded(key))
}

/// A path at the upstream, with the client's query.
fn with_query(path: String, uri: &Uri) -> String {
    query::append(path, &query::encode(forwarded(uri, &[])))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::{
        oci::{Algorithm, Digest},
        push::fixture::Fixture,
    };

    fn ask(seal: &Seal, write: &Write, method: &Method, uri: &str) -> Result<(WriteTarget, WriteAction), ErrorKind> {
        let fixture = Fixture::new(method, uri);
        of(fixture.push(write), seal).map(|(request, _)| (request.target, request.action))
    }

    #[test]
    fn each_change_has_its_target_and_its_action() {
        let seal = Seal::for_test();
        let digest = Digest::of(Algorithm::Sha256, b"");
        let push = || WriteAction::Push { from: None };
        let from = |name: &str| WriteAction::Push { from: Some(name.parse().unwrap()) };
        let here = |name: &str| Write::Begin(MountSource::Here(name.parse().unwrap()));
        let put = |reference: &str| Write::PutManifest(reference.parse().unwrap());
        for (write, method, query, place, need) in [
            (Write::Begin(MountSource::Missing), Method::POST, "", "team/app/blobs/uploads/", push()),
            (
                Write::Begin(MountSource::Missing),
                Method::POST,
                "?digest=sha256:0&ns=hub",
                "team/app/blobs/uploads/?digest=sha256%3A0",
                push(),
            ),
            (
                here("c/d"),
                Method::POST,
                "?mount=x&from=hub%2Fc%2Fd&ns=hub",
                "team/app/blobs/uploads/?mount=x&from=c%2Fd",
                from("c/d"),
            ),
            (
                Write::Begin(MountSource::Elsewhere),
                Method::POST,
                "?mount=x&from=y&digest=z",
                "team/app/blobs/uploads/?digest=z",
                push(),
            ),
            (put("1"), Method::PUT, "", "team/app/manifests/1", push()),
            (put("1"), Method::PUT, "?tag=a&tag=b", "team/app/manifests/1?tag=a&tag=b", push()),
            (
                Write::DeleteManifest("1".parse().unwrap()),
                Method::DELETE,
                "?ns=hub",
                "team/app/manifests/1",
                WriteAction::Delete,
            ),
            (
                Write::DeleteBlob(digest.clone()),
                Method::DELETE,
                "",
                &*format!("team/app/blobs/{digest}"),
                WriteAction::Delete,
            ),
        ] {
            let asked = ask(&seal, &write, &method, &format!("/whatever{query}")).unwrap();
            assert_eq!(asked, (WriteTarget::Path(place.to_owned()), need), "{write:?} {query}");
        }
        assert!(matches!(ask(&seal, &Write::NotAllowed, &Method::PUT, "/x"), Err(ErrorKind::MethodNotAllowed)));
    }

    #[test]
    fn an_upload_continues_where_its_state_says() {
        let seal = Seal::for_test();
        let sealed = |state: &str| seal.seal("hub", &"team/app".parse().unwrap(), state).unwrap();
        for (state, query, place) in [
            ("/u/1?_state=a%2Fb", "&digest=sha256:0&ns=hub", "/u/1?_state=a%2Fb&digest=sha256%3A0"),
            ("/u/1", "&digest=x", "/u/1?digest=x"),
            ("/u/1?s=%2F", "", "/u/1?s=%2F"),
        ] {
            let uri = format!("/v2/x/blobs/uploads/1?{STATE}={}{query}", sealed(state));
            for (method, need) in [
                (Method::PUT, WriteAction::Push { from: None }),
                (Method::GET, WriteAction::Push { from: None }),
                (Method::DELETE, WriteAction::Delete),
            ] {
                let asked = ask(&seal, &Write::Upload, &method, &uri).unwrap();
                assert_eq!(asked, (WriteTarget::UploadSession(place.to_owned()), need), "{uri}");
            }
        }
        let foreign = seal.seal("other", &"team/app".parse().unwrap(), "/u/1").unwrap();
        for state in ["", "?_state=", "?_state=x", &format!("?{STATE}={foreign}"), "?state=x"] {
            let asked = ask(&seal, &Write::Upload, &Method::PATCH, &format!("/v2/x/blobs/uploads/1{state}"));
            assert!(matches!(asked, Err(ErrorKind::UploadUnknown)), "{state}");
        }
    }

    #[test]
    fn only_headers_of_the_content_are_passed_on() {
        let seal = Seal::for_test();
        let mut fixture = Fixture::new(&Method::PUT, "/x");
        for name in
            ["content-type", "content-range", "authorization", "cookie", "host", "expect", "connection", "range", "te"]
        {
            fixture.head.headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        let write = Write::PutManifest("1".parse().unwrap());
        let (asked, _) = of(fixture.push(&write), &seal).unwrap();
        let mut names: Vec<_> = asked.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-range", "content-type"]);
    }
}
