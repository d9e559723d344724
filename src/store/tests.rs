//! A store that does what stores do on bad days, without a network and with the clock stopped.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use ::http::Method;
use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error as EngineError, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore},
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path as ObjectPath,
    signer::Signer,
};
use parking_lot::Mutex;

use super::*;
use crate::{
    file_slice::FileSlice,
    oci::{Algorithm, Digest},
};

const SECOND: Duration = Duration::from_secs(1);

/// An engine in memory, with a mood.
#[derive(Debug, Default)]
struct Faulty {
    objects: InMemory,
    mood: Mutex<Mood>,
    heads: AtomicUsize,
    gets: AtomicUsize,
    puts: AtomicUsize,
    deletes: AtomicUsize,
    lists: AtomicUsize,
    /// How many of the next listings fail.
    failing_lists: AtomicUsize,
    aborts: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Well,
    /// Refuses content, and answers all else.
    Full,
    /// Sends so many bytes of each object, and then nothing.
    Silent(usize),
    /// Sends so many bytes of each object, and breaks.
    Broken(usize),
    /// Refuses to delete.
    Undeletable,
    /// Refuses parts, and to forget them.
    Unabortable,
    /// Completes uploads in parts, and its answers are lost.
    Unheard,
}

fn refusal(why: &'static str) -> EngineError {
    EngineError::Generic { store: "test", source: why.into() }
}

impl Faulty {
    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn mood(&self) -> Mood {
        *self.mood.lock()
    }

    /// # Errors
    /// It is full.
    fn take(&self) -> object_store::Result<()> {
        self.puts.fetch_add(1, SeqCst);
        match self.mood() {
            Mood::Full | Mood::Unabortable => Err(refusal("no room")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &ObjectPath,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.take()?;
        self.objects.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &ObjectPath,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        let counter = if options.head { &self.heads } else { &self.gets };
        counter.fetch_add(1, SeqCst);
        let result = self.objects.get_opts(path, options).await?;
        let (bytes, end) = match self.mood() {
            Mood::Silent(bytes) => (bytes, stream::pending().boxed()),
            Mood::Broken(bytes) => (bytes, stream::once(async { Err(refusal("broken")) }).boxed()),
            _ => return Ok(result),
        };
        let (meta, range, attributes, extensions) =
            (result.meta.clone(), result.range.clone(), result.attributes.clone(), result.extensions.clone());
        let content = result.bytes().await?;
        let first = content.slice(..bytes.min(content.len()));
        let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
        Ok(GetResult {
            payload: GetResultPayload::Stream(first.chain(end).boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.deletes.fetch_add(1, SeqCst);
        match self.mood() {
            Mood::Undeletable => stream::once(async { Err(refusal("it stays")) }).boxed(),
            _ => self.objects.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, opts: CopyOptions) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, opts).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &ObjectPath) -> object_store::Result<MultipartId> {
        self.objects.create_multipart(path).await
    }

    async fn put_part(
        &self,
        path: &ObjectPath,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> object_store::Result<PartId> {
        self.take()?;
        self.objects.put_part(path, id, index, data).await
    }

    async fn complete_multipart(
        &self,
        path: &ObjectPath,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        let completed = self.objects.complete_multipart(path, id, parts).await;
        if self.mood() == Mood::Unheard { Err(refusal("the connection broke")) } else { completed }
    }

    async fn abort_multipart(&self, path: &ObjectPath, id: &MultipartId) -> object_store::Result<()> {
        match self.mood() {
            Mood::Unabortable => Err(refusal("it stays")),
            Mood::Unheard => Err(EngineError::NotFound { path: id.clone(), source: "NoSuchUpload".into() }),
            _ => {
                self.aborts.fetch_add(1, SeqCst);
                self.objects.abort_multipart(path, id).await
            }
        }
    }
}

#[async_trait]
impl PaginatedListStore for Faulty {
    async fn list_paginated(
        &self,
        _: Option<&str>,
        _: PaginatedListOptions,
    ) -> object_store::Result<PaginatedListResult> {
        self.lists.fetch_add(1, SeqCst);
        if self.failing_lists.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(refusal("not now"));
        }
        let objects = self.objects.list(None).try_collect().await?;
        let result = ListResult { objects, common_prefixes: Vec::new(), extensions: ::http::Extensions::new() };
        Ok(PaginatedListResult { result, page_token: None })
    }
}

#[async_trait]
impl Signer for Faulty {
    async fn signed_url(&self, _: Method, _: &ObjectPath, _: Duration) -> object_store::Result<url::Url> {
        Err(refusal("it signs nothing"))
    }
}

fn store() -> (Store, Arc<Faulty>) {
    let engine = Arc::new(Faulty::default());
    let location = "s3://bucket/prefix".parse().unwrap();
    (Store::of_engine(location, engine.clone(), engine.clone(), Journal::new(None), Metrics::new().unwrap()), engine)
}

fn name(number: usize) -> ObjectName {
    ObjectName::blob(Pool::Shared, &Digest::of(Algorithm::Sha256, &number.to_be_bytes()))
}

async fn put(store: &Store, name: &ObjectName, len: usize) -> Result<(), ErrorKind> {
    store.put(name, vec![7; len].into(), IfPresent::Replace).await.map_err(|error| error.kind)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_only_content_is_sent_little_of_it() {
    let (store, engine) = store();
    engine.set(Mood::Full);
    let end = Instant::now() + SECOND * 60;
    // As the workers do.
    let worker = async |number: usize| {
        loop {
            while let Some(pause) = store.write_pause() {
                tokio::time::sleep(pause).await;
            }
            if Instant::now() > end {
                return;
            }
            if store.head(&name(number)).await.is_ok() {
                let _ = put(&store, &name(number), 10).await;
            }
            store.list("", None).await.unwrap();
            store.delete(&name(9)).await.unwrap();
            tokio::time::sleep(SECOND / 5).await;
        }
    };
    tokio::join!(worker(0), worker(1), worker(2), worker(3));
    // All at once, and then after 1, 2, 4, 8, 16 and 32 s.
    let (puts, heads) = (engine.puts.load(SeqCst), engine.heads.load(SeqCst));
    assert!((5..=4 + 6).contains(&puts), "{puts} uploads");
    assert!(heads <= 4 * 8, "{heads} looks");
    assert_eq!(store.health().word, "read-only");

    engine.set(Mood::Well);
    tokio::time::sleep(SECOND * 128).await;
    store.head(&name(0)).await.unwrap();
    assert_eq!(store.health().word, "read-only", "a look proves nothing");
    put(&store, &name(0), 10).await.unwrap();
    assert_eq!(store.health().word, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_still_lists_and_deletes() {
    let (store, engine) = store();
    put(&store, &name(1), 10).await.unwrap();
    engine.set(Mood::Full);
    assert_eq!(put(&store, &name(2), 10).await, Err(ErrorKind::Failed));
    assert_eq!(put(&store, &name(2), 10).await, Err(ErrorKind::NotAsked));
    assert_eq!(store.list("", None).await.unwrap().objects.len(), 1);
    store.delete(&name(1)).await.unwrap();
    assert_eq!(store.list("", None).await.unwrap().objects.len(), 0);
}

/// All of an object, as a download reads it.
async fn read(store: &Store, name: &ObjectName) -> Result<usize, ErrorKind> {
    let mut object = store.get(name, Part::default()).await.map_err(|error| error.kind)?;
    let mut len = 0;
    while let Some(piece) = object.body.next().await {
        len += piece.map_err(|error| error.kind)?.len();
    }
    Ok(len)
}

#[tokio::test(start_paused = true)]
async fn heads_without_bodies_cost_one_wait_each_pause() {
    for mood in [Mood::Silent(0), Mood::Silent(3)] {
        let (store, engine) = store();
        put(&store, &name(1), 10).await.unwrap();
        engine.set(mood);
        let (begin, mut waited) = (Instant::now(), Duration::ZERO);
        while begin.elapsed() < SECOND * 120 {
            let asked = Instant::now();
            let result = read(&store, &name(1)).await;
            waited += asked.elapsed();
            assert!(matches!(result, Err(ErrorKind::Timeout | ErrorKind::NotAsked)), "{result:?}");
            // What it tells of others shows nothing.
            assert!(matches!(read(&store, &name(2)).await, Err(ErrorKind::Missing | ErrorKind::NotAsked)));
            store.head(&name(1)).await.unwrap();
            tokio::time::sleep(SECOND).await;
        }
        assert!(waited <= SECOND * 5 * 5, "{mood:?}: readers waited {waited:?}");
        assert_eq!(store.health().word, "write-only");
        engine.set(Mood::Well);
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(read(&store, &name(1)).await, Ok(10));
        assert_eq!(store.health().word, "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_are_an_outage_though_heads_come() {
    let (store, engine) = store();
    put(&store, &name(1), 10).await.unwrap();
    engine.set(Mood::Broken(3));
    for _ in 0..3 {
        assert_eq!(store.health().word, "ok");
        assert_eq!(read(&store, &name(1)).await, Err(ErrorKind::Failed));
        let next = read(&store, &name(2)).await;
        assert!(matches!(next, Err(ErrorKind::Missing | ErrorKind::NotAsked)), "{next:?}");
    }
    assert_eq!(read(&store, &name(1)).await, Err(ErrorKind::NotAsked));
    assert_eq!(engine.gets.load(SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_is_no_silence_of_the_store() {
    let (store, _) = store();
    put(&store, &name(1), 10).await.unwrap();
    let mut object = store.get(&name(1), Part::default()).await.unwrap();
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(object.body.next().await.unwrap().unwrap().len(), 10);
    assert!(object.body.next().await.is_none());
    put(&store, &name(3), 0).await.unwrap();
    assert_eq!(read(&store, &name(3)).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_object_is_deleted_again_and_again() {
    let (store, engine) = store();
    put(&store, &name(1), 10).await.unwrap();
    put(&store, &name(2), 10).await.unwrap();
    engine.set(Mood::Undeletable);
    store.distrust(&name(1));
    let day = SECOND * 24 * 60 * 60;
    assert!(tokio::time::timeout(day, store.delete_wrong()).await.is_err());
    // After 1, 2, 4, 8, 16 and 32 minutes, and then each hour.
    let deletes = engine.deletes.load(SeqCst);
    assert!((7..=31).contains(&deletes), "{deletes} requests");
    engine.set(Mood::Well);
    store.distrust(&name(2));
    assert!(tokio::time::timeout(day, store.delete_wrong()).await.is_err());
    assert_eq!(read(&store, &name(1)).await, Err(ErrorKind::NotAsked), "it is not read all the same");
    assert_eq!(store.list("", None).await.unwrap().objects.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_waits_for_the_store() {
    let (store, engine) = store();
    put(&store, &name(1), 10).await.unwrap();
    for (what, failing, sent, succeeds) in
        [("nothing", 0, 1, true), ("once", 1, 2, true), ("eight times", 8, 9, true), ("for an hour", 1000, 0, false)]
    {
        let (store, before) = (store.clone(), engine.lists.load(SeqCst));
        engine.failing_lists.store(failing, SeqCst);
        // Another one probes meanwhile, so that this one is not always sent.
        let other = async {
            loop {
                let _ = store.list("", None).await;
                tokio::time::sleep(SECOND * 7).await;
            }
        };
        let patient = store.patient();
        let result = tokio::select! {
            biased;
            result = patient.list("", None) => result,
            never = other => never,
        };
        assert_eq!(result.is_ok(), succeeds, "{what}");
        let lists = engine.lists.load(SeqCst) - before;
        assert!(lists >= sent && lists <= 100, "{what}: {lists} listings");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_refused_is_sent_four_times() {
    let (store, engine) = store();
    put(&store, &name(1), 10).await.unwrap();
    engine.set(Mood::Undeletable);
    let refused = store.patient().delete(&name(1)).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Failed);
    assert_eq!(engine.deletes.load(SeqCst), 4);
    // It waits for the pause, and does not end with `NotAsked`.
    engine.set(Mood::Well);
    store.patient().delete(&name(1)).await.unwrap();
    assert_eq!(engine.deletes.load(SeqCst), 5);
    let missing = store.patient().get_small(&name(1), 10, SECOND).await;
    assert_eq!((missing.unwrap_err().kind, engine.gets.load(SeqCst)), (ErrorKind::Missing, 1));
}

/// Content that is uploaded in parts.
fn large() -> FileSlice {
    let file = tempfile::tempfile().unwrap();
    let len = 17 * 1024 * 1024;
    file.set_len(len).unwrap();
    FileSlice { file: Arc::new(file), offset: 0, len }
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_last_answer_is_lost_is_over() {
    let (store, engine) = store();
    engine.set(Mood::Unheard);
    let sent = store.upload(&name(1), &large()).await;
    assert_eq!(sent.unwrap_err().kind, ErrorKind::Failed);
    assert_eq!(store.0.journal.left_over(), []);
    tokio::time::sleep(SECOND).await;
    assert_eq!(store.upload(&name(1), &large()).await.unwrap(), UploadResult::Present);
}

#[tokio::test(start_paused = true)]
async fn an_abort_that_fails_is_sent_again_each_hour() {
    let (store, engine) = store();
    engine.set(Mood::Unabortable);
    assert_eq!(store.upload(&name(1), &large()).await.unwrap_err().kind, ErrorKind::Failed);
    assert_eq!(store.0.journal.left_over().len(), 1);
    let hour = SECOND * 60 * 60;
    assert!(tokio::time::timeout(hour * 3 / 2, store.abort_again()).await.is_err());
    assert_eq!(store.0.journal.left_over().len(), 1);
    engine.set(Mood::Well);
    assert!(tokio::time::timeout(hour * 7 / 2, store.abort_again()).await.is_err());
    assert_eq!(store.0.journal.left_over(), []);
    assert_eq!(engine.aborts.load(SeqCst), 1);
}
