//! Reads an archive from pieces, however it is divided (pure).

use bytes::Bytes;

use super::{BLOCK, MAX_EXTENDED, MAX_EXTENDED_HEADERS, MAX_TRAILER, error::TarError, header::Header, padding, pax};

/// How much of a name an error tells, in characters: a stranger wrote it.
const MAX_TOLD: usize = 200;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// A link, a device, or what this reader does not know.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    /// In bytes, of what follows of it in the archive.
    pub size: u64,
}

/// The next part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Entry(Entry),
    /// Of the last entry.
    Content(Bytes),
    End,
}

/// Where a reader is in the archive.
#[derive(Debug)]
enum Place {
    Header,
    /// In an extended header of this kind.
    Extended {
        kind: u8,
        size: u64,
    },
    Content {
        left: u64,
        /// What follows it.
        padding: usize,
    },
    Padding(usize),
    /// So many bytes may still follow.
    End(usize),
}

/// Takes bytes and gives pieces: [`Reader::push`] when [`Reader::read`] has none.
#[derive(Debug)]
pub struct Reader {
    place: Place,
    /// Bytes that were not read yet.
    input: Bytes,
    /// The front of what must be whole to be read.
    front: Vec<u8>,
    /// What extended headers said of the next entry, and how many there were.
    next: pax::Extended,
    extended_headers: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            place: Place::Header,
            input: Bytes::new(),
            front: Vec::new(),
            next: pax::Extended::default(),
            extended_headers: 0,
        }
    }
}

impl Reader {
    /// Takes the next bytes. Those before must have been read.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty(), "all was read");
        self.input = bytes;
    }

    /// The next piece; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no archive.
    pub fn read(&mut self) -> Result<Option<Piece>, TarError> {
        loop {
            match &mut self.place {
                Place::End(left) => {
                    *left = left.checked_sub(self.input.len()).ok_or(TarError::Trailer)?;
                    self.input.clear();
                    return Ok(None);
                }
                Place::Padding(0) => self.place = Place::Header,
                Place::Padding(left) => {
                    let passed = self.input.split_to((*left).min(self.input.len())).len();
                    *left -= passed;
                    if passed == 0 {
                        return Ok(None);
                    }
                }
                Place::Content { left: 0, padding } => self.place = Place::Padding(*padding),
                Place::Content { left, .. } => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let content = self.input.split_to(most.min(self.input.len()));
                    *left -= content.len() as u64;
                    return Ok((!content.is_empty()).then_some(Piece::Content(content)));
                }
                Place::Extended { kind, size } => {
                    let (kind, size) = (*kind, *size);
                    let Some(extended) = self.take(usize::try_from(size).unwrap_or(usize::MAX)) else {
                        return Ok(None);
                    };
                    self.extend(kind, &extended)?;
                    self.place = Place::Padding(padding(size));
                }
                Place::Header => {
                    let Some(block) = self.take(BLOCK) else { return Ok(None) };
                    if let Some(piece) = self.header(&block)? {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// Checks that no more bytes are needed.
    ///
    /// # Errors
    /// The archive has no end.
    pub fn finish(&self) -> Result<(), TarError> {
        if matches!(self.place, Place::End(_)) { Ok(()) } else { Err(TarError::Truncated) }
    }

    /// The next `len` bytes, once all of them are here.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let missing = len - self.front.len();
        self.front.extend_from_slice(&self.input.split_to(missing.min(self.input.len())));
        (self.front.len() == len).then(|| std::mem::take(&mut self.front))
    }

    /// Reads a header block. Gives no piece if it is about the next entry.
    fn header(&mut self, block: &[u8]) -> Result<Option<Piece>, TarError> {
        let block: &[u8; BLOCK] = block.try_into().map_err(|_| TarError::NoHeader)?;
        if block.iter().all(|byte| *byte == 0) {
            self.place = Place::End(MAX_TRAILER);
            return Ok(Some(Piece::End));
        }
        let Header { name, size, kind } = Header::parse(block)?;
        if matches!(kind, b'x' | b'g' | b'L' | b'K') {
            if size > MAX_EXTENDED {
                return Err(TarError::LongHeader);
            }
            self.extended_headers += 1;
            if self.extended_headers > MAX_EXTENDED_HEADERS {
                return Err(TarError::ManyHeaders);
            }
            self.place = Place::Extended { kind, size };
            return Ok(None);
        }
        self.extended_headers = 0;
        let pax::Extended { path, size: extended_size, is_sparse } = std::mem::take(&mut self.next);
        let name = match path {
            Some(path) => path,
            None => String::from_utf8(name).map_err(|_| TarError::Name)?,
        };
        if is_sparse || kind == b'S' {
            return Err(TarError::Sparse(name.chars().take(MAX_TOLD).collect()));
        }
        // Links, devices and directories have no content, whatever their size.
        let (kind, size) = match kind {
            b'0' | 0 | b'7' => (Kind::File, extended_size.unwrap_or(size)),
            b'5' => (Kind::Directory, 0),
            b'1'..=b'6' => (Kind::Other, 0),
            _ => (Kind::Other, extended_size.unwrap_or(size)),
        };
        self.place = Place::Content { left: size, padding: padding(size) };
        Ok(Some(Piece::Entry(Entry { name, kind, size })))
    }

    /// Notes what an extended header says. Of those that are about all entries nothing counts, nor of a link's target.
    fn extend(&mut self, kind: u8, content: &[u8]) -> Result<(), TarError> {
        match kind {
            b'x' => self.next = pax::parse(content).ok_or(TarError::NoHeader)?,
            b'L' => {
                let name = content.split(|byte| *byte == 0).next().unwrap_or_default();
                self.next.path = Some(String::from_utf8(name.to_vec()).map_err(|_| TarError::Name)?);
            }
            _ => {}
        }
        Ok(())
    }
}
