//! Certificates: loading says what is wrong, reloading is for new handshakes only, clients may show theirs.

use std::{
    error::Error as _,
    fs,
    io::{Read as _, Write as _},
    time::Duration,
};

use forebay::transport::{ReloadableTls, TlsConfig, TlsError};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use forebay_test_support::{
    test_server::{Certificates, Setup, TestServer, read_until, send, shown},
    until::{soon, until},
};

const LOOK: Duration = Duration::from_millis(20);
const H1: &[&[u8]] = &[b"http/1.1"];

/// A server whose certificate files are watched.
fn watched(certificates: &Certificates) -> (TestServer, ReloadableTls) {
    let setup = Setup::tls(certificates);
    let tls = setup.tls.clone().unwrap();
    let server = setup.start();
    tokio::spawn(tls.clone().watch_every(LOOK, server.metrics.clone(), server.shutdown.clone()));
    (server, tls)
}

/// Takes the files over as a reload of the configuration does. Whether they are others than before.
fn reload(tls: &ReloadableTls, config: &TlsConfig) -> Result<bool, TlsError> {
    let before = tls.acceptor_config();
    let prepared = ReloadableTls::prepare(config)?;
    tls.may_become(&prepared)?;
    tls.replace(prepared);
    Ok(!std::sync::Arc::ptr_eq(&before, &tls.acceptor_config()))
}

async fn shows(certificates: &Certificates, server: &TestServer) -> Vec<u8> {
    shown(&certificates.connect(server, H1).await.unwrap())
}

#[tokio::test]
async fn a_new_certificate_serves_new_handshakes_only() {
    let certificates = Certificates::new();
    let (server, _) = watched(&certificates);
    let mut old = certificates.connect(&server, H1).await.unwrap();
    let before = shown(&old);
    assert_eq!(shows(&certificates, &server).await, before);
    certificates.renew();
    until("the reload", async || server.counted("forebay_reloads_total{result=\"ok\",what=\"tls\"} 1")).await;
    let after = shows(&certificates, &server).await;
    assert_ne!(after, before);
    send(&mut old, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut old, "hello\n").await;
    drop(old);
    server.end().await;
}

#[tokio::test]
async fn a_bad_new_certificate_keeps_the_old_and_is_told_of_once() {
    let certificates = Certificates::new();
    let (server, tls) = watched(&certificates);
    let before = shows(&certificates, &server).await;
    let good = fs::read(&certificates.config.certificate).unwrap();
    fs::write(&certificates.config.certificate, "-----BEGIN CERTIFICATE-----\nnot one").unwrap();
    let failed = "forebay_reloads_total{result=\"failed\",what=\"tls\"} 1";
    until("the failure", async || server.counted(failed)).await;
    assert!(reload(&tls, &certificates.config).is_err());
    assert_eq!(shows(&certificates, &server).await, before);
    // A key without its certificate is as bad, and it is another failure.
    fs::write(&certificates.config.certificate, &good).unwrap();
    fs::write(&certificates.config.key, certificates.issue(ExtendedKeyUsagePurpose::ServerAuth).1).unwrap();
    until("the second failure", async || server.counted("forebay_reloads_total{result=\"failed\",what=\"tls\"} 2"))
        .await;
    assert_eq!(shows(&certificates, &server).await, before);
    // When the rest of the pair arrives all is well.
    certificates.renew();
    until("the reload", async || server.counted("forebay_reloads_total{result=\"ok\",what=\"tls\"} 1")).await;
    assert_ne!(shows(&certificates, &server).await, before);
    assert!(server.counted("forebay_reloads_total{result=\"failed\",what=\"tls\"} 2"));
    server.end().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_not_taken_over() {
    for (from, to, why) in [(2001, 2002, "has expired on Tue, 01 Jan 2002"), (4001, 4002, "not valid yet: it is from")]
    {
        let certificates = Certificates::new();
        let (server, tls) = watched(&certificates);
        let before = shows(&certificates, &server).await;
        certificates.renew_for(from, to);
        // The first look may find the new certificate with the old key.
        until("the failure", async || {
            reload(&tls, &certificates.config).is_err_and(|error| error.to_string().contains(why))
        })
        .await;
        let failed = (1..3).map(|times| format!("forebay_reloads_total{{result=\"failed\",what=\"tls\"}} {times}"));
        let failed: Vec<_> = failed.collect();
        until("it is told", async || failed.iter().any(|line| server.counted(line))).await;
        assert_eq!(shows(&certificates, &server).await, before);
        // Nor with a new configuration.
        let prepared = ReloadableTls::prepare(&certificates.config).unwrap();
        assert!(tls.may_become(&prepared).unwrap_err().to_string().contains(why));
        certificates.renew();
        until("the reload", async || server.counted("forebay_reloads_total{result=\"ok\",what=\"tls\"} 1")).await;
        assert_ne!(shows(&certificates, &server).await, before);
        server.end().await;
    }
}

/// There is none to keep; and it must not keep the rest of a configuration from being taken over.
#[test]
fn a_start_uses_an_expired_certificate_for_want_of_another() {
    let certificates = Certificates::new();
    certificates.renew_for(2001, 2002);
    let tls = ReloadableTls::load(&certificates.config).unwrap();
    assert!(!reload(&tls, &certificates.config).unwrap());
    tls.may_become(&ReloadableTls::prepare(&certificates.config).unwrap()).unwrap();
    certificates.renew_for(2003, 2004);
    assert!(reload(&tls, &certificates.config).is_err(), "another that is no better");
    certificates.renew();
    assert!(reload(&tls, &certificates.config).unwrap());
}

#[test]
fn reload_says_whether_there_was_anything_new() {
    let certificates = Certificates::new();
    let tls = ReloadableTls::load(&certificates.config).unwrap();
    assert!(!reload(&tls, &certificates.config).unwrap());
    let before = tls.acceptor_config();
    certificates.renew();
    assert!(reload(&tls, &certificates.config).unwrap());
    assert!(!std::sync::Arc::ptr_eq(&before, &tls.acceptor_config()));
    fs::remove_file(&certificates.config.key).unwrap();
    assert!(reload(&tls, &certificates.config).is_err());
}

#[tokio::test]
async fn files_that_moved_are_used_and_watched() {
    let certificates = Certificates::new();
    let (server, tls) = watched(&certificates);
    let before = shows(&certificates, &server).await;
    let moved =
        TlsConfig { certificate: certificates.path("moved.crt"), key: certificates.path("moved.key"), client_ca: None };
    assert!(ReloadableTls::prepare(&moved).is_err());
    // The same files in another place are no new certificate.
    fs::rename(&certificates.config.certificate, &moved.certificate).unwrap();
    fs::rename(&certificates.config.key, &moved.key).unwrap();
    let configuration = tls.acceptor_config();
    tls.replace(ReloadableTls::prepare(&moved).unwrap());
    assert!(std::sync::Arc::ptr_eq(&configuration, &tls.acceptor_config()));
    assert!(!reload(&tls, &moved).unwrap());
    // What is prepared is not yet used.
    let (certificate, key) = certificates.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let third = TlsConfig { certificate: certificates.path("third.crt"), key: certificates.path("third.key"), ..moved };
    fs::write(&third.certificate, certificate).unwrap();
    fs::write(&third.key, key).unwrap();
    let prepared = ReloadableTls::prepare(&third).unwrap();
    assert_eq!(shows(&certificates, &server).await, before);
    tls.replace(prepared);
    let after = shows(&certificates, &server).await;
    assert_ne!(after, before);
    // The watch follows.
    let (certificate, key) = certificates.issue(ExtendedKeyUsagePurpose::ServerAuth);
    fs::write(&third.certificate, certificate).unwrap();
    fs::write(&third.key, key).unwrap();
    until("the reload", async || server.counted("forebay_reloads_total{result=\"ok\",what=\"tls\"} 1")).await;
    assert_ne!(shows(&certificates, &server).await, after);
    server.end().await;
}

#[tokio::test]
async fn the_watch_ends() {
    let certificates = Certificates::new();
    let tls = ReloadableTls::load(&certificates.config).unwrap();
    let shutdown = CancellationToken::new();
    let metrics = forebay::metrics::Metrics::new().unwrap();
    let watch = tokio::spawn(tls.watch(metrics, shutdown.clone()));
    shutdown.cancel();
    soon("the end of the watch", watch).await.unwrap();
}

#[test]
fn loading_names_the_file_that_is_wrong() {
    let certificates = Certificates::new();
    let config = &certificates.config;
    let (certificate, key) = (fs::read(&config.certificate).unwrap(), fs::read(&config.key).unwrap());
    let other_key = certificates.issue(ExtendedKeyUsagePurpose::ServerAuth).1.into_bytes();
    let client_ca = certificates.path("clients.crt");
    for (crt, private, ca, expected) in [
        (None, Some(&key[..]), None, "cannot read TLS.CRT"),
        (Some(&certificate[..]), None, None, "cannot read TLS.KEY"),
        (Some(&b""[..]), Some(&key[..]), None, "TLS.CRT contains no certificate"),
        (Some(&key[..]), Some(&key[..]), None, "TLS.CRT contains no certificate"),
        (
            Some(&b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"[..]),
            Some(&key[..]),
            None,
            "TLS.CRT does not begin with a usable certificate",
        ),
        (
            Some(&b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"[..]),
            Some(&key[..]),
            None,
            "TLS.CRT is not PEM",
        ),
        (
            Some(&certificate[..]),
            Some(&certificate[..]),
            None,
            "TLS.KEY contains no private key that is PKCS#8, PKCS#1 or SEC1 and not encrypted",
        ),
        (
            Some(&certificate[..]),
            Some(&other_key[..]),
            None,
            "the key in TLS.KEY does not belong to the first certificate in TLS.CRT",
        ),
        (Some(&certificate[..]), Some(&key[..]), Some(&b""[..]), "CLIENTS.CRT contains no certificate"),
    ] {
        for (path, content) in [(&config.certificate, crt), (&config.key, private), (&client_ca, ca)] {
            let _ = fs::remove_file(path);
            if let Some(content) = content {
                fs::write(path, content).unwrap();
            }
        }
        let mut config = config.clone();
        config.client_ca = ca.map(|_| client_ca.clone());
        let error = ReloadableTls::load(&config).err().unwrap();
        let said = error
            .to_string()
            .replace(&*config.certificate.to_string_lossy(), "TLS.CRT")
            .replace(&*config.key.to_string_lossy(), "TLS.KEY")
            .replace(&*client_ca.to_string_lossy(), "CLIENTS.CRT");
        assert_eq!(said, expected, "{:?}", error.source());
    }
}

#[tokio::test]
async fn a_client_may_show_a_certificate_of_the_client_ca() {
    let staff = Certificates::new();
    let strangers = Certificates::new();
    let certificates = Certificates::new().with_client_ca(&staff);
    let server = Setup::tls(&certificates).start();
    let with = |identity: &(String, String)| {
        let pem = format!("{}{}", identity.0, identity.1);
        certificates.client().identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap()
    };
    let url = server.https("/connection");

    let anonymous = certificates.client().build().unwrap();
    assert_eq!(anonymous.get(&url).send().await.unwrap().text().await.unwrap(), "true localhost false");
    let known = with(&staff.issue(ExtendedKeyUsagePurpose::ClientAuth));
    assert_eq!(known.get(&url).send().await.unwrap().text().await.unwrap(), "true localhost true");
    for stranger in [
        with(&strangers.issue(ExtendedKeyUsagePurpose::ClientAuth)),
        // A server's certificate is no client's.
        with(&staff.issue(ExtendedKeyUsagePurpose::ServerAuth)),
    ] {
        assert!(soon("a refusal", stranger.get(&url).send()).await.is_err());
    }
    server.end().await;
}

#[tokio::test]
async fn a_new_client_ca_ends_the_trust_in_the_old_one() {
    let (old, new) = (Certificates::new(), Certificates::new());
    let certificates = Certificates::new().with_client_ca(&old);
    let (server, _) = watched(&certificates);
    let (certificate, key) = old.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let identity = || reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap();
    // No connection is kept, so that each request is a handshake, and a ticket may be tried.
    let client = certificates.client().identity(identity()).pool_max_idle_per_host(0).build().unwrap();
    let url = server.https("/connection");
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "true localhost true");
    let certificates = certificates.with_client_ca(&new);
    until("the reload", async || server.counted("forebay_reloads_total{result=\"ok\",what=\"tls\"} 1")).await;
    assert!(soon("a refusal", client.get(&url).send()).await.is_err());
    drop(certificates);
    server.end().await;
}

/// What a client has to send now.
fn flight(session: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}

async fn receive(tcp: &mut TcpStream, session: &mut ClientConnection) {
    let mut buffer = [0; 4096];
    let n = soon("the server's turn", tcp.read(&mut buffer)).await.unwrap();
    assert_ne!(n, 0, "the server closed");
    let mut bytes = &buffer[..n];
    while !bytes.is_empty() {
        session.read_tls(&mut bytes).unwrap();
        session.process_new_packets().unwrap();
    }
}

/// Bytes that the handshake has read beyond its end belong to the first request.
#[tokio::test]
async fn a_request_sent_with_the_end_of_the_handshake_is_answered() {
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).start();
    for early in [0, 3, 5, 20, usize::MAX] {
        let mut tcp = server.connect().await;
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(certificates.client_config(H1), name).unwrap();
        let last = loop {
            let flight = flight(&mut session);
            if !session.is_handshaking() {
                break flight;
            }
            tcp.write_all(&flight).await.unwrap();
            receive(&mut tcp, &mut session).await;
        };
        session.writer().write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let request = flight(&mut session);
        let (now, later) = request.split_at(early.min(request.len()));
        tcp.write_all(&[&last, now].concat()).await.unwrap();
        // A ticket says that the server has read that.
        while session.tls13_tickets_received() == 0 {
            receive(&mut tcp, &mut session).await;
        }
        tcp.write_all(later).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello\n") {
            // More may come: an error that is none.
            let _ = session.reader().read_to_end(&mut answer);
            if !answer.ends_with(b"hello\n") {
                receive(&mut tcp, &mut session).await;
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{early}");
    }
    server.end().await;
}
