//! The `Location` of the response, as a URL of forebay (pure): relative, and with all parts by which the client reached
//! forebay.

use super::{Push, Seal, request::STATE, session::Session};
use crate::{
    oci::{Digest, local_path, query},
    route::Write,
    upstream::WriteResponse,
};

/// The longest session name that forebay adopts from the upstream, in bytes.
const MAX_SESSION: usize = 128;

/// The upstream's `Location`, leading through forebay; `None` if the response has none. The state of an upload includes
/// the number of its `capture`.
pub(super) fn of(push: Push<'_>, response: &WriteResponse, seal: &Seal, capture: Option<u64>) -> Option<String> {
    let (uri, upstream) = (&push.head.uri, push.upstream.name());
    let location = response.location.as_deref()?;
    let path = location.split('?').next().unwrap_or_default();
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match push.write {
        Write::Begin(_) | Write::Upload => {
            let front = front(push, "/blobs/uploads", upstream);
            if response.is_created() {
                let digest = last.parse::<Digest>().ok().or_else(|| super::created_by(uri))?;
                return Some(with_namespace(format!("{front}/blobs/{digest}"), push.namespace, None));
            }
            let sealed = Session { target: location.to_owned(), capture }.seal(upstream, push.repository, seal)?;
            let session = if is_plain(last) { last } else { "upload" };
            Some(with_namespace(format!("{front}/blobs/uploads/{session}"), push.namespace, Some(&sealed)))
        }
        Write::PutManifest(reference) => {
            let front = front(push, "/manifests/", upstream);
            // Some registries name the digest although the client pushed a tag.
            let reference = percent_encoding::percent_decode_str(last)
                .decode_utf8()
                .ok()
                .and_then(|last| last.parse().ok())
                .unwrap_or_else(|| reference.clone());
            Some(with_namespace(format!("{front}/manifests/{reference}"), push.namespace, None))
        }
        Write::DeleteManifest(_) | Write::DeleteBlob(_) | Write::NotAllowed => None,
    }
}

/// The path as the client wrote it, up to the end of the repository's name.
fn front(push: Push<'_>, endpoint: &str, upstream: &str) -> String {
    match (push.head.uri.path().rfind(endpoint), push.namespace) {
        (Some(end), _) => local_path(&push.head.uri.path()[..end]),
        // The path is percent-encoded there: an equivalent one is built.
        (None, Some(_)) => format!("/v2/{}", push.repository),
        (None, None) => format!("/v2/{upstream}/{}", push.repository),
    }
}

fn with_namespace(path: String, namespace: Option<&str>, state: Option<&str>) -> String {
    let namespace = namespace.map(|namespace| (query::NAMESPACE, namespace));
    query::append(path, &query::encode(namespace.into_iter().chain(state.map(|state| (STATE, state)))))
}

/// Whether a session name needs no encoding in a path.
fn is_plain(session: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    session.len() <= MAX_SESSION
        && session.starts_with(|first: char| first.is_ascii_alphanumeric())
        && session.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};

    use super::*;
    use crate::{push::fixture::Fixture, route::MountSource};

    const CAPTURE: Option<u64> = Some(7);
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn located(
        write: &Write,
        uri: &str,
        namespace: Option<&str>,
        status: u16,
        location: &str,
    ) -> (Seal, Option<String>) {
        let seal = Seal::for_test();
        let fixture = Fixture::new(&Method::PUT, uri);
        let push = Push { namespace, ..fixture.push(write) };
        let status = StatusCode::from_u16(status).unwrap();
        let written =
            WriteResponse { status, headers: HeaderMap::new(), location: Some(location.to_owned()), reasons: vec![] };
        let found = of(push, &written, &seal, CAPTURE);
        (seal, found)
    }

    #[test]
    fn an_upload_continues_by_the_path_it_came_by() {
        let begin = Write::Begin(MountSource::Missing);
        let upstreams = "/v2/team/app/blobs/uploads/5f1c?_state=a%2Fb";
        for (uri, namespace, expected) in [
            ("/v2/team/app/blobs/uploads/", None, "/v2/team/app/blobs/uploads/5f1c?_state="),
            ("/v2/hub/team/app/blobs/uploads/", None, "/v2/hub/team/app/blobs/uploads/5f1c?_state="),
            ("//evil.example/v2/team/app/blobs/uploads/", None, "/evil.example/v2/team/app/blobs/uploads/5f1c?_state="),
            ("/p/v2/team/app/blobs/uploads", None, "/p/v2/team/app/blobs/uploads/5f1c?_state="),
            ("/v2/team/app/blobs/uploads/?ns=h%3A1", Some("h:1"), "/v2/team/app/blobs/uploads/5f1c?ns=h%3A1&_state="),
            ("/v2/x/team/app/blobs%2Fuploads/", None, "/v2/hub/team/app/blobs/uploads/5f1c?_state="),
        ] {
            let (seal, found) = located(&begin, uri, namespace, 202, upstreams);
            let found = found.unwrap();
            let state = found.strip_prefix(expected).unwrap_or_else(|| panic!("{uri}: {found}"));
            let opened = Session::open("hub", &"team/app".parse().unwrap(), state, &seal);
            assert_eq!(opened, Some(Session { target: upstreams.to_owned(), capture: CAPTURE }));
        }
        for (upstreams, session) in
            [("/u/a%2Fb", "upload"), ("/u/", "u"), ("/", "upload"), ("/u/..", "upload"), ("/u/x=y", "upload")]
        {
            let (_, found) = located(&Write::Upload, "/v2/a/blobs/uploads/1?_state=x", None, 202, upstreams);
            let found = found.unwrap();
            assert!(found.starts_with(&format!("/v2/a/blobs/uploads/{session}?_state=")), "{upstreams}: {found}");
        }
    }

    #[test]
    fn a_created_object_is_where_the_client_can_get_it() {
        let put = Write::PutManifest("1".parse().unwrap());
        let upload = format!("/v2/hub/team/app/blobs/uploads/1?_state=x&digest={DIGEST}");
        let blob = format!("/v2/hub/team/app/blobs/{DIGEST}");
        let by_digest = format!("/v2/hub/team/app/manifests/{DIGEST}");
        for (write, uri, location, expected) in [
            (&Write::Upload, &*upload, format!("/v2/team/app/blobs/{DIGEST}"), &*blob),
            (&Write::Upload, &*upload, "/elsewhere".to_owned(), &*blob),
            (
                &put,
                "/v2/hub/team/app/manifests/1",
                "/v2/team/app/manifests/1".to_owned(),
                "/v2/hub/team/app/manifests/1",
            ),
            (&put, "/v2/hub/team/app/manifests/1", format!("/v2/team/app/manifests/{DIGEST}"), &*by_digest),
            (
                &put,
                "/v2/hub/team/app/manifests/1",
                format!("/v2/team/app/manifests/{}", DIGEST.replace(':', "%3A")),
                &*by_digest,
            ),
            (&put, "/v2/hub/team/app/manifests/1", "/".to_owned(), "/v2/hub/team/app/manifests/1"),
        ] {
            let (_, found) = located(write, uri, None, 201, &location);
            assert_eq!(found.as_deref(), Some(expected), "{location}");
        }
        let (_, found) = located(&put, "/v2/team/app/manifests/1?ns=hub", Some("hub"), 201, "/v2/team/app/manifests/1");
        assert_eq!(found.as_deref(), Some("/v2/team/app/manifests/1?ns=hub"));
    }
}
