//! Hands TLS connections over to the kernel, so that blobs are sent from the page cache under TLS as well.
//!
//! rustls shakes hands; then the kernel gets the keys, if it has kTLS, and the connection is an ordinary [`Stream`] again: what
//! is written in the clear leaves encrypted, what is read comes decrypted. For HTTP/1.1 over TLS 1.3 only: HTTP/2 has frames of
//! 16 KiB between the kernel and the file, and few clients speak TLS 1.2.
//!
//! What must hold: until the keys have left rustls, a connection that cannot use the kernel goes on with rustls, silently. A
//! connection is handed over only between two records, with all that rustls has decrypted of it.

use std::io::{self, Read as _};

use rustls::{ConnectionTrafficSecrets, ProtocolVersion, ServerConnection};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::{
    super::socket::Stream,
    ktls::{self, Cipher, Direction},
};

/// A connection, by what encrypts it.
pub(in crate::transport) enum HandedOver {
    Kernel(Box<Stream>),
    Rustls(Box<TlsStream<Stream>>),
}

/// Hands a connection over to the kernel, if the kernel has its cipher. The handshake must be over.
///
/// # Errors
///
/// When the kernel refuses the keys after it has accepted everything else: the connection cannot go on.
pub(in crate::transport) fn hand_over(mut stream: TlsStream<Stream>) -> io::Result<HandedOver> {
    let (tcp, session) = stream.get_mut();
    let Some(cipher) = cipher_of(session).filter(|_| tcp.is_between_records()) else {
        return Ok(HandedOver::Rustls(Box::new(stream)));
    };
    // Without keys the socket is as it was: rustls can still go on with it.
    if let Err(error) = ktls::enable(&*tcp) {
        debug!(%error, "the kernel does not encrypt a connection");
        return Ok(HandedOver::Rustls(Box::new(stream)));
    }
    let mut decrypted = Vec::new();
    match session.reader().read_to_end(&mut decrypted) {
        // All that has been received is read.
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
        cipher.set_keys(&tcp, direction, sequence, key.as_ref(), iv.as_ref())?;
    }
    tcp.set_kernel_encryption(&decrypted);
    Ok(HandedOver::Kernel(Box::new(tcp)))
}

/// The cipher of a connection that can be handed over.
fn cipher_of(session: &mut ServerConnection) -> Option<Cipher> {
    let cipher = Cipher::offered(session.negotiated_cipher_suite()?.suite())?;
    let fits = session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && !session.is_handshaking()
        && !session.wants_write()
        // Processes nothing new: gives the state.
        && session.process_new_packets().is_ok_and(|state| !state.peer_has_closed());
    fits.then_some(cipher)
}
