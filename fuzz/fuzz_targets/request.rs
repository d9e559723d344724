//! One whole request, byte by byte as a client sends it: forebay responds in HTTP, never with 500. It requests from its
//! upstream only paths of a registry, and sends it none of the client's credentials or cookies.

#![no_main]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::LazyLock,
    thread,
    time::Duration,
};

use forebay::{
    app::{App, Inherited},
    config::{Config, Overrides},
};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// How long to wait for a response: forebay may be waiting for more of the request.
const PATIENCE: Duration = Duration::from_millis(100);

struct Mirror {
    address: SocketAddr,
    _runtime: Runtime,
    _app: App,
}

static MIRROR: LazyLock<Mirror> = LazyLock::new(|| {
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = upstream.local_addr().expect("it is bound").port();
    thread::spawn(move || upstream.incoming().flatten().for_each(answer));
    // An earlier process of the same number may have left a cache, which does no harm.
    let folder = std::env::temp_dir().join(format!("forebay-fuzz-{}", std::process::id()));
    let (cache, state) = (folder.join("cache"), folder.join("state"));
    let text = format!(
        "state_directory = {state:?}\n[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [cache]\ndirectory = {cache:?}\nmax_size = \"16 MiB\"\nmin_free = 0\ntag_ttl = \"1s\"\nnegative_ttl = \"1s\"\n\
         [[upstream]]\nname = \"docker.io\"\nurls = [\"http://127.0.0.1:{port}\"]\ndefault = true\n\
         [[upstream]]\nname = \"push.test\"\nurls = [\"http://127.0.0.1:{port}\"]\npush = true\n"
    );
    let config = Config::parse(&text, Path::new("/forebay.toml"), Overrides::default()).expect("it is good");
    let runtime = Runtime::new().expect("there is a runtime");
    let app = runtime.block_on(App::start(config, Inherited::default())).expect("forebay starts");
    let address = *app.local_addrs().first().expect("it listens");
    Mirror { address, _runtime: runtime, _app: app }
});

/// Plays the upstream: judges the request, and serves one document under every name.
fn answer(mut client: TcpStream) {
    thread::spawn(move || {
        client.set_read_timeout(Some(Duration::from_secs(1))).ok();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match client.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).expect("what forebay asks is text").to_ascii_lowercase();
        let target = head.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        assert!(path.starts_with("/v2/"), "{head}");
        assert!(!path.split('/').any(|part| matches!(part, "." | "..")), "{head}");
        for hidden in ["authorization:", "cookie:", "proxy-authorization:"] {
            assert!(!head.lines().any(|line| line.starts_with(hidden)), "{head}");
        }
        assert_eq!(head.lines().filter(|line| line.starts_with("host: 127.0.0.1:")).count(), 1, "{head}");
        let length = MANIFEST.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{MANIFEST}"
        );
        client.write_all(answer.as_bytes()).ok();
    });
}

// The target always adds the last lines of the head, so that most inputs are whole requests.
fuzz_target!(|data: &[u8]| {
    let mut client = TcpStream::connect(MIRROR.address).expect("forebay accepts");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let sent = client.write_all(&[data, b"\r\nConnection: close\r\n\r\n"].concat());
    let mut answer = Vec::new();
    // A reset after the response keeps the bytes that came before it.
    client.read_to_end(&mut answer).ok();
    if sent.is_err() || answer.is_empty() || data.starts_with(b"PRI ") {
        return;
    }
    let head = String::from_utf8_lossy(answer.get(..12).unwrap_or(&answer)).into_owned();
    assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head}");
    assert!(!head.ends_with(" 500"), "{head}");
});
