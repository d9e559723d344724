//! Redirects: a client gets a blob from the object store, so that its bytes do not pass here.
//!
//! What must hold: a client is sent there only after all that would let it have the blob from here: rules, authentication, and
//! the upstream's grant; a URL of a client's private content ends soon; if the store fails, forebay serves the client. The client
//! verifies what it gets: forebay does not see the bytes. See docs/store.md.

mod condition;

use std::time::Duration;

use http::Response;
use tokio::time::{Instant, timeout};
use url::Url;

use self::condition::Target;
use super::{body::Body, exchange::Exchange, redirects::Redirects, response, service::Service};
use crate::{
    cache::{Outcome, Source},
    store::{ObjectName, Pool, Presence, Store},
};

/// How long a URL is good for. Clients use it at once; but clocks differ, and lazy pullers keep it for later ranges. The
/// registry of distribution gives as much.
const VALID: Duration = Duration::from_secs(20 * 60);
/// The same for content that an upstream has to grant to each client: a URL gives the content without a login.
const VALID_FOR_CLIENT: Duration = Duration::from_secs(60);
/// How long a client waits for a URL, for which a few kinds of credentials need a request of their own.
const SIGN_TIMEOUT: Duration = Duration::from_secs(1);

impl Service {
    /// The response that sends a client to the object store, where its upstream may have that; `None`: it is served from here.
    pub(super) async fn redirect(&self, exchange: &mut Exchange<'_>, source: &Source) -> Option<Response<Body>> {
        let Redirects { presence, returns, checks } = self.redirects.as_ref()?;
        let (upstream, client) = (&source.upstream, exchange.peer().to_canonical());
        if exchange.by_peer || !presence.serves(client) {
            return None;
        }
        let range = condition::range(&exchange.head.headers)?;
        let cached = self.caches.blobs.cached_len(source).await;
        // Where only the content proves a grant, it has to come from the upstream.
        if cached.is_some_and(|len| !Presence::is_for_clients(len)) || exchange.grant.announced.is_some() {
            return None;
        }
        let pool = upstream.store_pool()?;
        let name = ObjectName::blob(pool, &source.digest);
        let len = presence.len_for_clients(&name).await.filter(|len| cached.is_none_or(|cached| cached == *len))?;
        let bytes = range.map_or(Some(len), |range| Some(range.resolve(len)?.len()))?;
        let request = returns.request(client, &source.digest, range);
        if returns.has(&request, Instant::now()) {
            self.metrics.returned_after_redirect(upstream.name());
            checks.begin(presence.store(), &name, &source.digest);
            return None;
        }
        let url = signed(presence.store(), &name, pool).await?;
        if !Target::of(&url).suits(exchange.connection.tls, exchange.host, &exchange.head.headers) {
            return None;
        }
        let response = response::redirect(&source.digest, &url)?;
        returns.note(request, bytes, Instant::now());
        // What is used stays, here and there.
        presence.store().note_direct_use(&source.digest);
        if cached.is_some() {
            self.caches.blobs.note_used(&source.id());
        }
        self.metrics.redirected(upstream.name(), bytes);
        exchange.record.outcome = Outcome::Redirected;
        exchange.record.redirected = Some(bytes);
        Some(response)
    }
}

/// A URL by which a client gets an object; `None`: there is none in time.
async fn signed(store: &Store, name: &ObjectName, pool: Pool) -> Option<Url> {
    let valid = match pool {
        Pool::Shared => VALID,
        Pool::Clients => VALID_FOR_CLIENT,
    };
    let signed = timeout(SIGN_TIMEOUT, store.signed_url(name, valid)).await.ok()?;
    signed.inspect_err(|error| tracing::debug!(%error, "no URL can be signed for a client")).ok()
}
