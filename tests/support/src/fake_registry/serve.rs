//! One request: recorded, spoiled, answered.

use std::{io, sync::Arc};

use bytes::Bytes;
use forebay::oci::{ByteRange, ResolvedRange};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    Shared, State,
    auth::Plain,
    body::{Body, body},
    fault::{API_VERSION, Fault, To},
    record::{Record, Server},
    uploads,
};

/// An error closes the connection without an answer.
pub(super) async fn serve(
    request: Request<Incoming>,
    server: Server,
    shared: Arc<Shared>,
) -> Result<Response<Body>, io::Error> {
    let (parts, incoming) = request.into_parts();
    let head = Record::new(server, &parts, String::new());
    if uploads::is_write(&head) {
        return write(head, Request::from_parts(parts, incoming), shared).await;
    }
    let form = incoming.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
    let record = Record::new(server, &parts, String::from_utf8_lossy(&form).into_owned());
    shared.records.send_modify(|records| records.push(record.clone()));
    let open = (record.method == Method::GET && record.path.contains("/blobs/")).then(|| OpenBlob::new(&shared));
    let faults = shared.state().faults(&record);
    before(&faults).await?;
    let response = shared.state().answer(&record, &faults);
    let response = after(response, &faults).await;
    Ok(response.map(|body| {
        let counted = move |frame| {
            let _ = &open;
            frame
        };
        body.map_frame(counted).boxed_unsync()
    }))
}

/// A GET of a blob that has not ended.
struct OpenBlob(Arc<Shared>);

impl OpenBlob {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open_blobs.send_modify(|open| *open += 1);
        Self(shared.clone())
    }
}

impl Drop for OpenBlob {
    fn drop(&mut self) {
        self.0.open_blobs.send_modify(|open| *open -= 1);
    }
}

/// The same for what has content, which is looked at only when nothing is wrong with the request.
async fn write(record: Record, request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, io::Error> {
    shared.records.send_modify(|records| records.push(record.clone()));
    let faults = shared.state().faults(&record);
    before(&faults).await?;
    let response = uploads::serve(&record, request, &faults, &shared).await?;
    Ok(after(response, &faults).await)
}

async fn before(faults: &[Fault]) -> io::Result<()> {
    for fault in faults {
        match fault {
            Fault::HoldHead(gate) => gate.pass().await,
            Fault::DelayHead(delay) => tokio::time::sleep(*delay).await,
            Fault::Disconnect => return Err(io::Error::other("told to disconnect")),
            _ => {}
        }
    }
    Ok(())
}

async fn after(mut response: Response<Body>, faults: &[Fault]) -> Response<Body> {
    for fault in faults {
        if let Fault::HoldAnswer(gate) = fault {
            gate.pass().await;
        }
        if let Fault::Header(name, value) = fault {
            response.headers_mut().remove(*name);
            if let Some(value) = value {
                response.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
            }
        }
        if let Fault::Code(status) = fault {
            *response.status_mut() = StatusCode::from_u16(*status).unwrap();
        }
    }
    response
}

/// Something that is there: its type and bytes, its digest, and what else is said of it.
pub(super) struct Found {
    pub media_type: String,
    pub digest: Option<String>,
    pub headers: Vec<(&'static str, String)>,
    pub bytes: Bytes,
}

impl State {
    fn faults(&mut self, record: &Record) -> Vec<Fault> {
        let mut met = Vec::new();
        for rule in self.rules.iter_mut().filter(|rule| rule.times > 0 && rule.when.matches(record)) {
            rule.times = rule.times.saturating_sub(usize::from(rule.times != usize::MAX));
            met.push(rule.fault.clone());
        }
        met
    }

    fn answer(&mut self, record: &Record, faults: &[Fault]) -> Response<Body> {
        for fault in faults {
            if let Fault::Answer { status, headers, body } = fault {
                return plain((*status, headers.clone(), body.clone()));
            }
        }
        let mut response = self.own_answer(record, faults);
        if record.server == Server::Api {
            response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        }
        response
    }

    fn own_answer(&mut self, record: &Record, faults: &[Fault]) -> Response<Body> {
        match record.server {
            Server::Realm => return plain(self.token(record)),
            Server::Cdn => {
                if record.headers.contains_key(header::AUTHORIZATION) {
                    return plain((400, vec![], "Only one auth mechanism allowed".to_owned()));
                }
                let signature = record.parameter("signature").concat();
                if !self.signatures.contains(&signature) {
                    return plain((403, vec![], "SignatureDoesNotMatch".to_owned()));
                }
            }
            Server::Api => {
                if let Some(refusal) = self.refusal(&record.headers, repository(&record.path)) {
                    return plain(refusal);
                }
            }
        }
        for fault in faults {
            if let Fault::Redirect { status, to } = fault {
                let location = self.location(record, to);
                return plain((*status, vec![("location", location)], "moved".to_owned()));
            }
        }
        if self.has_no_such_endpoint(record) {
            let plain_text = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
            return plain((404, plain_text, "404 page not found\n".to_owned()));
        }
        let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
        let refuses_unnamed = has(|fault| matches!(fault, Fault::RefuseUnnamedType));
        match self.find(record).filter(|found| !refuses_unnamed || record.names(&found.media_type)) {
            Some(found) => content(record, found, faults),
            None => {
                let kinds = [("/manifests/", "MANIFEST_UNKNOWN"), ("/blobs/", "BLOB_UNKNOWN")];
                let known = kinds.iter().find(|(part, _)| record.path.contains(part));
                let code = known.map_or("NAME_UNKNOWN", |(_, code)| code);
                plain((404, vec![], format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#)))
            }
        }
    }

    fn location(&mut self, record: &Record, to: &To) -> String {
        match to {
            To::Location(location) => location.clone(),
            To::Here => format!("/moved{}", record.path),
            To::Cdn => {
                self.issued += 1;
                let signature = format!("s{}", self.issued);
                self.signatures.push(signature.clone());
                format!("{}{}?signature={signature}", self.cdn, record.path.trim_start_matches('/'))
            }
        }
    }

    fn find(&self, record: &Record) -> Option<Found> {
        let path = below_v2(&record.path)?;
        if path.is_empty() {
            let media_type = "application/json".to_owned();
            return Some(Found { media_type, digest: None, headers: vec![], bytes: "{}".into() });
        }
        if let Some(list) = self.list(path, record) {
            return list;
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            let bytes = self.content.blob(repository, digest)?;
            let media_type = "application/octet-stream".to_owned();
            return Some(Found { media_type, digest: Some(digest.to_owned()), headers: vec![], bytes });
        }
        let (repository, reference) = path.split_once("/manifests/")?;
        let (digest, media_type, bytes) = self.content.manifest(repository, reference)?;
        Some(Found { media_type, digest: Some(digest), headers: vec![], bytes })
    }
}

/// What follows `/v2/`, wherever that stands: upstreams may have a path of their own.
pub(super) fn below_v2(path: &str) -> Option<&str> {
    path.split_once("/v2/").map(|(_, rest)| rest)
}

pub(super) fn repository(path: &str) -> Option<&str> {
    let path = below_v2(path)?;
    ["/manifests/", "/blobs/", "/tags/list", "/referrers/"]
        .iter()
        .find_map(|part| path.split_once(part))
        .map(|(repository, _)| repository)
}

fn content(record: &Record, found: Found, faults: &[Fault]) -> Response<Body> {
    let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
    let total = found.bytes.len() as u64;
    let asked = record.headers.get(header::RANGE).and_then(|value| ByteRange::parse(value.as_bytes()));
    let asked = asked.filter(|_| !has(|fault| matches!(fault, Fault::IgnoreRange)));
    let mut response =
        Response::builder().header(header::CONTENT_TYPE, found.media_type).header(header::ACCEPT_RANGES, "bytes");
    if let Some(digest) = found.digest {
        response = response.header("docker-content-digest", digest);
    }
    for (name, value) in found.headers {
        response = response.header(name, value);
    }
    let mut bytes = found.bytes;
    if let Some(range) = asked {
        let refused = has(|fault| matches!(fault, Fault::RefuseRange));
        let Some(ResolvedRange { first, last }) = range.resolve(total).filter(|_| !refused) else {
            return plain((416, vec![("content-range", format!("bytes */{total}"))], String::new()));
        };
        let shift = faults.iter().find_map(|fault| match fault {
            Fault::ShiftRange(shift) => Some(*shift as u64),
            _ => None,
        });
        let first = (first + shift.unwrap_or(0)).min(last);
        bytes = bytes.slice(first as usize..=last as usize);
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{total}"));
    }
    for fault in faults {
        if let Fault::Corrupt { at } = fault
            && *at < bytes.len()
        {
            let mut spoiled = bytes.to_vec();
            spoiled[*at] ^= 1;
            bytes = spoiled.into();
        }
    }
    if !has(|fault| matches!(fault, Fault::NoContentLength)) {
        let lie = faults.iter().find_map(|fault| match fault {
            Fault::ContentLength(len) => Some(*len),
            _ => None,
        });
        response = response.header(header::CONTENT_LENGTH, lie.unwrap_or(bytes.len() as u64));
    }
    // The server itself leaves the body of a HEAD out.
    response.body(body(&bytes, faults)).unwrap()
}

pub(super) fn plain((status, headers, text): Plain) -> Response<Body> {
    let bytes = Bytes::from(text);
    let mut response = Response::builder().status(status);
    if status != 204 {
        response = response.header(header::CONTENT_LENGTH, bytes.len());
    }
    for (name, value) in headers {
        response = response.header(HeaderName::from_static(name), value);
    }
    response.body(body(&bytes, &[])).unwrap()
}
