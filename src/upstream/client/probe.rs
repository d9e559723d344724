//! A connection that serves no request: how long the lookup of the name, TCP and TLS take, and which certificate the server
//! has.
//!
//! What must hold: a probe dials what a request would dial, by the same filter of addresses, with the same trust and within the
//! same time. Where a proxy would connect, there is no probe: only the proxy knows what it dials.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use rustls::{
    ClientConfig,
    client::Resumption,
    pki_types::{IpAddr, ServerName},
};
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    super::{
        error::{Error, ErrorKind},
        failure_cause::FailureCause,
        redacted_url::RedactedUrl,
    },
    address_filter::AddressFilter,
    client_options::ClientOptions,
    peer_certificate::PeerCertificate,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes probes of one upstream.
pub(super) struct Prober {
    filter: AddressFilter,
    tls: Arc<ClientConfig>,
    proxies: Matcher,
    timeout: Duration,
}

/// What a probe has shown, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// A proxy would connect; nothing was measured.
    pub by_proxy: bool,
    /// `None`: the URL has an address.
    pub lookup: Option<Duration>,
    pub connect: Option<Duration>,
    /// `None` without TLS.
    pub handshake: Option<Duration>,
    pub certificate: Option<PeerCertificate>,
}

impl Prober {
    pub(super) fn new(options: &ClientOptions) -> Self {
        let mut tls = options.tls(&["h2", "http/1.1"]);
        // A resumed session would show neither the time of a handshake nor a verification.
        tls.resumption = Resumption::disabled();
        Self {
            filter: options.filter.clone(),
            tls: Arc::new(tls),
            proxies: Matcher::from_system(),
            timeout: options.connect_timeout,
        }
    }

    /// Connects to the host of a URL that the filter admits; what is known before an error is in the probe.
    pub(super) async fn probe(&self, url: &Url) -> (Probe, Result<(), Error>) {
        let mut probe = Probe::default();
        let result = timeout(self.timeout, self.run(url, &mut probe)).await;
        let result = result.map_err(BoxError::from).and_then(|result| result).map_err(|error| {
            let is_late = error.is::<Elapsed>() || is_timeout(&*error);
            let cause = FailureCause::of_transport(&*error, true, is_late);
            let kind = if is_late { ErrorKind::Timeout } else { ErrorKind::Unavailable };
            Error::new(kind, format!("connecting to {}", RedactedUrl(url))).with_cause(cause).caused_by(Cause(error))
        });
        (probe, result)
    }

    async fn run(&self, url: &Url, probe: &mut Probe) -> Result<(), BoxError> {
        let uri = Uri::try_from(url.as_str())?;
        if self.proxies.intercept(&uri).is_some() {
            probe.by_proxy = true;
            return Ok(());
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![SocketAddr::from((address, port))],
            Some(Host::Ipv6(address)) => vec![SocketAddr::from((address, port))],
            Some(Host::Domain(name)) => {
                let begun = Instant::now();
                let found = self.filter.resolve_name(name).await?;
                probe.lookup = Some(begun.elapsed());
                found.into_iter().map(|address| SocketAddr::new(address.ip(), port)).collect()
            }
            None => return Err("the URL has no host".into()),
        };
        let begun = Instant::now();
        let stream = TcpStream::connect(&*addresses).await?;
        probe.connect = Some(begun.elapsed());
        if url.scheme() != "https" {
            return Ok(());
        }
        let name = match url.host() {
            Some(Host::Ipv4(address)) => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from(address))),
            Some(Host::Ipv6(address)) => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from(address))),
            _ => ServerName::try_from(url.host_str().unwrap_or_default().to_owned())?,
        };
        let begun = Instant::now();
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        probe.handshake = Some(begun.elapsed());
        let (_, session) = stream.get_ref();
        probe.certificate = session.peer_certificates().and_then(<[_]>::first).map(PeerCertificate::of);
        Ok(())
    }
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// An error as the source of another.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Cause(BoxError);

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tokio::net::TcpListener;

    use super::{super::trust, *};

    fn prober(url: &Url) -> Prober {
        Prober::new(&ClientOptions {
            headers: HeaderMap::new(),
            tls: trust::configuration("x.io", vec![]).unwrap(),
            filter: AddressFilter::new(std::slice::from_ref(url), &[]),
            connect_timeout: Duration::from_secs(5),
        })
    }

    #[tokio::test]
    async fn a_probe_tells_how_far_it_came() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        for (url, lookup, connect, cause) in [
            (format!("http://127.0.0.1:{port}"), false, true, None),
            (format!("http://localhost:{port}"), true, true, None),
            (format!("https://127.0.0.1:{port}"), false, true, Some(FailureCause::Tls)),
            (format!("http://{}.test", "n".repeat(70)), false, false, Some(FailureCause::Dns)),
        ] {
            let url: Url = url.parse().unwrap();
            let (probe, result) = prober(&url).probe(&url).await;
            assert_eq!((probe.lookup.is_some(), probe.connect.is_some()), (lookup, connect), "{url}");
            assert_eq!(result.err().and_then(|error| error.failure_cause()), cause, "{url}");
            assert!(probe.handshake.is_none() && probe.certificate.is_none(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_host_behind_a_proxy_is_not_dialled() {
        let url: Url = "https://registry.test".parse().unwrap();
        let proxies = Matcher::builder().https("http://proxy.test:3128").build();
        let prober = Prober { proxies, ..prober(&url) };
        let (probe, result) = prober.probe(&url).await;
        assert!(result.is_ok() && probe.by_proxy && probe.lookup.is_none() && probe.connect.is_none());
    }
}
