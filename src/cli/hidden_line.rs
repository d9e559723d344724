//! A line that is typed without being shown, key by key: what each key does to it; pure.

/// The longest line, in bytes; no password is as long.
const MAX_LINE: usize = 1024;
/// The key beside the one that the terminal is set to.
const BACKSPACE: u8 = 0x08;

/// The control characters of a terminal; 0 is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControlKeys {
    pub erase: u8,
    pub kill: u8,
    pub end_of_file: u8,
    pub interrupt: u8,
    pub quit: u8,
}

/// What comes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    More,
    Line,
    Interrupted,
}

/// What has been typed so far. It has no `Debug`, so that it is never logged.
#[derive(Default)]
pub(super) struct HiddenLine {
    bytes: Vec<u8>,
}

impl HiddenLine {
    pub(super) fn push(&mut self, byte: u8, keys: ControlKeys) -> Typed {
        let is = |key: u8| key != 0 && byte == key;
        if matches!(byte, b'\n' | b'\r') {
            return Typed::Line;
        }
        if is(keys.interrupt) || is(keys.quit) {
            return Typed::Interrupted;
        }
        if is(keys.end_of_file) {
            return if self.bytes.is_empty() { Typed::Interrupted } else { Typed::Line };
        }
        if is(keys.kill) {
            self.bytes.clear();
        } else if is(keys.erase) || byte == BACKSPACE {
            // The whole character: its continuation bytes, then the first one.
            while self.bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        } else if self.bytes.len() < MAX_LINE {
            self.bytes.push(byte);
        }
        Typed::More
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: ControlKeys = ControlKeys { erase: 0x7f, kill: 0x15, end_of_file: 4, interrupt: 3, quit: 0x1c };

    /// What comes of these keys, and what was typed then.
    fn typed(keys: &[u8]) -> (Typed, Vec<u8>) {
        let mut line = HiddenLine::default();
        let end = keys.iter().map(|key| line.push(*key, KEYS)).find(|typed| *typed != Typed::More);
        (end.unwrap_or(Typed::More), line.into_bytes())
    }

    #[test]
    fn each_key_does_what_the_terminal_is_set_to() {
        for (keys, end, line) in [
            (&b"secret\n"[..], Typed::Line, &b"secret"[..]),
            (b"secret\r", Typed::Line, b"secret"),
            (b"\n", Typed::Line, b""),
            (b"secret", Typed::More, b"secret"),
            (b"secrets\x7f\n", Typed::Line, b"secret"),
            (b"\x7fs\x08\x08t\n", Typed::Line, b"t"),
            ("pä\x7f\n".as_bytes(), Typed::Line, b"p"),
            (b"wrong\x15right\n", Typed::Line, b"right"),
            (b"secret\x03", Typed::Interrupted, b"secret"),
            (b"secret\x1c", Typed::Interrupted, b"secret"),
            (b"\x04", Typed::Interrupted, b""),
            (b"secret\x04", Typed::Line, b"secret"),
            (b"a\0\n", Typed::Line, b"a\0"),
        ] {
            assert_eq!(typed(keys), (end, line.to_vec()), "{keys:?}");
        }
        let endless = vec![b'x'; 10 * MAX_LINE];
        assert_eq!(typed(&endless).1.len(), MAX_LINE);
    }

    #[test]
    fn a_control_character_that_is_off_is_a_character() {
        let off = ControlKeys { erase: 0, kill: 0, end_of_file: 0, interrupt: 0, quit: 0 };
        let mut line = HiddenLine::default();
        for byte in [0, 3, 4, 0x7f] {
            assert_eq!(line.push(byte, off), Typed::More);
        }
        assert_eq!(line.into_bytes(), [0, 3, 4, 0x7f]);
    }
}
