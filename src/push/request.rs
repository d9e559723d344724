//! What the upstream is asked for a client's change (pure).

use http::{HeaderMap, HeaderName, Method, Uri, header};

use super::{
    Push, Seal,
    session::{Kept, Session},
};
use crate::{
    error::ErrorKind,
    route::{MountSource, Write},
    upstream::{self, WriteAction, WriteTarget},
};

/// The parameter that has the state of an upload.
pub(super) const STATE: &str = "_state";

/// What of a request's head is passed on; all else is between the client and us.
const PASSED_ON: [HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_RANGE, header::ACCEPT];

/// The request to the upstream, and what is kept of the upload that it goes on with.
///
/// # Errors
/// There is nothing to be asked: the upload is not one of ours, or the endpoint has no such method.
pub(super) fn of<'a>(
    push: Push<'a>,
    upstream: &str,
    seal: &Seal,
) -> Result<(upstream::WriteRequest<'a>, Kept), ErrorKind> {
    let Push { method, uri, repository, .. } = push;
    let mut kept = Kept::Nothing;
    let push_alone = WriteAction::Push { from: None };
    let (place, need) = match push.write {
        Write::Begin(source) => {
            let query = mount_query(uri, source);
            let from = match source {
                MountSource::Here(from) => Some(from.clone()),
                MountSource::Unsaid | MountSource::Elsewhere => None,
            };
            (WriteTarget::Path(with_query(format!("{repository}/blobs/uploads/"), &query)), WriteAction::Push { from })
        }
        Write::Upload => {
            let sealed = parameter(uri, STATE).ok_or(ErrorKind::UploadUnknown)?;
            let session = Session::open(upstream, repository, &sealed, seal).ok_or(ErrorKind::UploadUnknown)?;
            kept = session.kept;
            let need = if *method == Method::DELETE { WriteAction::Delete } else { push_alone };
            (WriteTarget::UploadSession(with_query(session.target, &query(uri, &[]))), need)
        }
        Write::PutManifest(reference) => {
            (WriteTarget::Path(with_query(format!("{repository}/manifests/{reference}"), &query(uri, &[]))), push_alone)
        }
        Write::DeleteManifest(reference) => (
            WriteTarget::Path(with_query(format!("{repository}/manifests/{reference}"), &query(uri, &[]))),
            WriteAction::Delete,
        ),
        Write::DeleteBlob(digest) => (
            WriteTarget::Path(with_query(format!("{repository}/blobs/{digest}"), &query(uri, &[]))),
            WriteAction::Delete,
        ),
        Write::NotAllowed => return Err(ErrorKind::MethodNotAllowed),
    };
    let headers: HeaderMap = PASSED_ON
        .iter()
        .flat_map(|name| push.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())))
        .collect();
    Ok((upstream::WriteRequest { method: method.clone(), repository, target: place, action: need, headers }, kept))
}

/// The query with the source of a mount as the upstream calls it; without the mount where it has no such source.
fn mount_query(uri: &Uri, source: &MountSource) -> String {
    match source {
        MountSource::Unsaid => query(uri, &[]),
        MountSource::Elsewhere => query(uri, &["mount", "from"]),
        MountSource::Here(from) => {
            let mut named = url::form_urlencoded::Serializer::new(query(uri, &["from"]));
            named.append_pair("from", from.as_str());
            named.finish()
        }
    }
}

/// The client's query without what is between it and us, and without `others`.
fn query(uri: &Uri, others: &[&str]) -> String {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let theirs = pairs.filter(|(key, _)| !matches!(&**key, "ns" | STATE) && !others.contains(&&**key));
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(theirs).finish()
}

/// The upstream's own query stays to the letter: it may be signed.
fn with_query(mut place: String, query: &str) -> String {
    if !query.is_empty() {
        place.push(if place.contains('?') { '&' } else { '?' });
        place.push_str(query);
    }
    place
}

pub(super) fn parameter(uri: &Uri, wanted: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::oci::{Algorithm, Digest, Repository};

    struct Case {
        seal: Seal,
        repository: Repository,
    }

    impl Case {
        fn new() -> Self {
            let seal = Seal::for_test();
            Self { seal, repository: "team/app".parse().unwrap() }
        }

        fn ask(&self, write: &Write, method: &Method, uri: &str) -> Result<(WriteTarget, WriteAction), ErrorKind> {
            let headers = HeaderMap::new();
            let uri: Uri = uri.parse().unwrap();
            let push =
                Push { write, method, uri: &uri, headers: &headers, repository: &self.repository, namespace: None };
            of(push, "hub", &self.seal).map(|(asked, _)| (asked.target, asked.action))
        }
    }

    #[test]
    fn each_change_has_its_target_and_its_action() {
        let case = Case::new();
        let digest = Digest::of(Algorithm::Sha256, b"");
        let push = || WriteAction::Push { from: None };
        let from = |name: &str| WriteAction::Push { from: Some(name.parse().unwrap()) };
        let here = |name: &str| Write::Begin(MountSource::Here(name.parse().unwrap()));
        let put = |reference: &str| Write::PutManifest(reference.parse().unwrap());
        for (write, method, query, place, need) in [
            (Write::Begin(MountSource::Unsaid), Method::POST, "", "team/app/blobs/uploads/", push()),
            (
                Write::Begin(MountSource::Unsaid),
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
            let asked = case.ask(&write, &method, &format!("/whatever{query}")).unwrap();
            assert_eq!(asked, (WriteTarget::Path(place.to_owned()), need), "{write:?} {query}");
        }
        assert!(matches!(case.ask(&Write::NotAllowed, &Method::PUT, "/x"), Err(ErrorKind::MethodNotAllowed)));
    }

    #[test]
    fn an_upload_goes_on_where_its_state_says() {
        let case = Case::new();
        let sealed = |state: &str| case.seal.seal("hub", &case.repository, state).unwrap();
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
                let asked = case.ask(&Write::Upload, &method, &uri).unwrap();
                assert_eq!(asked, (WriteTarget::UploadSession(place.to_owned()), need), "{uri}");
            }
        }
        let foreign = case.seal.seal("other", &case.repository, "/u/1").unwrap();
        for state in ["", "?_state=", "?_state=x", &format!("?{STATE}={foreign}"), "?state=x"] {
            let asked = case.ask(&Write::Upload, &Method::PATCH, &format!("/v2/x/blobs/uploads/1{state}"));
            assert!(matches!(asked, Err(ErrorKind::UploadUnknown)), "{state}");
        }
    }

    #[test]
    fn only_what_is_about_the_content_is_passed_on() {
        let case = Case::new();
        let mut headers = HeaderMap::new();
        for name in
            ["content-type", "content-range", "authorization", "cookie", "host", "expect", "connection", "range", "te"]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        let (write, uri) = (Write::PutManifest("1".parse().unwrap()), "/x".parse().unwrap());
        let push = Push {
            write: &write,
            method: &Method::PUT,
            uri: &uri,
            headers: &headers,
            repository: &case.repository,
            namespace: None,
        };
        let (asked, _) = of(push, "hub", &case.seal).unwrap();
        let mut names: Vec<_> = asked.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-range", "content-type"]);
    }
}
