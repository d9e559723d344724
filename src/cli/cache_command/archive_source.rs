//! Where an archive to import is: a file, the directory of a layout, or standard input.
//!
//! The command opens all of it with the rights of its caller, and sends bytes: forebay takes no path.

use std::{
    fs::{self, File},
    io::{self, Read, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay::{
    oci::layout::{BLOBS, INDEX_FILE, LAYOUT_FILE, LayoutFile, LayoutImage, parse_index},
    tar::{self, BLOCK, Piece, Reader},
};

use crate::cli::transfer::Sink;

/// How many bytes are read at a time.
const STEP: usize = 256 * 1024;
/// How a file of gzip begins. Source: RFC 1952 section 2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The longest `index.json` that is shown, in bytes.
const MAX_INDEX: u64 = 16 * 1024 * 1024;
/// How many entries of an archive are looked at for its index.
const MAX_ENTRIES: usize = 50_000;
/// How many files the directory of a layout may have.
const MAX_FILES: usize = 50_000;

/// An archive, or what becomes one.
#[derive(Debug)]
pub(super) enum ArchiveSource {
    Stdin,
    File { path: PathBuf, len: u64 },
    Directory { path: PathBuf, files: Vec<LayoutEntry> },
}

/// A file of the directory of a layout.
#[derive(Debug)]
pub(super) struct LayoutEntry {
    /// Below the directory, with slashes.
    name: String,
    size: u64,
}

impl ArchiveSource {
    /// Looks at what is there.
    ///
    /// # Errors
    /// There is nothing, or no layout in the directory.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdin);
        }
        let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if metadata.is_dir() {
            let files = layout_files(path)?;
            return Ok(Self::Directory { path: path.to_owned(), files });
        }
        if metadata.is_file() {
            check_begin(path).with_context(|| format!("cannot import {}", path.display()))?;
        }
        Ok(Self::File { path: path.to_owned(), len: metadata.len() })
    }

    pub(super) fn is_stdin(&self) -> bool {
        matches!(self, Self::Stdin)
    }

    /// The bytes of the archive, if they are known.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            // A pipe or a device says 0.
            Self::File { len, .. } => Some(*len).filter(|len| *len > 0),
            Self::Directory { files, .. } => {
                let len = |LayoutEntry { name, size }: &LayoutEntry| {
                    tar::file_header(name, *size).len() as u64 + size + tar::padding(*size) as u64
                };
                Some(files.iter().map(len).sum::<u64>() + tar::END.len() as u64)
            }
        }
    }

    /// The images that its index names.
    ///
    /// # Errors
    /// It has none, or cannot be read.
    pub(super) fn images(&self) -> anyhow::Result<Vec<LayoutImage>> {
        let index = match self {
            Self::Stdin => None,
            Self::File { path, .. } => index_of(path).with_context(|| format!("cannot read {}", path.display()))?,
            Self::Directory { path, .. } => {
                let mut bytes = Vec::new();
                File::open(path.join(INDEX_FILE))?.take(MAX_INDEX).read_to_end(&mut bytes)?;
                Some(bytes)
            }
        };
        let index = index.context("this is no image layout: there is no index.json")?;
        parse_index(&index).context("the index.json cannot be used")
    }

    /// Sends all of it. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn send(self, sink: &mut Sink) -> io::Result<()> {
        match self {
            Self::Stdin => send_all(&mut io::stdin().lock(), sink).map(drop),
            Self::File { path, .. } => send_all(&mut File::open(path)?, sink).map(drop),
            Self::Directory { path, files } => {
                for LayoutEntry { name, size } in files {
                    sink.send(tar::file_header(&name, size).into())?;
                    let file = File::open(path.join(&name))?;
                    let sent = send_all(&mut file.take(size), sink)?;
                    if sent != size {
                        return Err(io::Error::other(format!("{name} became shorter")));
                    }
                    sink.send(vec![0; tar::padding(size)].into())?;
                }
                sink.send(Bytes::from_static(&tar::END))
            }
        }
    }
}

/// Looks whether a file begins as an archive may.
fn check_begin(path: &Path) -> anyhow::Result<()> {
    let mut begin = Vec::new();
    File::open(path)?.take(BLOCK as u64).read_to_end(&mut begin)?;
    ensure!(!begin.starts_with(&GZIP), "it is compressed: gunzip it first");
    ensure!(begin.is_empty() || begin.len() == BLOCK, "it is no tar archive");
    Ok(())
}

/// Returns how many bytes there were.
fn send_all(source: &mut impl Read, sink: &mut Sink) -> io::Result<u64> {
    let mut sent = 0;
    loop {
        let mut piece = vec![0; STEP];
        let read = source.read(&mut piece)?;
        if read == 0 {
            return Ok(sent);
        }
        piece.truncate(read);
        sent += read as u64;
        sink.send(piece.into())?;
    }
}

/// The index of an archive; `None` if there is none. The contents of other files are passed over.
fn index_of(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut at = 0;
    for _ in 0..MAX_ENTRIES {
        file.seek(SeekFrom::Start(at))?;
        let mut reader = Reader::default();
        let entry = loop {
            let mut block = [0; BLOCK];
            if file.read_exact(&mut block).is_err() {
                return Ok(None);
            }
            reader.push(Bytes::copy_from_slice(&block));
            at += BLOCK as u64;
            match reader.read()? {
                Some(Piece::Entry(entry)) => break entry,
                Some(Piece::End) => return Ok(None),
                Some(Piece::Content(_)) | None => {}
            }
        };
        if entry.name.strip_prefix("./").unwrap_or(&entry.name) == INDEX_FILE {
            ensure!(entry.size <= MAX_INDEX, "its index.json is longer than {MAX_INDEX} bytes");
            let mut bytes = Vec::new();
            file.take(entry.size).read_to_end(&mut bytes)?;
            return Ok(Some(bytes));
        }
        at = at.saturating_add(entry.size).saturating_add(tar::padding(entry.size) as u64);
    }
    Ok(None)
}

/// The files of the directory of a layout, the index first.
fn layout_files(directory: &Path) -> anyhow::Result<Vec<LayoutEntry>> {
    let mut names = vec![LAYOUT_FILE.to_owned(), INDEX_FILE.to_owned()];
    let blobs = directory.join(BLOBS);
    for algorithm in fs::read_dir(&blobs).with_context(|| format!("{} is no image layout", directory.display()))? {
        let algorithm = algorithm?;
        for blob in fs::read_dir(algorithm.path())? {
            let name = format!("{BLOBS}/{}/{}", algorithm.file_name().display(), blob?.file_name().display());
            ensure!(LayoutFile::of(&name).is_some(), "{name} is no file of an image layout");
            ensure!(names.len() < MAX_FILES, "the layout has more than {MAX_FILES} files");
            names.push(name);
        }
    }
    names.get_mut(2..).unwrap_or_default().sort_unstable();
    let entry = |name: String| {
        let metadata = fs::metadata(directory.join(&name)).with_context(|| format!("cannot read {name}"))?;
        ensure!(metadata.is_file(), "{name} is no plain file");
        Ok(LayoutEntry { name, size: metadata.len() })
    };
    names.into_iter().map(entry).collect()
}
