//! Records of TLS 1.3: where each ends, and how many the keys of a connection may encrypt (pure).

/// How much the keys of one connection may still encrypt. The kernel keeps no count, and takes no new keys.
#[derive(Debug)]
pub(in crate::transport) struct RecordBudget {
    /// In records.
    left: u64,
}

impl RecordBudget {
    /// The longest record's content, in bytes; RFC 8446 section 5.1.
    const RECORD: u64 = 16 * 1024;
    /// RFC 8446 section 5.5 allows 2^24.5 records under one AES-GCM key; the response that crosses this bound is still
    /// finished.
    const RECORDS: u64 = 1 << 23;

    pub(in crate::transport) fn new() -> Self {
        Self { left: Self::RECORDS }
    }

    /// Counts one write. Whether any record is left.
    pub(in crate::transport) fn spend(&mut self, bytes: usize) -> bool {
        self.left = self.left.saturating_sub(bytes as u64 / Self::RECORD + 1);
        self.left > 0
    }
}

/// Tracks where in the stream of TLS records a reader is; RFC 8446 section 5.1.
#[derive(Debug, Default)]
pub(in crate::transport) struct Records {
    /// The bytes of a record's head that were read.
    head: Vec<u8>,
    /// How many bytes of the record's content are still to be read.
    content: usize,
}

impl Records {
    const HEAD: usize = 5;

    pub(in crate::transport) fn read(&mut self, mut bytes: &[u8]) {
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

    pub(in crate::transport) fn is_between(&self) -> bool {
        self.head.is_empty() && self.content == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_record_is_found_in_pieces_of_any_length() {
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
    fn keys_encrypt_a_bounded_number_of_records() {
        let mut small = RecordBudget::new();
        assert!((1..RecordBudget::RECORDS).all(|_| small.spend(1)));
        assert!(!small.spend(1) && !small.spend(1));
        let mut large = RecordBudget::new();
        let writes = (1..).take_while(|_| large.spend(1 << 20)).count() as u64;
        assert!((120 << 30..128 << 30).contains(&(writes << 20)), "{writes}");
    }
}
