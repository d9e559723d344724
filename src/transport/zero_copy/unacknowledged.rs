//! How many bytes of a connection its client's kernel has not acknowledged yet.
//!
//! However steadily a slow client reads, the kernel takes megabytes of a write at a time and then nothing for long. The length
//! of its send queue tells how fast the client is. It is read by a netlink socket, since SIOCOUTQ needs `unsafe`. Source: sock_diag(7), linux/inet_diag.h.

use std::net::SocketAddr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use tokio::net::TcpStream;

/// `SOCK_DIAG_BY_FAMILY`, the type of the request and of its response.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// `nlmsghdr`, `inet_diag_sockid`, `inet_diag_req_v2`, in bytes.
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const REQUEST_LEN: usize = HEADER + 8 + SOCKET_ID;
/// The offset of `idiag_wqueue` in a response: after four bytes, the socket, `idiag_expires` and `idiag_rqueue`.
const UNACKNOWLEDGED: usize = HEADER + 4 + SOCKET_ID + 8;

/// The length of the send queue; `None` if the kernel does not tell, or has no sock_diag.
pub(crate) fn queued(tcp: &TcpStream) -> Option<u64> {
    let request = request(tcp.local_addr().ok()?, tcp.peer_addr().ok()?)?;
    let flags = SocketFlags::CLOEXEC;
    let netlink_socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG)).ok()?;
    send(&netlink_socket, &request, SendFlags::DONTWAIT).ok()?;
    let mut response = [0; 512];
    // The response is there: the kernel responds within `send`.
    let (_, len) = recv(&netlink_socket, &mut response[..], RecvFlags::DONTWAIT).ok()?;
    unacknowledged(response.get(..len)?)
}

fn request(local: SocketAddr, peer: SocketAddr) -> Option<[u8; REQUEST_LEN]> {
    let (family, scope) = match local {
        SocketAddr::V4(_) => (AddressFamily::INET, 0),
        SocketAddr::V6(local) => (AddressFamily::INET6, local.scope_id()),
    };
    let mut bytes = Vec::with_capacity(REQUEST_LEN);
    bytes.extend(u32::try_from(REQUEST_LEN).ok()?.to_ne_bytes());
    bytes.extend([BY_FAMILY, REQUEST].map(u16::to_ne_bytes).as_flattened());
    bytes.extend([0; 8]);
    // The family, the protocol, no extensions, and sockets in any state.
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

fn unacknowledged(response: &[u8]) -> Option<u64> {
    let kind = response.get(4..6)?;
    if kind != BY_FAMILY.to_ne_bytes() {
        return None;
    }
    let bytes = response.get(UNACKNOWLEDGED..)?.first_chunk()?;
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
    async fn bytes_that_a_client_does_not_read_are_queued() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            // The last case is IPv4 to an IPv6 socket.
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
    fn an_error_of_the_kernel_is_no_length() {
        assert_eq!(unacknowledged(&[]), None);
        // NLMSG_ERROR
        assert_eq!(unacknowledged(&[36, 0, 0, 0, 2, 0, 0, 0]), None);
        assert_eq!(unacknowledged(&[124, 0, 0, 0, 20, 0, 0, 0]), None);
    }
}
