//! A store in memory that fails on demand.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt, StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};

use crate::archive::store::Store;

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// 503, nothing done.
    Unavailable,
    /// 403, nothing done.
    Forbidden,
    /// 409: another write to the same name is under way, which may come to nothing.
    Conflict,
    /// Done, but the connection breaks before the answer.
    LoseAnswer,
    /// The answer's body breaks off.
    CutBody,
    /// No answer, ever.
    Hang,
}

/// The store; clones share everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faulty {
    objects: Arc<InMemory>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    writes: Arc<AtomicUsize>,
    ignores_conditions: bool,
    locked: Arc<Mutex<Vec<Path>>>,
    deletions: Arc<Mutex<Option<usize>>>,
}

impl Faulty {
    pub(crate) fn ignoring_conditions() -> Self {
        Self { ignores_conditions: true, ..Self::default() }
    }

    pub(crate) fn store(&self) -> Store {
        Store::new(Arc::new(self.clone()))
    }

    /// One of the next requests gets this fault: the first one that has none yet.
    pub(crate) fn next(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    /// This object cannot be deleted, as under object lock.
    pub(crate) fn lock(&self, path: Path) {
        self.locked.lock().unwrap().push(path);
    }

    /// So many objects more are deleted, or as many as anybody wants.
    pub(crate) fn delete_only(&self, objects: Option<usize>) {
        *self.deletions.lock().unwrap() = objects;
    }

    fn delete(&self) -> bool {
        match &mut *self.deletions.lock().unwrap() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// Writes that were carried out.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    async fn fault(&self, path: &Path) -> Result<Fault> {
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::Unavailable => Err(broken("503 SlowDown")),
            Fault::Forbidden => {
                Err(Error::PermissionDenied { path: path.to_string(), source: "403 AccessDenied".into() })
            }
            // As the library says it.
            Fault::Conflict => Err(Error::AlreadyExists {
                path: path.to_string(),
                source: "409 ConditionalRequestConflict".into(),
            }),
            Fault::Hang => std::future::pending().await,
            Fault::None | Fault::LoseAnswer | Fault::CutBody => Ok(fault),
        }
    }
}

fn broken(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.fault(path).await?;
        if self.ignores_conditions {
            options.mode = PutMode::Overwrite;
        }
        let written = self.objects.put_opts(path, payload, options).await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        match fault {
            Fault::LoseAnswer => Err(broken("connection reset by peer")),
            _ => Ok(written),
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.fault(path).await?;
        let mut found = self.objects.get_opts(path, options).await?;
        if fault == Fault::CutBody {
            let end = async { Err(broken("error decoding response body")) }.into_stream();
            found.payload = GetResultPayload::Stream(end.boxed());
        }
        Ok(found)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let locked = self.locked.lock().unwrap().clone();
        let this = self.clone();
        let allowed = paths.map(move |path| match path {
            Ok(_) if !this.delete() => Err(broken("connection refused")),
            Ok(path) if locked.contains(&path) => {
                Err(Error::PermissionDenied { path: path.to_string(), source: "object lock".into() })
            }
            path => path,
        });
        self.objects.delete_stream(allowed.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
