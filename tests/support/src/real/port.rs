//! Ports that stay a test's own while its daemons come and go.
//!
//! A daemon that is killed must come back on the same port, so "bind port 0 and ask" is not enough: between two lives
//! the kernel may give the number to any outgoing connection. These are below the range the kernel gives out, and a
//! lock file each keeps the other test processes away.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use super::turn;

const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// The locks of this process; they last as long as it does.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 on which nothing listens and which no other test will be given.
pub fn free_port() -> u16 {
    let folder = turn::locks();
    let mut taken = TAKEN.lock().unwrap();
    // Processes begin at different places, so that they seldom compete for the same lock.
    let begin = std::process::id().wrapping_mul(7919) as usize;
    let size = RANGE.len();
    for step in 0..size {
        let port = RANGE.start + ((begin + step) % size) as u16;
        let lock = File::create(folder.join(format!("port-{port}"))).expect("a port lock can be opened");
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.push(lock);
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}
