//! A push to the upstream `hub`, for tests.

use std::net::Ipv4Addr;

use http::{Method, Request, request::Parts};

use super::Push;
use crate::{
    oci::Repository,
    route::Write,
    upstream::{Config, Context, Upstream},
};

pub(super) struct Fixture {
    pub head: Parts,
    upstream: Upstream,
    repository: Repository,
}

#[allow(clippy::unwrap_used, reason = "a test says what must hold by failing")]
impl Fixture {
    pub(super) fn new(method: &Method, uri: &str) -> Self {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let config = Config::at("hub", &["https://hub.example"]);
        let upstream = Upstream::new(&config, Context::of_test()).unwrap();
        Self { head: request.into_parts().0, upstream, repository: "team/app".parse().unwrap() }
    }

    pub(super) fn push<'a>(&'a self, write: &'a Write) -> Push<'a> {
        let client = Ipv4Addr::LOCALHOST.into();
        Push {
            write,
            head: &self.head,
            upstream: &self.upstream,
            repository: &self.repository,
            namespace: None,
            client,
        }
    }
}
