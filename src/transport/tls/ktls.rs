//! The kernel's TLS (kTLS): which ciphers it has, and its socket options.
//!
//! Source: Documentation/networking/tls.rst of the kernel.

use std::{
    io::{self, IoSlice},
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
use rustls::CipherSuite;
use socket2::{MsgHdr, SockRef};
use tracing::debug;

/// The ciphers of this kernel.
static OFFERED: LazyLock<Vec<Cipher>> = LazyLock::new(|| {
    let offered = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];
    let offered: Vec<Cipher> = offered.into_iter().filter(|cipher| cipher.probe().is_ok()).collect();
    debug!(ciphers = ?offered, "asked the kernel what it encrypts (kTLS)");
    offered
});

/// The ciphers that both the kernel and rustls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// Whether the kernel can encrypt any connection. The first call tries it on sockets of this process.
pub(in crate::transport) fn is_offered() -> bool {
    !OFFERED.is_empty()
}

/// Sends the closure alert on an encrypted connection, without waiting; RFC 8446 section 6.1.
///
/// # Errors
///
/// `WouldBlock` while the socket has no room to spare. The kernel would take the alert all the same and keep it, together with
/// the end of the response; a shutdown of the socket would then cut off both.
pub(in crate::transport) fn close_notify(socket: impl AsFd) -> io::Result<()> {
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

/// Makes a socket one of kTLS, which still needs its keys.
pub(super) fn enable(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, TcpUlp::default(), b"tls")?)
}

#[derive(Clone, Copy)]
pub(super) enum Direction {
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
    /// The cipher of a suite, if the kernel has it.
    pub(super) fn offered(suite: CipherSuite) -> Option<Cipher> {
        Cipher::of(suite).filter(|cipher| OFFERED.contains(cipher))
    }

    /// Gives the kernel the keys of one direction.
    ///
    /// # Errors
    /// The kernel refuses them, or they are not of the cipher's length.
    pub(super) fn set_keys(
        self,
        socket: &impl AsFd,
        direction: Direction,
        sequence: u64,
        key: &[u8],
        iv: &[u8],
    ) -> io::Result<()> {
        let info = self.info(key, iv, sequence).ok_or(io::ErrorKind::Unsupported)?;
        direction.set(socket, &info)
    }

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

    /// Gives the kernel keys for a connection of this process.
    fn probe(self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        enable(&socket)?;
        let key = &[0; 32][..self.key_len()];
        self.set_keys(&socket, Direction::Send, 0, key, &[0; 12])?;
        self.set_keys(&socket, Direction::Receive, 0, key, &[0; 12])
    }

    /// `None` if the key or the nonce is not of the cipher's length.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305] {
            let len = cipher.key_len();
            assert!(cipher.info(&vec![1; len], &[2; 12], 3).is_some());
            for (key, iv) in [(len - 1, 12), (len + 1, 12), (0, 12), (len, 11), (len, 13), (len, 3)] {
                assert!(cipher.info(&vec![1; key], &vec![2; iv], 3).is_none(), "{cipher:?} {key} {iv}");
            }
        }
    }
}
