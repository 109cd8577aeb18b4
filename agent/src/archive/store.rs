//! One place for objects, whatever its kind: what the archive needs of it, with limits and readable errors.
//!
//! Failure modes: each call is retried for a short while by the library (5xx, 429, broken connections); what
//! still fails is an error here and tried again by whoever wanted it, with fresh credentials.

pub(crate) mod sealed;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use jiff::Timestamp;
use object_store::{
    Error as Failure, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    path::Path,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::age::{AgeError, Identities};

/// A whole call with its retries. Longer than the library's own limit, which ends it in order.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);
/// Deletes under way at once where the store has none for many objects.
const DELETES: usize = 8;
/// What a store says is shown up to here: some answer with pages.
const MESSAGE_LIMIT: usize = 300;
/// S3 says so with status 400 where a body does not come to its end in time.
const TOO_SLOW: &str = "RequestTimeout";

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// It says no to these credentials, or whoever makes them of the pod's identity does.
    #[error(
        "{action} {path}: the store refuses these credentials; check the Secret, or without one the pods' role: {message}"
    )]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the store said.
        message: String,
    },
    /// No such object, bucket or container.
    #[error("{action} {path}: not found; does the bucket exist? {message}")]
    NotFound {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the store said.
        message: String,
    },
    /// It takes the request for a wrong one: a session has ended, the region is another, a key for encryption is off.
    #[error("{action} {path}: the store does not accept the request: {message}")]
    NotAccepted {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the store said.
        message: String,
    },
    /// Anything else; usually worth another try.
    #[error("{action} {path}: {message}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the library said.
        message: String,
    },
    /// It does not come to an end.
    #[error("{action} {path}: no answer within {CALL_TIMEOUT:?}")]
    Late {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
    },
    /// An object is not what it should be.
    #[error("{path} in the store is not what it should be: {message}")]
    Contents {
        /// Which.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// An object is for others, or not as it was written.
    #[error("cannot encrypt or decrypt {path}")]
    Sealed {
        /// Which.
        path: String,
        /// Why not.
        source: AgeError,
    },
}

impl StoreError {
    /// Whether another try comes to the same.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Contents { .. } | Self::Sealed { .. })
    }

    /// Whether the store is there and says no, as it does until somebody changes something.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NotFound { .. } | Self::NotAccepted { .. })
    }
}

/// What a conditional write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The object is the given one.
    New,
    /// There was one already, and it was left alone.
    AlreadyThere,
}

/// A store; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// As it is reached now: shared with whoever opened it before with other credentials.
    objects: Arc<RwLock<Arc<dyn ObjectStore>>>,
    /// Some stores ignore the condition of a write.
    conditional: Arc<AtomicBool>,
    /// What is encrypted is encrypted with these.
    identities: Option<Arc<Identities>>,
}

impl Store {
    /// Around the library's.
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        let objects = Arc::new(RwLock::new(objects));
        Self { objects, conditional: Arc::new(AtomicBool::new(true)), identities: None }
    }

    /// This one, for all who hold `older` too, such as a backup that runs: the same place, with the credentials of now.
    /// What they encrypt with stays theirs.
    pub(crate) fn in_place_of(self, older: &Self) -> Self {
        *older.objects.write().unwrap_or_else(PoisonError::into_inner) = self.objects();
        Self { identities: self.identities, ..older.clone() }
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on, looks before it writes: this store ignores conditions.
    pub(crate) fn has_no_conditions(&self) {
        self.conditional.store(false, Ordering::Relaxed);
    }

    /// Writes an object, over whatever was there.
    pub(crate) async fn put(&self, path: &Path, contents: impl Into<PutPayload>) -> Result<(), StoreError> {
        within("writing", path, self.objects().put(path, contents.into())).await.map(drop)
    }

    /// Writes an object as JSON, over whatever was there.
    pub(crate) async fn put_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(value).map_err(|error| contents(path, &error))?;
        self.put(path, text).await
    }

    /// Writes an object unless there is one.
    pub(crate) async fn put_new(
        &self,
        path: &Path,
        contents: impl Into<PutPayload>,
    ) -> Result<Written, StoreError> {
        if !self.conditional.load(Ordering::Relaxed) && self.exists(path).await? {
            return Ok(Written::AlreadyThere);
        }
        let mode = match self.conditional.load(Ordering::Relaxed) {
            true => PutMode::Create,
            false => PutMode::Overwrite,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let written = async {
            match self.objects().put_opts(path, contents.into(), options).await {
                Ok(_) => Ok(Written::New),
                Err(Failure::AlreadyExists { .. } | Failure::Precondition { .. }) => {
                    Ok(Written::AlreadyThere)
                }
                Err(error) => Err(error),
            }
        };
        within("writing", path, written).await
    }

    /// The object, if there is one.
    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let got = async {
            match self.objects().get_opts(path, GetOptions::default()).await {
                Ok(found) => found.bytes().await.map(|bytes| Some(Vec::from(bytes))),
                Err(Failure::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        within("reading", path, got).await
    }

    /// An object of JSON, if there is one.
    pub(crate) async fn get_json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        let Some(text) = self.get(path).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| contents(path, &error))
    }

    /// Whether there is such an object.
    pub(crate) async fn exists(&self, path: &Path) -> Result<bool, StoreError> {
        let looked = async {
            match self.objects().head(path).await {
                Ok(_) => Ok(true),
                Err(Failure::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        within("looking for", path, looked).await
    }

    /// The time at the store: when it took an object that is written now.
    pub(crate) async fn time(&self, path: &Path) -> Result<Timestamp, StoreError> {
        self.put(path, Vec::new()).await?;
        let taken = within("looking for", path, self.objects().head(path)).await?.last_modified;
        Timestamp::from_second(taken.timestamp()).map_err(|error| contents(path, &error))
    }

    /// All objects below `folder`, however deep.
    pub(crate) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        within("listing", folder, self.objects().list(Some(folder)).try_collect()).await
    }

    /// The folders in `folder`.
    pub(crate) async fn folders(&self, folder: &Path) -> Result<Vec<Path>, StoreError> {
        let listed = within("listing", folder, self.objects().list_with_delimiter(Some(folder))).await?;
        Ok(listed.common_prefixes)
    }

    /// Removes objects and returns what the store did not let go, each with the reason. That there is none is as
    /// good.
    pub(crate) async fn delete(&self, paths: Vec<Path>) -> Vec<StoreError> {
        let objects = &self.objects();
        let deleted = futures::stream::iter(paths).map(|path| async move {
            let deleted = async {
                match objects.delete(&path).await {
                    Ok(()) | Err(Failure::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            };
            within("deleting", &path, deleted).await.err()
        });
        let deleted: BoxStream<'_, Option<StoreError>> = deleted.buffer_unordered(DELETES).boxed();
        deleted.filter_map(std::future::ready).collect().await
    }
}

async fn within<T>(
    action: &'static str,
    path: &Path,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, StoreError> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(failure)) => Err(explain(action, path, &failure)),
        Err(_) => Err(StoreError::Late { action, path: path.to_string() }),
    }
}

fn explain(action: &'static str, path: &Path, failure: &Failure) -> StoreError {
    let text = deepest(failure);
    let (path, message) = (path.to_string(), shortened(&text));
    match (failure, status(&text)) {
        (Failure::Unauthenticated { .. } | Failure::PermissionDenied { .. }, _) | (_, Some(401 | 403)) => {
            StoreError::Refused { action, path, message }
        }
        (Failure::NotFound { .. }, _) => StoreError::NotFound { action, path, message },
        (_, Some(400)) if !text.contains(TOO_SLOW) => StoreError::NotAccepted { action, path, message },
        _ => StoreError::Failed { action, path, message },
    }
}

/// The status of an answer that is no success. For most of them the library has it in its text only.
fn status(text: &str) -> Option<u16> {
    let (_, status) = text.split_once("non-2xx status code: ")?;
    status.get(..3)?.parse().ok()
}

fn contents(path: &Path, error: &dyn std::error::Error) -> StoreError {
    StoreError::Contents { path: path.to_string(), message: error.to_string() }
}

/// The library repeats sources in its messages: the outermost one tells all, but for the cause of a broken
/// connection.
fn deepest(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut error: &dyn std::error::Error = failure;
    while let Some(source) = error.source() {
        let inner = source.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        error = source;
    }
    text
}

fn shortened(message: &str) -> String {
    let line: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MESSAGE_LIMIT) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}
