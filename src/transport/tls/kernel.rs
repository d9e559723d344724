//! TLS that the kernel encrypts and decrypts, so that blobs leave from the page cache under TLS as well.
//!
//! rustls shakes hands; then, where the kernel has kTLS, it is given the keys, and the connection is an ordinary
//! [`Stream`] again: what is written in the clear leaves encrypted, what is read comes decrypted. For HTTP/1.1 over TLS
//! 1.3 only. HTTP/2 has frames of 16 KiB between the kernel and the file, and clients of TLS 1.2 are few.
//!
//! What must hold: until the keys have left rustls nothing is lost by not using the kernel, and nobody is told. A
//! connection is handed over at a boundary between records only, with all that rustls has decrypted of it.
//!
//! Source: Documentation/networking/tls.rst of the kernel.

use std::{
    io::{self, IoSlice, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::LazyLock,
};

use nix::{
    libc,
    sys::socket::{
        setsockopt,
        sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo},
    },
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ProtocolVersion, ServerConnection};
use socket2::{MsgHdr, SockRef};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::super::socket::Stream;

/// What this kernel can do, found out once.
static OFFERED: LazyLock<Vec<Cipher>> = LazyLock::new(|| {
    let offered = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];
    let offered: Vec<Cipher> = offered.into_iter().filter(|cipher| cipher.probe().is_ok()).collect();
    debug!(ciphers = ?offered, "asked the kernel what it encrypts (kTLS)");
    offered
});

/// The ciphers that both the kernel and rustls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// Who encrypts a connection.
pub(crate) enum Handed {
    Kernel(Stream),
    Rustls(Box<TlsStream<Stream>>),
}

/// Whether any connection can be handed to the kernel. The first call asks it, by sockets of the process's own.
pub(crate) fn is_offered() -> bool {
    !OFFERED.is_empty()
}

/// Hands a connection to the kernel, if the kernel has what it takes. Its handshake must be over.
///
/// # Errors
///
/// When the kernel refuses the keys after it has agreed to everything else: the connection cannot go on.
pub(crate) fn hand_over(mut stream: TlsStream<Stream>) -> io::Result<Handed> {
    let (tcp, session) = stream.get_mut();
    let Some(cipher) = fitting(session).filter(|_| tcp.is_between_records()) else {
        return Ok(Handed::Rustls(Box::new(stream)));
    };
    // Without keys the socket is as it was: rustls can still go on with it.
    if let Err(error) = enable(&*tcp) {
        debug!(%error, "the kernel does not encrypt a connection");
        return Ok(Handed::Rustls(Box::new(stream)));
    }
    let mut decrypted = Vec::new();
    match session.reader().read_to_end(&mut decrypted) {
        // More may come, that is all.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
        Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    let (mut tcp, session) = stream.into_inner();
    let secrets = session.dangerous_extract_secrets().map_err(io::Error::other)?;
    for (direction, (sequence, secrets)) in [(Direction::Send, secrets.tx), (Direction::Receive, secrets.rx)] {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let info = cipher.info(key.as_ref(), iv.as_ref(), sequence).ok_or(io::ErrorKind::Unsupported)?;
        direction.set(&tcp, &info)?;
    }
    tcp.is_encrypted_by_the_kernel(&decrypted);
    Ok(Handed::Kernel(tcp))
}

/// The cipher of a connection that can be handed over.
fn fitting(session: &mut ServerConnection) -> Option<Cipher> {
    let cipher = Cipher::of(session.negotiated_cipher_suite()?.suite())?;
    let fits = OFFERED.contains(&cipher)
        && session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && !session.is_handshaking()
        && !session.wants_write()
        // Nothing new: how it stands.
        && session.process_new_packets().is_ok_and(|state| !state.peer_has_closed());
    fits.then_some(cipher)
}

/// Says on an encrypted connection that nothing follows, without waiting; RFC 8446 section 6.1.
///
/// # Errors
///
/// `WouldBlock` while there is no room to spare in the socket. The kernel would take the alert all the same, and keep
/// it, with the end of what went before; and whoever then shuts the socket down cuts both off.
pub(crate) fn close_notify(socket: impl AsFd) -> io::Result<()> {
    const ALERT: u8 = 21;
    const WARNING_CLOSE_NOTIFY: [u8; 2] = [1, 0];
    let mut ready = [PollFd::new(&socket, PollFlags::OUT)];
    rustix::event::poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if ready[0].revents().is_empty() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // A `struct cmsghdr` with one byte: the type of the record.
    let mut control = Vec::new();
    let head = size_of::<libc::cmsghdr>();
    control.extend((head + 1).to_ne_bytes());
    control.extend(libc::SOL_TLS.to_ne_bytes());
    control.extend(libc::TLS_SET_RECORD_TYPE.to_ne_bytes());
    control.push(ALERT);
    control.resize(head + size_of::<usize>(), 0);
    let alert = [IoSlice::new(&WARNING_CLOSE_NOTIFY)];
    let message = MsgHdr::new().with_buffers(&alert).with_control(&control);
    SockRef::from(&socket).sendmsg(&message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).map(drop)
}

/// Puts kTLS under a socket, for keys to follow.
fn enable(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, TcpUlp::default(), b"tls")?)
}

#[derive(Clone, Copy)]
enum Direction {
    Send,
    Receive,
}

impl Direction {
    fn set(self, socket: &impl AsFd, info: &TlsCryptoInfo) -> io::Result<()> {
        Ok(match self {
            Direction::Send => setsockopt(socket, TcpTlsTx, info),
            Direction::Receive => setsockopt(socket, TcpTlsRx, info),
        }?)
    }
}

impl Cipher {
    fn of(suite: CipherSuite) -> Option<Cipher> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Cipher::Aes128Gcm),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Cipher::Aes256Gcm),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Cipher::Chacha20Poly1305),
            _ => None,
        }
    }

    /// The key's length, in bytes.
    fn key_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::Chacha20Poly1305 => 32,
        }
    }

    /// Gives the kernel keys for a connection of ours.
    fn probe(self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let info = self.info(&[0; 32][..self.key_len()], &[0; 12], 0).ok_or(io::ErrorKind::Unsupported)?;
        enable(&socket)?;
        Direction::Send.set(&socket, &info)?;
        Direction::Receive.set(&socket, &info)
    }

    /// What the kernel wants to know; `None` when the lengths are not the cipher's.
    fn info(self, key: &[u8], iv: &[u8], sequence: u64) -> Option<TlsCryptoInfo> {
        let about = |cipher_type| libc::tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type };
        let rec_seq = sequence.to_be_bytes();
        // Of the nonce's twelve bytes the kernel calls the first four salt.
        let (salt, rest) = iv.split_at_checked(4)?;
        Some(match self {
            Cipher::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                info: about(libc::TLS_CIPHER_AES_GCM_128),
                iv: rest.try_into().ok()?,
                key: key.try_into().ok()?,
                salt: salt.try_into().ok()?,
                rec_seq,
            }),
            Cipher::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                info: about(libc::TLS_CIPHER_AES_GCM_256),
                iv: rest.try_into().ok()?,
                key: key.try_into().ok()?,
                salt: salt.try_into().ok()?,
                rec_seq,
            }),
            Cipher::Chacha20Poly1305 => TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                info: about(libc::TLS_CIPHER_CHACHA20_POLY1305),
                iv: iv.try_into().ok()?,
                key: key.try_into().ok()?,
                salt: [],
                rec_seq,
            }),
        })
    }
}

/// How much the keys of one connection may still encrypt. The kernel keeps no count, and cannot be given new ones.
#[derive(Debug)]
pub(crate) struct RecordBudget {
    /// In records.
    left: u64,
}

impl RecordBudget {
    /// The longest record's content, in bytes; RFC 8446 section 5.1.
    const RECORD: u64 = 16 * 1024;
    /// RFC 8446 section 5.5 allows 2^24.5 records under one AES-GCM key; the response that crosses this bound is still
    /// finished.
    const RECORDS: u64 = 1 << 23;

    pub(crate) fn new() -> Self {
        Self { left: Self::RECORDS }
    }

    /// One write of so many bytes; whether any is left.
    pub(crate) fn spend(&mut self, bytes: usize) -> bool {
        self.left = self.left.saturating_sub(bytes as u64 / Self::RECORD + 1);
        self.left > 0
    }
}

/// Where in the stream of TLS records a reader is; RFC 8446 section 5.1.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The bytes of a record's head that have come.
    head: Vec<u8>,
    /// How many bytes of the record's content are still to come.
    content: usize,
}

impl Records {
    const HEAD: usize = 5;

    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (wanted, in_head) =
                if self.content > 0 { (self.content, false) } else { (Self::HEAD - self.head.len(), true) };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if !in_head {
                self.content -= now.len();
                continue;
            }
            self.head.extend_from_slice(now);
            if let [_, _, _, high, low] = self.head[..] {
                self.content = usize::from(u16::from_be_bytes([high, low]));
                self.head.clear();
            }
        }
    }

    pub(crate) fn is_between(&self) -> bool {
        self.head.is_empty() && self.content == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_records_is_between_records_however_they_come() {
        let records = [&[22, 3, 1, 0, 3, 1, 2, 3][..], &[20, 3, 3, 0, 0], &[23, 3, 3, 1, 2], &[9; 258]].concat();
        let ends = [8, 13, 13 + 5 + 258];
        for piece in [1, 2, 3, 5, 7, 100, records.len()] {
            let mut reading = Records::default();
            assert!(reading.is_between());
            let mut read = 0;
            for bytes in records.chunks(piece) {
                reading.read(bytes);
                read += bytes.len();
                assert_eq!(reading.is_between(), ends.contains(&read), "{read} bytes, {piece} at a time");
            }
        }
    }

    #[test]
    fn keys_last_for_so_many_records_of_any_length() {
        let mut small = RecordBudget::new();
        assert!((1..RecordBudget::RECORDS).all(|_| small.spend(1)));
        assert!(!small.spend(1) && !small.spend(1));
        let mut large = RecordBudget::new();
        let writes = (1..).take_while(|_| large.spend(1 << 20)).count() as u64;
        assert!((120 << 30..128 << 30).contains(&(writes << 20)), "{writes}");
    }

    #[test]
    fn keys_of_another_length_than_the_ciphers_are_none() {
        for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305] {
            let len = cipher.key_len();
            assert!(cipher.info(&vec![1; len], &[2; 12], 3).is_some());
            for (key, iv) in [(len - 1, 12), (len + 1, 12), (0, 12), (len, 11), (len, 13), (len, 3)] {
                assert!(cipher.info(&vec![1; key], &vec![2; iv], 3).is_none(), "{cipher:?} {key} {iv}");
            }
        }
    }
}
