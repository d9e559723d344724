//! Layers: a POSIX tar (ustar, IEEE 1003.1 "pax") of plain files, and gzip by the system's own program.

use std::io::Write;
use std::process::Stdio;

use super::program;

const BLOCK: usize = 512;

/// A tar archive of files with these names and contents.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend_from_slice(&header(name, content.len()));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks are the end of an archive.
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    // The sum is taken with spaces in its own place.
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The bytes as gzip makes them, without a name or a time in it: the same bytes for the same input.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = program::command("gzip", "gzip")
        .args(["-1", "-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip can be started");
    let mut input = child.stdin.take().expect("its input is a pipe");
    std::thread::scope(|scope| {
        // Fed by another thread: with both pipes full neither side could go on.
        scope.spawn(move || input.write_all(bytes).expect("gzip reads all"));
        let output = child.wait_with_output().expect("gzip ends");
        assert!(output.status.success(), "gzip failed");
        output.stdout
    })
}
