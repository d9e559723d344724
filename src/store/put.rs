//! Writes: a small object at once, a file in one piece or in parts.
//!
//! What must hold: an upload has at most one part in memory; one in parts is completed, or aborted, by this run or by
//! the next.

use std::{convert::Infallible, io, os::unix::fs::FileExt as _, time::Duration};

use bytes::Bytes;
use object_store::{MultipartId, PutMode, PutOptions, PutPayload, multipart::PartId, path::Path};
use tokio::time::Instant;

use super::{
    Lane, REQUEST_TIMEOUT, Store,
    error::Error,
    error_kind::ErrorKind,
    labels::{Direction, StoreOperation, UploadResult},
    names::ObjectName,
    within,
};
use crate::file_slice::FileSlice;

/// The length of a part, in bytes; what is longer is uploaded in parts. With 10 000 parts, which is all that S3 takes,
/// an object may have 156 GiB.
const PART: u64 = 16 * 1024 * 1024;
const MAX_PARTS: u64 = 10_000;
/// For one part: some 140 KB/s.
const PART_TIMEOUT: Duration = Duration::from_secs(120);
/// The store puts the parts together before it answers.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a part is sent before the upload is given up.
const MAX_ATTEMPTS: u32 = 4;
/// Between two attempts to abort what could not be aborted.
const ABORT_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The longest time that an upload waits between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Whether an object that is there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfPresent {
    Keep,
    Replace,
}

impl Store {
    /// Writes an object at once.
    ///
    /// # Errors
    /// `Exists` if it was to be kept and the store looks at that; or the store did not take it.
    pub(crate) async fn put(&self, name: &ObjectName, content: Bytes, present: IfPresent) -> Result<(), Error> {
        let path = self.path(name);
        let mode = match present {
            IfPresent::Keep if self.0.conditions.are_honoured() => PutMode::Create,
            IfPresent::Keep | IfPresent::Replace => PutMode::Overwrite,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let len = content.len() as u64;
        let request = object_store::ObjectStore::put_opts(&*self.0.engine, &path, content.into(), options);
        self.call(Lane::Write, StoreOperation::Put, PART_TIMEOUT, request).await?;
        self.0.metrics.store_bytes(Direction::Out, len);
        self.has_now(name, len);
        Ok(())
    }

    /// Uploads verified content that the store does not have.
    ///
    /// # Errors
    /// The store did not take it, or the file cannot be read (`Failed`).
    pub(crate) async fn upload(&self, name: &ObjectName, content: &FileSlice) -> Result<UploadResult, Error> {
        let present = match self.is_distrusted(name) {
            true => IfPresent::Replace,
            false => match self.head(name).await? {
                Some(len) if len == content.len => return Ok(UploadResult::Present),
                // It is not this content.
                Some(_) => IfPresent::Replace,
                None => IfPresent::Keep,
            },
        };
        if content.len > PART * MAX_PARTS {
            return Err(Error::local(format!("{name} is too long for the store")));
        }
        if content.len > PART {
            self.upload_in_parts(name, content).await?;
            self.has_now(name, content.len);
            return Ok(UploadResult::Uploaded);
        }
        let bytes = read(content, 0, content.len).await?;
        match self.put(name, bytes, present).await {
            Ok(()) => Ok(UploadResult::Uploaded),
            Err(error) if error.kind == ErrorKind::Exists => Ok(UploadResult::Present),
            Err(error) => Err(error),
        }
    }

    /// An object was written.
    fn has_now(&self, name: &ObjectName, len: u64) {
        self.0.distrust.forget(name);
        self.0.known.note(name, Some(len), Instant::now());
    }

    async fn upload_in_parts(&self, name: &ObjectName, content: &FileSlice) -> Result<(), Error> {
        if !self.0.journal.has_room() {
            return Err(Error::local("too many uploads in parts could not be aborted"));
        }
        let path = self.path(name);
        let begin = self.0.engine.create_multipart(&path);
        let id = self.call(Lane::Begin, StoreOperation::Part, REQUEST_TIMEOUT, begin).await?;
        // Before the first part, so that a kill leaves no upload that is not in the journal.
        self.0.journal.add(&path, &id).await;
        let sent = self.send_parts(&path, &id, content).await;
        if sent.is_err() && self.abort(&path, &id).await.is_err() {
            // Its parts stay until a later abort.
            self.0.journal.leave(&path, &id);
            return sent;
        }
        self.0.journal.remove(&path, &id).await;
        sent
    }

    async fn send_parts(&self, path: &Path, id: &MultipartId, content: &FileSlice) -> Result<(), Error> {
        let mut parts = Vec::new();
        let mut offset = 0;
        while offset < content.len {
            let len = PART.min(content.len - offset);
            let bytes = read(content, offset, len).await?;
            parts.push(self.send_part(path, id, parts.len(), bytes).await?);
            self.0.metrics.store_bytes(Direction::Out, len);
            offset += len;
        }
        let complete = self.0.engine.complete_multipart(path, id, parts);
        self.call(Lane::Write, StoreOperation::Part, COMPLETE_TIMEOUT, complete).await.map(drop)
    }

    async fn send_part(&self, path: &Path, id: &MultipartId, index: usize, bytes: Bytes) -> Result<PartId, Error> {
        let mut attempt = 1;
        loop {
            let request = self.0.engine.put_part(path, id, index, PutPayload::from(bytes.clone()));
            match self.call(Lane::Write, StoreOperation::Part, PART_TIMEOUT, request).await {
                Err(error) if attempt < MAX_ATTEMPTS && error.kind != ErrorKind::Denied => {
                    attempt += 1;
                    let pause = self.write_pause().unwrap_or_default();
                    if pause > MAX_WAIT {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                }
                sent => return sent,
            }
        }
    }

    /// Ends an upload in parts, so that the store forgets its parts. It is sent also while the store is left alone:
    /// each stands for one upload. That the store does not know it is no error: it may have completed it, and its answer
    /// was lost.
    async fn abort(&self, path: &Path, id: &MultipartId) -> Result<(), Error> {
        let aborted = within(REQUEST_TIMEOUT, self.0.engine.abort_multipart(path, id)).await;
        self.count(StoreOperation::Part, aborted.as_ref().err());
        match aborted {
            Err(error) if error.kind == ErrorKind::Missing => Ok(()),
            aborted => aborted,
        }
    }

    /// Aborts, each hour, the uploads that could not be aborted when they ended.
    pub(crate) async fn abort_again(&self) -> Infallible {
        loop {
            tokio::time::sleep(ABORT_INTERVAL).await;
            self.abort_left_over().await;
        }
    }

    /// Aborts the uploads that an earlier run did not end, or that could not be aborted, and names their objects.
    pub(super) async fn abort_left_over(&self) -> Vec<ObjectName> {
        let left = self.0.journal.left_over();
        let names = left.iter().filter_map(|(path, _)| self.name_of(path)).collect();
        for (path, id) in left {
            match self.abort(&path, &id).await {
                Ok(()) => tracing::info!(object = %path, "aborted an upload to the object store that was cut"),
                Err(error) => {
                    tracing::warn!(object = %path, %error, "an upload to the object store that was cut is not aborted yet");
                    self.0.journal.leave(&path, &id);
                    // The others would fail as well, most likely; the next time they come first.
                    if error.is_of_store() {
                        break;
                    }
                    continue;
                }
            }
            self.0.journal.remove(&path, &id).await;
        }
        names
    }
}

/// Bytes of a file.
async fn read(content: &FileSlice, offset: u64, len: u64) -> Result<Bytes, Error> {
    let (file, from) = (content.file.clone(), content.offset + offset);
    let read = move || -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, from)?;
        Ok(bytes.into())
    };
    let failed = |error: &dyn std::fmt::Display| Error::local(format!("reading the cache: {error}"));
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}
