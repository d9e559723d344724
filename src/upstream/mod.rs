//! How we ask the registry behind us.
//!
//! An [`Upstream`] is one configured registry. An operation goes over the registry's URLs
//! (`endpoint`), is sent with what was learned of how to ask (`auth`), led through redirects
//! (`follow`), and judged by the head of its answer (`answer`). What must hold: credentials go
//! only where they belong; every wait and every body held in memory is bounded; an error says
//! whether the upstream answered or could not.
//!
//! It does not know that there is a cache, and opens no connection before it is asked something.

mod auth;
mod blob;
mod client;
mod config;
mod error;
mod failover;
mod identity;
mod principal;
mod request;
mod response;
mod throttle;
mod upload_body;
mod via;
pub mod write;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use self::{
    auth::scope::Scope,
    client::Manner,
    failover::Endpoint,
    request::{Ask, Shared},
    response::document::Document,
    via::Via,
    write::Asking,
};
pub use self::{
    auth::{TokenResult, challenge, token_exchange},
    blob::{BlobRange, BlobStream, length::BlobHead},
    client::{CaFlaws, circuit_breaker::Resting, proxy},
    config::{Access, Config, CredentialSource},
    error::{Error, ErrorKind, SetupError},
    identity::{Registry, UrlHashes},
    principal::{ClientCredential, NoRandomSource, Principal, PrincipalKey, Verdict},
    request::IsList,
    response::{
        document_budget::{ReadBudget, ReadRoom},
        refusal::{Reason, Refusal},
        warning::{ContentNotes, VALUE_WEIGHT},
    },
    upload_body::{BodyObserver, UploadBody},
    via::Mirrors,
    write::{WriteAction, WriteRequest, WriteResponse, WriteTarget},
};
use crate::{
    metrics::Metrics,
    oci::{Accept, Digest, MediaType, Operation, Reference, Repository},
};

/// What of a forwarded answer's head is passed on; all else is between the upstream and us.
const FORWARDED: [HeaderName; 3] = [header::CONTENT_TYPE, header::LINK, HeaderName::from_static("oci-filters-applied")];

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What an upstream needs of the program around it.
#[derive(Clone)]
pub struct Context {
    pub metrics: Metrics,
    /// The value of the Via header, such as `1.1 forebay-3f2a`, by which a request that comes back
    /// to us is recognised.
    pub via: Arc<str>,
    /// What is read into memory of all upstreams.
    pub budget: ReadBudget,
}

#[cfg(test)]
impl Context {
    pub fn of_test() -> Self {
        Self { metrics: Metrics::new().unwrap(), via: "1.1 forebay-test".into(), budget: ReadBudget::default() }
    }
}

/// What the head of a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub media_type: Option<MediaType>,
    /// As the upstream claims.
    pub digest: Option<Digest>,
    /// In bytes.
    pub len: Option<u64>,
    /// How long ago this was true.
    pub age: Duration,
    /// For how long it was kept before it was given.
    pub resident_time: Duration,
    pub notes: ContentNotes,
}

/// A manifest as it came. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    pub media_type: Option<MediaType>,
    /// As the upstream claims.
    pub digest: Option<Digest>,
    pub bytes: Bytes,
    /// How long ago this was true.
    pub age: Duration,
    /// For how long it was kept before it was given.
    pub resident_time: Duration,
    pub notes: ContentNotes,
    pub room: ReadRoom,
}

/// An answer that is passed on as it is.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// Content-Type, Link, OCI-Filters-Applied, and warnings for clients alone.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For how long it was kept before it was given.
    pub resident_time: Duration,
}

/// One registry behind us. A cheap handle.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
    via: Via,
    /// The forebays that the request came by.
    mirrors: Option<Mirrors>,
    manner: Manner,
    client: Option<Arc<ClientCredential>>,
}

impl Upstream {
    /// Sets the upstream up, without asking it anything.
    ///
    /// # Errors
    ///
    /// When the private CA cannot be read, or the configuration has no URL in it.
    pub fn new(config: &Config, context: Context) -> Result<Self, SetupError> {
        let shared = Arc::new(Shared::new(config, &context)?);
        Ok(Self { shared, via: Via::Ours, mirrors: None, manner: Manner::Usual, client: None })
    }

    /// Looks at the file that its credentials come from, if any. Blocks on it.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn check_credentials(&self) -> Result<(), SetupError> {
        self.shared.authenticator.check_credentials()
    }

    /// What is wrong with the certificates of its `ca`.
    pub fn ca_flaws(&self) -> &CaFlaws {
        self.shared.sender.ca_flaws()
    }

    /// Its name in the configuration, and in the labels of metrics.
    pub fn name(&self) -> &Arc<str> {
        self.shared.name()
    }

    /// The same upstream, asked because of a request that came with this `Via`; several lines of it are
    /// to be joined by commas. The upstream is told the whole way, so that it can see a circle that
    /// leads through more mirrors than us. A way of more than 32 stations or 4 KiB is taken for a circle.
    pub fn with_via(&self, via: Option<HeaderValue>) -> Self {
        let mirrors = Mirrors::in_values(via.iter());
        Self { via: Via::behind(via.as_ref(), self.shared.via()), mirrors, ..self.clone() }
    }

    /// The forebays that the request came by.
    pub fn via_mirrors(&self) -> Option<&Mirrors> {
        self.mirrors.as_ref()
    }

    /// Whether an answer of it may wait for one of ours: it may be a forebay.
    pub fn may_be_mirror(&self) -> bool {
        self.shared.may_be_mirror()
    }

    /// Whether the request must not wait for an answer that others asked for: it came by a forebay, and that answer may
    /// come by one that waits for just this request. Nor must others wait for its answer, which may be that it is a circle.
    pub fn may_be_loop(&self) -> bool {
        self.via == Via::TooLong || (self.mirrors.is_some() && self.may_be_mirror())
    }

    /// The same upstream, asked over connections that each have one request at a time.
    pub fn with_dedicated_connections(&self) -> Self {
        Self { manner: Manner::Apart, ..self.clone() }
    }

    /// The same upstream, asked as part of a push: also while its host has not answered lately.
    pub fn for_push(&self) -> Self {
        Self { manner: Manner::Push, ..self.clone() }
    }

    /// The same upstream, asked in the name of a client and with nothing but what it showed.
    pub fn with_client_credential(&self, credential: Option<Arc<ClientCredential>>) -> Self {
        Self { client: credential, ..self.clone() }
    }

    /// Whether it is the client's own credentials that decide what it may have.
    pub fn uses_client_credentials(&self) -> bool {
        matches!(self.shared.access(), Access::Client { .. })
    }

    /// Which registry it is.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Whose credentials decide.
    pub fn access(&self) -> Access {
        self.shared.access()
    }

    /// In whose name it is asked, where it decides by that.
    pub fn principal(&self) -> Option<Principal> {
        self.uses_client_credentials().then(|| self.client.as_ref().map_or(Principal::ANONYMOUS, |client| client.asker))
    }

    /// What it said of the credential that the client of this request showed.
    pub fn verdict(&self) -> Verdict {
        self.client.as_ref().map_or(Verdict::Unknown, |client| client.judged.verdict())
    }

    /// It took that credential with an earlier request.
    pub fn note_accepted_before(&self) {
        if let Some(client) = &self.client {
            client.judged.note_accepted_before();
        }
    }

    /// Says what it said of that credential, once nothing that was begun with it is under way.
    pub fn on_verdict(&self, then: impl FnOnce(Verdict) + Send + 'static) {
        match &self.client {
            Some(client) => client.on_verdict(then),
            None => then(Verdict::Unknown),
        }
    }

    /// Over how many connections one blob may be fetched.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// How many bytes of blobs came from it so far, for whomever.
    pub fn received_bytes(&self) -> u64 {
        self.shared.received().load(Ordering::Relaxed)
    }

    fn asked(&self, mut ask: Ask) -> Result<Ask, Error> {
        ask.manner = self.manner;
        ask.client.clone_from(&self.client);
        if let Some(via) = self.via.header()? {
            ask.headers.insert(header::VIA, via.clone());
        }
        Ok(ask)
    }

    /// Asks for the head of a manifest. It is never turned into a GET, which would count as a pull: a length that can be that of a
    /// manifest is believed, although it may be wrong, until the manifest is here. Docker Hub counts the GET of each tag that a bot looks
    /// at against its limit, and HEADs not; and a client that pulls after the HEAD sends the GET next, whose length counts.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<ManifestHead, Error> {
        let ask = &self.asked(Ask::manifest(Method::HEAD, repository, reference, accept))?;
        self.shared
            .each_endpoint(ask.is_quiet(), |endpoint| async move {
                let followed = self.shared.ask(&endpoint, ask).await?;
                let headers = followed.response.headers();
                let notes = self.shared.without_private(ContentNotes::of(headers), &ask.scope).await;
                Ok(ManifestHead {
                    media_type: media_type(headers),
                    digest: digest(headers),
                    len: response::announced_len(&followed).filter(response::document::may_be_manifests),
                    age: response::age(&followed),
                    resident_time: followed.resident_time(),
                    notes,
                })
            })
            .await
    }

    /// Fetches a manifest of at most 16 MiB.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<ManifestBody, Error> {
        let ask = &self.asked(Ask::manifest(Method::GET, repository, reference, accept))?;
        let Document { headers, body, age, resident_time, room } = self.shared.document(ask).await?;
        let media_type = media_type(&headers).filter(|_| !response::is_html(&headers));
        let notes = self.shared.without_private(ContentNotes::of(&headers), &ask.scope).await;
        Ok(ManifestBody { media_type, digest: digest(&headers), bytes: body, age, resident_time, notes, room })
    }

    /// Begins to fetch a blob, or the part of it in `range`. Redirects are followed anew each time.
    pub async fn open_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: BlobRange,
    ) -> Result<BlobStream, Error> {
        let ask = &self.asked(Ask { any_type: true, ..Ask::blob(Method::GET, repository, digest, range) })?;
        self.shared
            .each_endpoint(ask.is_quiet(), |endpoint| async move {
                let (followed, front) = Box::pin(self.shared.ask_judged(&endpoint, ask, digest)).await?;
                let mut stream =
                    BlobStream::new(followed, front, (range, digest), &self.shared, endpoint, ask.is_quiet())?;
                stream.notes = self.shared.without_private(stream.notes, &ask.scope).await;
                Ok(stream)
            })
            .await
    }

    /// Asks for a list. `path_and_query` is what follows `/v2/`, such as `library/nginx/tags/list?n=5`. What comes has to be that list:
    /// a proxy may answer with 200 and a page of its own, and the next URL is asked then.
    pub async fn forward(
        &self,
        operation: Operation,
        repository: Option<&Repository>,
        path_and_query: &str,
        accept: &Accept,
        is_list: IsList,
    ) -> Result<Forwarded, Error> {
        let ask = &self.asked(Ask {
            operation,
            method: Method::GET,
            path_and_query: path_and_query.to_owned(),
            scope: repository.cloned().map_or(Scope::Catalog, Scope::Pull),
            headers: accept_headers(accept),
            manner: self.manner,
            client: None,
            any_type: false,
            is_tag: false,
            digest: None,
            is_list: Some(is_list),
        })?;
        let Document { headers, body, resident_time, .. } = self.shared.document(ask).await?;
        let notes = self.shared.without_private(ContentNotes::of(&headers), &ask.scope).await;
        Ok(Forwarded { headers: forwarded(&headers, notes), body, resident_time })
    }

    /// Whether pushes, mounts and deletes are passed on to it.
    pub fn allows_push(&self) -> bool {
        self.shared.allows_push()
    }

    /// Whether less than a tenth is left of the limit that it tells this client of, or forebay.
    pub fn is_near_rate_limit(&self) -> bool {
        self.shared.is_scarce(self.client.as_ref().map(|client| client.asker))
    }

    /// Whether it is asked with credentials of ours, as against anonymously.
    pub fn has_credentials(&self) -> bool {
        self.shared.has_credentials()
    }

    /// Makes a change, with the content that a client sends for it. The upstream's answer, whatever its status, is no
    /// error; that it could not be asked is one, and that it wants other credentials.
    pub async fn write(&self, write: WriteRequest<'_>, content: Option<UploadBody>) -> Result<WriteResponse, Error> {
        let asking = Asking { via: self.via.header()?.cloned(), client: self.client.as_deref() };
        let scope = write.scope();
        match self.shared.write(write, asking, content).await {
            Err(error) => Err(self.shared.for_clients(error, &scope).await),
            written => written,
        }
    }

    /// Finds out whether the upstream answers, and whether it accepts who asks: credentials that are
    /// configured but were not used when it challenged are an error.
    pub async fn ping(&self) -> Result<(), Error> {
        let client = self.client.as_ref();
        let ping = |endpoint: Arc<Endpoint>| async move { self.shared.ping(&endpoint, client).await };
        self.shared.each_endpoint(self.manner == Manner::Apart, ping).await
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(self.name()).finish()
    }
}

fn accept_headers(accept: &Accept) -> HeaderMap {
    accept.headers().map(|value: &HeaderValue| (header::ACCEPT, value.clone())).collect()
}

/// What is passed on of this head, without holding on to it: it is kept, and may be a thousand times as long.
fn forwarded(theirs: &HeaderMap, notes: ContentNotes) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in FORWARDED {
        for value in theirs.get_all(&name) {
            kept.extend(HeaderValue::from_bytes(value.as_bytes()).ok().map(|value| (name.clone(), value)));
        }
    }
    for warning in notes.warnings {
        kept.append(header::WARNING, warning);
    }
    kept
}

fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    headers.get(header::CONTENT_TYPE).and_then(|value| MediaType::try_from(value).ok())
}

fn digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forwarded_does_not_keep_the_head_it_came_in() {
        let head = Bytes::from([&[b'j'; 300_000][..], b"</v2/a>; rel=\"next\""].concat());
        let link = HeaderValue::from_maybe_shared(head.slice(300_000..)).unwrap();
        let theirs = HeaderMap::from_iter([(header::LINK, link), (header::SERVER, HeaderValue::from_static("nginx"))]);
        let kept = forwarded(&theirs, ContentNotes::of(&theirs));
        assert_eq!((kept.len(), &kept[header::LINK]), (1, &theirs[header::LINK]));
        assert!(!head.as_ptr_range().contains(&kept[header::LINK].as_bytes().as_ptr()));
    }

    /// Futures hold those they wait for. A fill's was once larger than the stack of a thread that had to move it.
    #[test]
    fn what_is_waited_for_fits_on_any_stack() {
        let config = Config::at("registry.example", &["https://registry.example"]);
        let upstream = Upstream::new(&config, Context::of_test()).unwrap();
        let repository: Repository = "team/app".parse().unwrap();
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let reference = Reference::Digest(digest.clone());
        let accept = Accept::from_headers(&HeaderMap::new());
        let sizes = [
            size_of_val(&upstream.open_blob(&repository, &digest, BlobRange::default())),
            size_of_val(&upstream.head_blob(&repository, &digest)),
            size_of_val(&upstream.get_manifest(&repository, &reference, &accept)),
            size_of_val(&upstream.head_manifest(&repository, &reference, &accept)),
        ];
        assert!(sizes.iter().all(|size| *size < 4096), "{sizes:?} bytes");
    }
}
