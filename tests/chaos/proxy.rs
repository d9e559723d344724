//! The line between forebay and an upstream, on which everything goes wrong that may: one request on each connection.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::{
    dice::Dice,
    fault::{Fault, Kind},
    tally::Tally,
};

const HEAD: usize = 64 * 1024;
/// As long as a hang lasts here: longer than forebay waits.
const HANG: Duration = Duration::from_secs(90);

pub struct Proxy {
    pub port: u16,
    line: Arc<Line>,
    task: JoinHandle<()>,
}

struct Line {
    name: &'static str,
    port: u16,
    target: SocketAddr,
    seed: u64,
    percent: AtomicU64,
    tally: Arc<Tally>,
    /// How often each request came, so that its fault depends on nothing else.
    seen: Mutex<HashMap<String, u64>>,
    /// Paths whose next request has a dead token.
    dead: Mutex<HashSet<String>>,
    /// What signed URLs lead to: path and Authorization.
    signed: Mutex<HashMap<String, (String, Option<String>)>>,
    /// Digests of which wrong bytes were sent.
    lied: Mutex<HashSet<String>>,
    /// Digests and tags, and when they were last refused as a whole.
    refused: Mutex<HashMap<String, Instant>>,
}

impl Proxy {
    /// `percent` of the requests that a fault may befall have one.
    pub async fn before(name: &'static str, target: u16, seed: u64, percent: u64, tally: Arc<Tally>) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let line = Arc::new(Line {
            name,
            port,
            target: (Ipv4Addr::LOCALHOST, target).into(),
            seed,
            percent: AtomicU64::new(percent),
            tally,
            seen: Mutex::default(),
            dead: Mutex::default(),
            signed: Mutex::default(),
            lied: Mutex::default(),
            refused: Mutex::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&line)));
        Proxy { port, line, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&self) {
        self.line.percent.store(0, Ordering::Relaxed);
    }

    /// Wrong bytes of this digest have been sent by this line.
    pub fn has_lied_about(&self, digest: &str) -> bool {
        self.line.lied.lock().unwrap().contains(digest)
    }

    /// It has refused this digest or tag, with or without a Range, since then.
    pub fn has_refused_since(&self, name: &str, since: Instant) -> bool {
        self.line.refused.lock().unwrap().get(name).is_some_and(|last| *last >= since)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, line: Arc<Line>) {
    let mut connections = JoinSet::new();
    for number in 0_u64.. {
        let Ok((client, _)) = listener.accept().await else { continue };
        let line = Arc::clone(&line);
        connections.spawn(async move {
            // Both sides may go away whenever they like.
            line.carry(client, number).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Asked {
    method: String,
    path: String,
    lines: Vec<String>,
    /// What of the content came with the head.
    rest: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn kind(&self) -> Kind {
        match &*self.method {
            "GET" if !self.path.contains("/blobs/sha256:") => Kind::Other,
            "GET" if self.header("range").is_some() => Kind::Part,
            "GET" => Kind::Whole,
            "HEAD" => Kind::Other,
            _ => Kind::Change,
        }
    }

    /// The head as the registry is to see it.
    fn head(&self, path: &str, authorization: Option<&str>) -> String {
        let mut head = format!("{} {path} HTTP/1.1\r\n", self.method);
        for line in &self.lines {
            let name = line.split(':').next().unwrap_or_default();
            if !["connection", "authorization"].iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) {
                head.push_str(&format!("{line}\r\n"));
            }
        }
        if let Some(value) = authorization {
            head.push_str(&format!("Authorization: {value}\r\n"));
        }
        head.push_str("Connection: close\r\n\r\n");
        head
    }
}

impl Line {
    async fn carry(&self, mut client: TcpStream, number: u64) -> io::Result<()> {
        client.set_nodelay(true)?;
        let percent = self.percent.load(Ordering::Relaxed);
        let mut dice = Dice::new(self.seed, (self.name, "connection", number));
        if dice.percent(percent / 10) {
            self.count(Fault::Refuse);
            return reset(client);
        }
        let asked = read_head(&mut client).await?;
        let key = format!("{} {} {}", asked.method, asked.path, asked.header("range").is_some());
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            let nth = seen.entry(key.clone()).or_default();
            *nth += 1;
            *nth
        };
        let mut dice = Dice::new(self.seed, (self.name, &key, nth));
        let mut fault = Fault::choose(&mut dice, asked.kind(), percent);
        if self.dead.lock().unwrap().remove(&asked.path) {
            fault = Some(Fault::DeadToken);
        }
        if let Some(fault) = fault {
            self.count(fault);
        }
        self.answer(client, asked, fault, &mut dice).await
    }

    fn count(&self, fault: Fault) {
        self.tally.count(format!("fault {} {fault:?}", self.name));
        self.tally.fault(fault.class());
    }

    async fn answer(
        &self,
        mut client: TcpStream,
        asked: Asked,
        fault: Option<Fault>,
        dice: &mut Dice,
    ) -> io::Result<()> {
        let mut authorization = asked.header("authorization").map(str::to_owned);
        let mut path = asked.path.clone();
        if let Some(name) = asked.path.strip_prefix("/signed/") {
            // It works once.
            let Some((to, with)) = self.signed.lock().unwrap().remove(name) else {
                return plain(client, 403, "text/xml", "<Error><Code>AccessDenied</Code></Error>").await;
            };
            (path, authorization) = (to, with);
        }
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        if fault.is_some_and(Fault::refuses) {
            self.refused.lock().unwrap().insert(name.clone(), Instant::now());
        }
        if fault.is_some_and(Fault::lies_about_content) {
            self.lied.lock().unwrap().insert(name);
        }
        match fault {
            Some(Fault::Refuse | Fault::ResetAtHead) => return reset(client),
            Some(Fault::Silence) => return hang(client).await,
            Some(Fault::ServerError(status) | Fault::RangeRefused(status)) => {
                return plain(client, status, "text/plain", "broken").await;
            }
            Some(Fault::TooManyRequests) => return plain(client, 429, "text/plain", "slow down").await,
            Some(Fault::Html) => return plain(client, 200, "text/html", "<html>please log in</html>").await,
            Some(Fault::DeadToken) => authorization = None,
            Some(fault @ (Fault::Redirect | Fault::ExpiredRedirect)) => {
                let name = format!("{:x}", dice.next());
                if fault == Fault::Redirect {
                    self.signed.lock().unwrap().insert(name.clone(), (path, authorization));
                }
                let location = format!("http://127.0.0.1:{}/signed/{name}", self.port);
                let head = format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                client.write_all(head.as_bytes()).await?;
                return client.shutdown().await;
            }
            Some(Fault::ResetAndDeadToken) => {
                self.dead.lock().unwrap().insert(asked.path.clone());
            }
            _ => {}
        }
        let mut head = asked.head(&path, authorization.as_deref());
        if fault == Some(Fault::RangeIgnored) {
            head =
                head.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("range:")).collect();
        }
        let Ok(mut server) = TcpStream::connect(self.target).await else { return reset(client) };
        server.write_all(head.as_bytes()).await?;
        server.write_all(&asked.rest).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let content = async {
            tokio::io::copy(&mut from_client, &mut to_server).await.ok();
            std::future::pending::<io::Result<()>>().await
        };
        let back = deliver(&mut from_server, &mut to_client, fault, dice);
        let delivered = tokio::select! { ended = content => ended, ended = back => ended };
        let client = from_client.reunite(to_client).map_err(io::Error::other)?;
        match delivered {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(_) => reset(client),
        }
    }
}

/// The registry's answer, spoilt. `Err`: to be reset, or ended where it is an `UnexpectedEof`.
async fn deliver(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    fault: Option<Fault>,
    dice: &mut Dice,
) -> io::Result<()> {
    let mut read = Vec::new();
    let at = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if read.len() > HEAD || from.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    };
    let mut body = read.split_off(at);
    let text = String::from_utf8_lossy(&read).into_owned();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    });
    let mut head = String::new();
    for line in text.trim_end().lines() {
        let lower = line.to_ascii_lowercase();
        if lower.starts_with("content-length:")
            && let Some(length) = length
        {
            let told = match fault {
                Some(Fault::LengthTooLarge) => length + 7,
                Some(Fault::LengthTooSmall) => length.saturating_sub(7),
                _ => length,
            };
            head.push_str(&format!("Content-Length: {told}\r\n"));
        } else if !(lower.starts_with("connection:")
            || fault == Some(Fault::RangeUntold) && lower.starts_with("content-range:"))
        {
            head.push_str(&format!("{line}\r\n"));
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    to.write_all(head.as_bytes()).await?;
    let length = length.unwrap_or_default();
    let middle = length / 4 + dice.below(length / 2 + 1);
    let wrong_at = dice.below(length);
    let stop = match fault {
        Some(Fault::ResetAtFirstByte) => 1,
        Some(Fault::ResetAtLastByte) => length.saturating_sub(1),
        Some(Fault::ResetInTheMiddle | Fault::ResetAndDeadToken | Fault::EndInTheMiddle) => middle,
        Some(Fault::Pause | Fault::Hang | Fault::Trickle) => middle,
        _ => u64::MAX,
    };
    let mut sent = 0_u64;
    loop {
        if body.is_empty() && from.read_buf(&mut body).await? == 0 {
            break;
        }
        if fault == Some(Fault::WrongByte)
            && let Some(at) = wrong_at.checked_sub(sent)
            && let Some(byte) = usize::try_from(at).ok().and_then(|at| body.get_mut(at))
        {
            *byte ^= 1;
        }
        let now = body.len().min(usize::try_from(stop.saturating_sub(sent)).unwrap_or(usize::MAX));
        if sent < stop {
            to.write_all(body.get(..now).unwrap_or_default()).await?;
            sent += now as u64;
            body.drain(..now);
            continue;
        }
        match fault {
            Some(Fault::Pause) if sent == stop => sleep(Duration::from_millis(500 + dice.below(8000))).await,
            Some(Fault::Hang) => sleep(HANG).await,
            Some(Fault::Trickle) => {
                // For as long as forebay lets it.
                for byte in body.drain(..).take(HANG.as_secs() as usize) {
                    to.write_all(&[byte]).await?;
                    sleep(Duration::from_secs(1)).await;
                }
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Fault::EndInTheMiddle) => {
                to.shutdown().await?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Some(
                Fault::ResetAtFirstByte | Fault::ResetAtLastByte | Fault::ResetInTheMiddle | Fault::ResetAndDeadToken,
            ) => {
                // What was written has to be on its way before the reset overtakes it.
                sleep(Duration::from_millis(20)).await;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            _ => {}
        }
        to.write_all(&body).await?;
        sent += body.len() as u64;
        body.clear();
    }
    to.shutdown().await
}

async fn read_head(client: &mut TcpStream) -> io::Result<Asked> {
    let mut read = Vec::new();
    let at = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if read.len() > HEAD || client.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let rest = read.split_off(at);
    let text = String::from_utf8_lossy(&read);
    let mut lines = text.trim_end().lines().map(str::to_owned);
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Asked { method, path, lines: lines.collect(), rest })
}

async fn plain(mut client: TcpStream, status: u16, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Chaos\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}"
    );
    client.write_all(head.as_bytes()).await?;
    client.shutdown().await
}

async fn hang(mut client: TcpStream) -> io::Result<()> {
    // Until forebay goes away.
    tokio::time::timeout(HANG, client.read(&mut [0; 1024])).await.map_err(io::Error::other)??;
    Ok(())
}

fn reset(client: TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    drop(client);
    Ok(())
}
