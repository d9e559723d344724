//! Opens listening sockets.
//!
//! What must hold: `[::]` is all addresses of the machine, IPv4 too, whatever the system's default is (`bindv6only`), and
//! on a machine without IPv6. Source: ipv6(7), `IPV6_V6ONLY`.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// How many clients may wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// A socket that listens on an address, without blocking. `beside`: all addresses to listen on; if 0.0.0.0 is among them
/// with the same port, `[::]` is IPv6 only.
///
/// # Errors
/// The address is taken, forbidden or not the machine's.
pub fn bind(address: SocketAddr, beside: &[SocketAddr]) -> io::Result<TcpListener> {
    let has_ipv4 = beside.contains(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
    open(address, has_ipv4).or_else(|error| match without_ipv6(address, &error) {
        Some(address) if !has_ipv4 => open(address, false),
        _ => Err(error),
    })
}

fn open(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(only_v6)?;
    }
    // A restart must not wait for the TIME_WAIT of the last connections.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The address in place of `[::]`, if it failed because this machine has no IPv6.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let lacks = matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL));
    (lacks && address.ip() == Ipv6Addr::UNSPECIFIED).then_some((Ipv4Addr::UNSPECIFIED, address.port()).into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn all_addresses_include_those_of_ipv4() {
        let listener = bind(address("[::]:0"), &[]).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port())).unwrap();
    }

    #[test]
    fn both_families_may_be_bound_one_by_one() {
        let ipv4 = bind(address("0.0.0.0:0"), &[]).unwrap().local_addr().unwrap();
        let both = [ipv4, SocketAddr::from((Ipv6Addr::UNSPECIFIED, ipv4.port()))];
        match bind(both[1], &both) {
            Ok(ipv6) => assert!(ipv6.local_addr().unwrap().is_ipv6()),
            // A machine without IPv6: 0.0.0.0 is bound already.
            Err(error) => assert!(without_ipv6(both[1], &error).is_some(), "{error}"),
        }
    }

    #[test]
    fn ipv4_stands_in_only_where_there_is_no_ipv6() {
        for (from, error, expected) in [
            ("[::]:5000", Errno::AFNOSUPPORT, Some("0.0.0.0:5000")),
            ("[::]:5000", Errno::ADDRNOTAVAIL, Some("0.0.0.0:5000")),
            ("[::]:5000", Errno::ADDRINUSE, None),
            ("[::1]:5000", Errno::AFNOSUPPORT, None),
            ("10.0.0.1:5000", Errno::ADDRNOTAVAIL, None),
        ] {
            assert_eq!(without_ipv6(address(from), &error.into()), expected.map(address), "{from} {error}");
        }
    }
}
