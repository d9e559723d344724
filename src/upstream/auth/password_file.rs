//! The password in a file: its whole text, without the line end.

use std::{io, path::Path};

use super::credential::Secret;
use crate::small_file;

/// The longest password file, in bytes.
const MAX_LEN: u64 = 64 * 1024;
/// The marks of UTF-8, and of both kinds of UTF-16.
const BYTE_ORDER_MARKS: [&[u8]; 3] = [&[0xef, 0xbb, 0xbf], &[0xff, 0xfe], &[0xfe, 0xff]];

/// Reads the password. Blocks.
pub(super) fn read(path: &Path) -> io::Result<Secret> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let content = small_file::read(path, MAX_LEN)?;
    if BYTE_ORDER_MARKS.iter().any(|mark| content.starts_with(mark)) {
        return Err(invalid("it begins with a byte order mark: write it as UTF-8 without one"));
    }
    let text = String::from_utf8(content).map_err(|_| invalid("it is not UTF-8 text"))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(invalid("it is empty"));
    }
    Ok(Secret::new(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_password_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.password");
        let longest = vec![b'p'; 64 * 1024];
        for (content, expected) in [
            (&b""[..], Err("empty")),
            (b"\r\n\n", Err("empty")),
            (b"\xef\xbb\xbfpw", Err("byte order mark")),
            (b"\xff\xfep\0w\0", Err("byte order mark")),
            (b"\xfe\xff\0p\0w", Err("byte order mark")),
            (b"p\xffw", Err("not UTF-8")),
            (&[&*longest, b"p"].concat(), Err("longer than 65536 bytes")),
            (&longest, Ok(std::str::from_utf8(&longest).unwrap())),
            (b"pw\n", Ok("pw")),
            (b"first word \r\n", Ok("first word ")),
        ] {
            std::fs::write(&path, content).unwrap();
            match (read(&path), expected) {
                (Ok(secret), Ok(password)) => assert_eq!(secret.expose(), password),
                (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
                (read, expected) => panic!("{read:?}, not {expected:?}"),
            }
        }
    }
}
