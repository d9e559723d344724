//! nginx in front of docker-registry, which closes a connection a second after its last request: just when the next one is sent.

use std::{
    fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use forebay_test_support::{
    real::{
        daemon::Daemon,
        download::client,
        forebay::Forebay,
        image::{Format, Image},
        port::free_port,
        program,
        registry::Registry,
    },
    until::until,
};

/// How many requests are sent at once: so many connections are kept, and closed at once.
const AT_ONCE: usize = 8;

/// nginx on a port of its own, before a registry; it ends with this value.
struct Nginx {
    port: u16,
    // Before the folder: it must be gone when its files are removed.
    _daemon: Daemon,
    _folder: TempDir,
}

impl Nginx {
    async fn start(registry: &Registry) -> Nginx {
        let folder = TempDir::with_prefix("nginx-").expect("a folder can be made");
        let port = free_port();
        let root = folder.path().display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {root}/{kind};"))
            .concat();
        // A connection that no request comes on ends by client_header_timeout: forebay may open one more than it needs.
        let configuration = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; {paths} keepalive_timeout 1s; client_header_timeout 5s;\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {}; proxy_set_header Host $http_host; }} }} }}\n",
            registry.url()
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration).expect("the configuration can be written");
        let mut command = program::command("nginx", "nginx-light");
        command.arg("-e").arg("stderr").arg("-p").arg(folder.path()).arg("-c").arg(&file);
        let mut daemon = Daemon::spawn("nginx", command, &folder.path().join("log"));
        daemon.until_listening((Ipv4Addr::LOCALHOST, port).into()).await;
        Nginx { port, _daemon: daemon, _folder: folder }
    }
}

/// Stands between forebay and nginx, and lets forebay know of an end only when it has sent something more: as where its request and
/// nginx's end cross on the way.
struct Crossing {
    port: u16,
    counts: Arc<Counts>,
    running: JoinHandle<()>,
}

/// Connections.
#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    /// That nginx has ended.
    ended: AtomicUsize,
    /// On which a request came after that.
    crossed: AtomicUsize,
}

impl Crossing {
    async fn start(nginx: &Nginx) -> Crossing {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let (to, counts) = (nginx.port, Arc::<Counts>::default());
        let counting = counts.clone();
        let running = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counting.begun.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(stream, to, counting.clone()));
            }
        });
        Crossing { port, counts, running }
    }

    /// Waits until nginx has ended all connections.
    async fn until_ended(&self) {
        let counts = &self.counts;
        let all = async || (counts.ended.load(Ordering::SeqCst) == counts.begun.load(Ordering::SeqCst)).then_some(());
        until("nginx has ended all connections", all).await;
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Ends both connections with either's end, but for that of nginx.
async fn pass(mut forebay: TcpStream, port: u16, counts: Arc<Counts>) {
    let mut nginx = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("nginx listens");
    let (mut request, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut has_ended, mut waits) = (false, false);
    loop {
        tokio::select! {
            read = forebay.read(&mut request) => match read {
                Ok(len) if len > 0 && !has_ended => {
                    waits = true;
                    nginx.write_all(&request[..len]).await.expect("nginx reads");
                }
                Ok(len) if len > 0 => {
                    counts.crossed.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                _ => break,
            },
            read = nginx.read(&mut answer), if !has_ended => match read {
                Ok(len) if len > 0 => {
                    waits = false;
                    forebay.write_all(&answer[..len]).await.expect("forebay reads");
                }
                _ if waits => break,
                _ => {
                    has_ended = true;
                    counts.ended.fetch_add(1, Ordering::SeqCst);
                }
            },
        }
    }
    if !has_ended {
        counts.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_nginx_closes_early_cost_no_client_a_thing() {
    let registry = Registry::open().await;
    registry.pusher().image("team/app", "1", &Image::new(Format::Oci, 70, &[10_000])).await;
    let nginx = Nginx::start(&registry).await;
    let crossing = Crossing::start(&nginx).await;
    let upstream =
        format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"http://127.0.0.1:{}\"]\ndefault = true\n", crossing.port);
    let forebay = Forebay::start(&upstream, &[]).await;
    let client = client();
    for round in 0..3 {
        // No two of these are one question, and of none is there an answer of before.
        let numbers = (1..=AT_ONCE).map(|number| round * AT_ONCE + number);
        let urls = numbers.map(|number| forebay.url(&format!("/v2/team/app/tags/list?n={number}")));
        let answers = join_all(urls.map(|url| client.get(url).send())).await;
        for answer in answers {
            assert_eq!(answer.expect("forebay answers").status(), 200, "{round}: {}", forebay.log());
        }
        crossing.until_ended().await;
    }
    let crossed = crossing.counts.crossed.load(Ordering::SeqCst);
    assert!(crossed > 0, "no request was sent on a connection that nginx had ended");
}
