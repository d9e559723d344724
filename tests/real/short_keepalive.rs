//! nginx in front of docker-registry, which closes a connection a second after its last request: just when the next one is sent.

use std::{fs, net::Ipv4Addr, time::Duration};

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::download::client;
use crate::support::forebay::Forebay;
use crate::support::image::{Format, Image};
use crate::support::port::free_port;
use crate::support::program;
use crate::support::registry::Registry;

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
        let configuration = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; {paths} keepalive_timeout 1s;\n\
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

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_nginx_closes_early_cost_no_client_a_thing() {
    let registry = Registry::open().await;
    registry.pusher().image("team/app", "1", &Image::new(Format::Oci, 70, &[10_000])).await;
    let nginx = Nginx::start(&registry).await;
    let upstream =
        format!("[[upstream]]\nname = \"hub.test\"\nurls = [\"http://127.0.0.1:{}\"]\ndefault = true\n", nginx.port);
    let forebay = Forebay::start(&upstream, &[]).await;
    let client = client();
    for round in 0..15_u64 {
        // Lists are asked for each time, and these are not one question.
        let urls = (0..AT_ONCE).map(|number| forebay.url(&format!("/v2/team/app/tags/list?n={}", number + 1)));
        let answers = join_all(urls.map(|url| client.get(url).send())).await;
        for answer in answers {
            assert_eq!(answer.expect("forebay answers").status(), 200, "{round}: {}", forebay.log());
        }
        tokio::time::sleep(Duration::from_micros(996_500 + round * 500)).await;
    }
}
