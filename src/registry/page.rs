//! The page of the registry's port: what forebay is, what clients write into their configuration, and whether their pulls
//! come through.
//!
//! A browser gets it at `/`; `/setup/docker` and its like are the same snippets as plain text.
//!
//! What must hold: a client that may not pull learns of no registry, and a visitor of no pull from another address, or of
//! one that not every client could do. Nothing in a response comes from the request but its host, which was checked.
//! Nothing runs in the browser but the scripts of this page.

mod authority;
mod document;
mod policy;
mod pulls;
mod resource;

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use self::{authority::Authority, policy::OfPage, pulls::Pulls};
use super::{
    body::{self, Body},
    exchange::Exchange,
    service::{Service, Table},
};
use crate::{
    auth::Anonymous,
    error::{Cached, Error, ErrorKind},
    html::Asset,
    oci::Operation,
    setup::{Guide, Login, Origin, Registry, Setup},
    transport::is_forwarded,
};

pub(super) use self::{policy::set_policy, resource::Resource};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PEM: HeaderValue = HeaderValue::from_static("application/x-pem-file");

impl Service {
    /// What of the page a request means; `None`: it is a request for the registry, or the page is switched off.
    pub(super) fn page_resource(&self, exchange: &Exchange<'_>) -> Option<Resource> {
        let head = exchange.head;
        Resource::of(&head.method, head.uri.path(), &head.headers).filter(|_| self.table.load().page)
    }

    /// Responds with a part of the page.
    pub(super) async fn page(&self, exchange: &mut Exchange<'_>, resource: Resource) -> Result<Response<Body>, Error> {
        exchange.record.operation = Operation::Page;
        exchange.cached = Cached::NoMatter;
        let authority = || self.tls.as_ref().and_then(|tls| tls.authority()).map(Authority::new);
        match resource {
            Resource::Asset(asset) => Ok(asset_response(asset, &exchange.head.headers)),
            Resource::Authority => {
                let authority = authority().ok_or(ErrorKind::NotFound)?;
                Ok(own_response(PEM, authority.pem().into()))
            }
            Resource::Guide(client) => {
                let is_stranger = self.is_stranger(exchange).await?;
                let table = self.table.load_full();
                let setup = self.setup(exchange, &table, is_stranger, authority().is_some());
                Ok(own_response(TEXT, Guide::new(client, &setup).text().into()))
            }
            Resource::Home => {
                let is_stranger = self.is_stranger(exchange).await?;
                let (table, authority) = (self.table.load_full(), authority());
                let setup = self.setup(exchange, &table, is_stranger, authority.is_some());
                let pulls = self.pulls(exchange, &table).await;
                Ok(own_response(HTML, document::write(&setup, authority.as_ref(), pulls.as_ref())))
            }
            Resource::Pulls => {
                let pulls = self.pulls(exchange, &self.table.load_full()).await.ok_or(ErrorKind::NotFound)?;
                Ok(own_response(HTML, pulls.list(SystemTime::now()).finish()))
            }
        }
    }

    /// Whether the client may not pull: it has shown nothing, where something is needed. Wrong credentials are an error.
    async fn is_stranger(&self, exchange: &mut Exchange<'_>) -> Result<bool, Error> {
        if !exchange.head.headers.contains_key(header::AUTHORIZATION) {
            let certificate = exchange.connection.client_certificate;
            return Ok(self.auth.access.load().check_without(certificate).is_err());
        }
        exchange.identity = self.authenticate(exchange, None).await?;
        exchange.note_user();
        Ok(false)
    }

    /// The latest pulls from the address of this connection; `None`: strangers may not pull, and so may not know.
    ///
    /// An address in a header such as `X-Forwarded-For` counts for nothing: a visitor could write any there. But the header
    /// says that the address of the connection is that of a proxy, behind which other visitors are, too.
    async fn pulls(&self, exchange: &Exchange<'_>, table: &Table) -> Option<Pulls> {
        if table.offer.access.anonymous != Anonymous::Pull {
            return None;
        }
        let address = exchange.peer().to_canonical();
        if is_forwarded(&exchange.head.headers) || self.client_rates.is_of_several(address) {
            return Some(Pulls::OfSeveral);
        }
        let dedicated = table.routes.dedicated(exchange.target()).map(|upstream| upstream.name().clone());
        // Not those that were shared once.
        let is_told = |registry: &&Registry| {
            !registry.wants_login && dedicated.as_ref().is_none_or(|dedicated| *dedicated == registry.name)
        };
        let told = table.offer.registries.iter().filter(is_told).map(|registry| registry.name.clone()).collect();
        Pulls::of(self.history(), &self.readers, address, told).await
    }

    /// What this client needs to know.
    fn setup<'a>(&self, exchange: &Exchange<'_>, table: &'a Table, is_stranger: bool, has_ca: bool) -> Setup<'a> {
        let tls = exchange.connection.tls;
        let origin = Origin::of_request(tls, exchange.host, exchange.connection.local);
        let takes_passwords = self.accepts_passwords(exchange);
        let login = Login::of(&table.offer.access, takes_passwords);
        let has_ca = has_ca && tls;
        if is_stranger {
            let registries = Vec::new();
            return Setup { origin, registries, unnamed: None, is_dedicated: false, login, takes_passwords, has_ca };
        }
        let dedicated = table.routes.dedicated(exchange.target()).map(|upstream| upstream.name().clone());
        let is_here = |name: &str| dedicated.as_deref().is_none_or(|dedicated| dedicated == name);
        let registries: Vec<_> = table.offer.registries.iter().filter(|registry| is_here(&registry.name)).collect();
        let unnamed = if dedicated.is_some() { registries.first().copied() } else { table.offer.default() };
        Setup { origin, registries, unnamed, is_dedicated: dedicated.is_some(), login, takes_passwords, has_ca }
    }
}

/// A response that depends on the host of the request, so that no cache may keep it.
fn own_response(content_type: HeaderValue, content: Bytes) -> Response<Body> {
    let mut response = Response::new(body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(OfPage);
    response.map(|_| body::full(content))
}

/// 304 for a browser that has the asset.
fn asset_response(asset: &Asset, conditions: &HeaderMap) -> Response<Body> {
    let content = asset.content_for(conditions);
    let content_type = HeaderValue::from_static(asset.content_type());
    let mut response = own_response(content_type, Bytes::from_static(content.unwrap_or_default()));
    asset.mark(response.headers_mut());
    if content.is_none() {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}
