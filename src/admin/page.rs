//! The page of the admin listener: is forebay healthy, what did it save, what failed and why, and what is in the cache?
//!
//! What must hold: who sees what is decided as for the control API. The form for the token says nothing of this forebay.
//! Nothing runs in the browser but the scripts of this page, and no response may be kept.

mod chart;
mod cluster;
mod document;
mod failures;
mod health;
mod images;
mod now;
mod object_store;
mod pulls;
mod reader;
mod registries;
mod resource;
mod savings;
mod transfers;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::Full;

use self::{reader::Reader, resource::Resource};
use super::{
    api::{
        Sources,
        access::{Caller, Denied, Need, Token, admit},
    },
    response::{response, text},
};
use crate::{
    history::Readers,
    html::{Asset, set_policy},
};

const HTML: &str = "text/html; charset=utf-8";

/// A request for the page, and its caller.
pub(super) struct Visit<'a> {
    pub head: &'a Parts,
    pub caller: Caller,
    /// Whether the host of the request is allowed without a token.
    pub is_host_allowed: bool,
    /// A page of another site sent the request.
    pub is_of_other_site: bool,
}

/// How a browser says what it loads a response for. Source: Fetch Metadata Request Headers, section 2.1.
const DESTINATION: &str = "sec-fetch-dest";

/// The response, if the path is one of the page.
pub(super) async fn respond(sources: &Sources, readers: &Readers, visit: Visit<'_>) -> Option<Response<Full<Bytes>>> {
    let Visit { head, caller, is_host_allowed, is_of_other_site } = visit;
    let resource = Resource::of(head.uri.path())?;
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    if let Resource::Asset(asset) = resource {
        return Some(of_asset(asset, &head.headers));
    }
    // Another site may lead a person here by a link; it gets to see nothing.
    let is_document = head.headers.get(DESTINATION).is_some_and(|destination| destination == "document");
    if is_of_other_site && !(matches!(resource, Resource::Home) && is_document) {
        return Some(text(StatusCode::FORBIDDEN, "a page of another site may not ask this\n"));
    }
    let sight = match admit(caller, Need::Read) {
        Ok(sight) => sight,
        Err(Denied::Token(why)) => return Some(token_needed(&resource, caller, why)),
        Err(Denied::Never(why)) => return Some(page(StatusCode::FORBIDDEN, document::refused(why))),
    };
    let may_change = admit(caller, Need::Change).is_ok();
    if !may_change && !is_host_allowed {
        let why =
            "this page is shown without a token by an address, by localhost and by the hosts of admin.allowed_hosts";
        return Some(page(StatusCode::MISDIRECTED_REQUEST, document::refused(why)));
    }
    Some(content((sources, readers), &resource, head.uri.query(), Reader { sight, may_change }).await)
}

/// What a reader may see.
async fn content(
    (sources, readers): (&Sources, &Readers),
    resource: &Resource,
    query: Option<&str>,
    reader: Reader,
) -> Response<Full<Bytes>> {
    let Reader { sight, .. } = reader;
    let (search, problem) = match images::Search::parse(query) {
        Ok(search) => (search, None),
        Err(problem) => (images::Search::default(), Some(problem)),
    };
    let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    match resource {
        Resource::Now => page(StatusCode::OK, now::fragment(sources, readers, sight).await.finish()),
        Resource::Images => page(status, images::fragment(sources, &search, problem.as_deref(), reader).await.finish()),
        Resource::Home | Resource::Asset(_) => {
            let now = now::fragment(sources, readers, sight).await;
            let list = images::fragment(sources, &search, problem.as_deref(), reader).await;
            page(status, document::write(now, &search, list, reader))
        }
    }
}

/// The form for the token. With a wrong one, its status tells the script.
fn token_needed(resource: &Resource, caller: Caller, why: &'static str) -> Response<Full<Bytes>> {
    let is_wrong = matches!(caller, Caller::Listener { token: Token::Wrong, .. });
    match resource {
        Resource::Home if is_wrong => page(StatusCode::UNAUTHORIZED, document::token_form()),
        Resource::Home => page(StatusCode::OK, document::token_form()),
        Resource::Now | Resource::Images | Resource::Asset(_) => text(StatusCode::UNAUTHORIZED, why),
    }
}

fn page(status: StatusCode, html: Bytes) -> Response<Full<Bytes>> {
    let mut response = response(status, HTML, html);
    set_policy(response.headers_mut());
    response
}

fn of_asset(asset: &Asset, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let content = asset.content_for(headers);
    let status = if content.is_some() { StatusCode::OK } else { StatusCode::NOT_MODIFIED };
    let mut response = response(status, asset.content_type(), Bytes::from_static(content.unwrap_or_default()));
    set_policy(response.headers_mut());
    asset.mark(response.headers_mut());
    response
}
