//! How many bytes of a connection its client's kernel has not acknowledged yet.
//!
//! Of what is written the kernel takes megabytes at a time and then nothing for long, however steadily a slow client reads.
//! What is left in its queue tells how the client is. It is asked by a socket of its own, since SIOCOUTQ is not to be had
//! without `unsafe`. Source: sock_diag(7), linux/inet_diag.h.

use std::net::SocketAddr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use tokio::net::TcpStream;

/// `SOCK_DIAG_BY_FAMILY`, the type of the question and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// `nlmsghdr`, `inet_diag_sockid`, `inet_diag_req_v2`, in bytes.
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const QUESTION: usize = HEADER + 8 + SOCKET_ID;
/// Where `idiag_wqueue` stands in an answer: behind four small numbers, the socket, `idiag_expires` and `idiag_rqueue`.
const UNACKNOWLEDGED: usize = HEADER + 4 + SOCKET_ID + 8;

/// `None` where the kernel does not tell, or is not to be asked.
pub(crate) fn queued(tcp: &TcpStream) -> Option<u64> {
    let question = question(tcp.local_addr().ok()?, tcp.peer_addr().ok()?)?;
    let flags = SocketFlags::CLOEXEC;
    let asked = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG)).ok()?;
    send(&asked, &question, SendFlags::DONTWAIT).ok()?;
    let mut answer = [0; 512];
    // It is there: the kernel answers while it is asked.
    let (_, len) = recv(&asked, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    unacknowledged(answer.get(..len)?)
}

fn question(local: SocketAddr, peer: SocketAddr) -> Option<[u8; QUESTION]> {
    let (family, scope) = match local {
        SocketAddr::V4(_) => (AddressFamily::INET, 0),
        SocketAddr::V6(local) => (AddressFamily::INET6, local.scope_id()),
    };
    let mut bytes = Vec::with_capacity(QUESTION);
    bytes.extend(u32::try_from(QUESTION).ok()?.to_ne_bytes());
    bytes.extend([BY_FAMILY, REQUEST].map(u16::to_ne_bytes).as_flattened());
    bytes.extend([0; 8]);
    // The family, the protocol, nothing more than the least, and a socket in whatever state.
    bytes.extend([u8::try_from(family.as_raw()).ok()?, TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend([local.port(), peer.port()].map(u16::to_be_bytes).as_flattened());
    for address in [local, peer] {
        let mut octets = [0; 16];
        match address {
            SocketAddr::V4(address) => octets[..4].copy_from_slice(&address.ip().octets()),
            SocketAddr::V6(address) => octets = address.ip().octets(),
        }
        bytes.extend(octets);
    }
    bytes.extend(scope.to_ne_bytes());
    // No cookie.
    bytes.extend([0xff; 8]);
    bytes.try_into().ok()
}

fn unacknowledged(answer: &[u8]) -> Option<u64> {
    let kind = answer.get(4..6)?;
    if kind != BY_FAMILY.to_ne_bytes() {
        return None;
    }
    let bytes = answer.get(UNACKNOWLEDGED..)?.first_chunk()?;
    Some(u64::from(u32::from_ne_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_a_client_does_not_read_is_in_the_queue() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            // By IPv4 to a socket of IPv6, at last.
            let to = if address == "[::1]:0" { "::1" } else { "127.0.0.1" };
            let mut client = TcpStream::connect((to, port)).await.unwrap();
            let mut ours = listener.accept().await.unwrap().0;
            assert_eq!(queued(&ours), Some(0), "{address}");
            let mut written = 0;
            while let Ok(bytes) = ours.try_write(&[7; 65_536]) {
                written += bytes;
                let _ = ours.writable().now_or_never();
            }
            let full = queued(&ours).unwrap();
            assert!(full > 0 && full <= written as u64, "{full} of {written}");
            let mut half = vec![0; written / 2];
            client.read_exact(&mut half).await.unwrap();
            assert!(queued(&ours).unwrap() < full);
            ours.write_all(b"end").await.unwrap();
        }
    }

    #[test]
    fn an_error_of_the_kernel_tells_nothing() {
        assert_eq!(unacknowledged(&[]), None);
        // NLMSG_ERROR
        assert_eq!(unacknowledged(&[36, 0, 0, 0, 2, 0, 0, 0]), None);
        assert_eq!(unacknowledged(&[124, 0, 0, 0, 20, 0, 0, 0]), None);
    }
}
