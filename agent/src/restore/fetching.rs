//! Hands WAL to the server that recovers, over a socket: what it will ask for next is fetched ahead.
//!
//! The server takes "absent" for the end of the log. So a file is absent only if the store said so and its listing
//! agrees, and never if the plan counts on it; everything else is tried again and in the end stops recovery.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::{postgres::Lsn, wire::backup::RestorePhase};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{choose::Plan, progress::Progress, recover::Purpose};
use crate::{
    archive::{
        connection::Repository,
        frame,
        header::Header,
        message::{Reply, Request},
        names::{Segment, SegmentSize, WalName},
        store::StoreError,
    },
    chain::Chain,
};

/// Segments that are fetched ahead, uncompressed in memory.
const AHEAD: usize = 4;
/// A store that is away for this long stops recovery; the next attempt starts over.
const PATIENCE: Duration = Duration::from_mins(3);
/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why a file is not there.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} should be in the archive and is not")]
    Lost(WalName),
    #[error("{name} in the archive is damaged: {why}")]
    Damaged { name: WalName, why: String },
    #[error("fetching {0} was given up")]
    GivenUp(WalName),
}

type Fetched = Result<Option<Vec<u8>>, FetchError>;

/// Serves one recovery.
pub(crate) struct Fetching {
    repository: Repository,
    plan: Plan,
    purpose: Purpose,
    progress: Progress,
    /// Whether the server has asked for what comes after the end of the archive.
    ended: watch::Sender<bool>,
    ahead: Mutex<VecDeque<(Segment, JoinHandle<Fetched>)>>,
}

impl Fetching {
    /// For a plan.
    pub(crate) fn new(repository: Repository, plan: Plan, purpose: Purpose, progress: Progress) -> Arc<Self> {
        let ended = watch::Sender::new(false);
        Arc::new(Self { repository, plan, purpose, progress, ended, ahead: Mutex::default() })
    }

    /// Becomes true when the server has all of the archive.
    pub(crate) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Serves on `socket` until it is dropped; the server asks for one file at a time.
    pub(crate) async fn serve(self: Arc<Self>, socket: &Path) -> io::Result<()> {
        let _stale = tokio::fs::remove_file(socket).await;
        let listener = UnixListener::bind(socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            if let Err(error) = self.talk(stream).await {
                tracing::warn!(%error, "a question of the recovering server was not answered");
            }
        }
    }

    async fn talk(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let (reply, contents) = match serde_json::from_str(&line)? {
            Request::Fetch { name } => self.answer(&name).await,
            Request::Offer { name, .. } => {
                (Reply::Failed { why: format!("{name}: nothing is archived during a restore") }, None)
            }
        };
        let text = serde_json::to_string(&reply)? + "\n";
        stream.get_mut().write_all(text.as_bytes()).await?;
        stream.get_mut().write_all(&contents.unwrap_or_default()).await
    }

    async fn answer(&self, name: &str) -> (Reply, Option<Vec<u8>>) {
        let Ok(wal) = name.parse::<WalName>() else { return (Reply::Absent, None) };
        let fetched = match wal {
            WalName::Segment(segment) => self.segment(segment).await,
            WalName::History(timeline) if timeline <= self.plan.timeline => self.plain(&wal).await,
            // A higher timeline's would lead away from the plan; the rest is never asked for.
            WalName::History(_) | WalName::Partial(_) | WalName::BackupLabel(..) => Ok(None),
        };
        match fetched {
            Ok(Some(contents)) => (Reply::Found { length: contents.len() as u64 }, Some(contents)),
            Ok(None) => (Reply::Absent, None),
            Err(error) => (Reply::Failed { why: Chain(&error).to_string() }, None),
        }
    }

    async fn segment(&self, segment: Segment) -> Fetched {
        self.progress.note(|progress| {
            progress.phase = RestorePhase::Recovering;
            progress.wal = Some(segment.to_string());
        });
        let Some(at) = self.plan.wal.iter().position(|planned| *planned == segment) else {
            return self.unplanned(segment).await;
        };
        let fetched = self.reach_ahead(at);
        let given_up = || FetchError::GivenUp(WalName::Segment(segment));
        fetched.ok_or_else(given_up)?.await.map_err(|_| given_up())?
    }

    /// Has this segment of the plan and the next ones fetched, and returns this one's.
    fn reach_ahead(&self, at: usize) -> Option<JoinHandle<Fetched>> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<_> = self.plan.wal.iter().skip(at).take(AHEAD + 1).copied().collect();
        while ahead.front().is_some_and(|(segment, _)| Some(segment) != wanted.first()) {
            ahead.pop_front().into_iter().for_each(|(_, task)| task.abort());
        }
        for segment in wanted.into_iter().skip(ahead.len()) {
            let repository = self.repository.clone();
            ahead.push_back((segment, tokio::spawn(async move { planned(&repository, segment).await })));
        }
        ahead.pop_front().map(|(_, task)| task)
    }

    /// Not on the way as it was planned: on another timeline, or after the end.
    async fn unplanned(&self, segment: Segment) -> Fetched {
        let size = SegmentSize(self.plan.backup.wal_segment_size);
        let end = self.plan.wal.last().map_or(Lsn(0), |last| last.end(size));
        if segment.start(size) < end {
            return self.if_there(segment).await;
        }
        // Who only follows is not promoted at the end, which may go on meanwhile.
        let fetched = match self.purpose {
            Purpose::Follow => self.if_there(segment).await,
            Purpose::Use | Purpose::Proof => Ok(None),
        };
        if matches!(fetched, Ok(None)) {
            self.ended.send_replace(true);
        }
        fetched
    }

    async fn if_there(&self, segment: Segment) -> Fetched {
        patiently(|| async {
            match self.repository.store.get_either(&self.path(&WalName::Segment(segment))).await? {
                Some(frame) => decode(segment, frame, &self.repository).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn plain(&self, name: &WalName) -> Fetched {
        let path = self.path(name);
        patiently(|| async { Ok(self.repository.store.get(&path).await?) }).await
    }

    fn path(&self, name: &WalName) -> object_store::path::Path {
        self.repository.root.wal_file(name, "")
    }
}

/// A segment that the listing has shown.
async fn planned(repository: &Repository, segment: Segment) -> Fetched {
    let name = WalName::Segment(segment);
    let path = repository.root.wal_file(&name, "");
    patiently(|| async {
        let frame = repository.store.get_either(&path).await?;
        let frame = frame.ok_or_else(|| FetchError::Lost(name.clone()))?;
        decode(segment, frame, repository).await.map(Some)
    })
    .await
}

async fn decode(segment: Segment, frame: Vec<u8>, repository: &Repository) -> Result<Vec<u8>, FetchError> {
    let name = WalName::Segment(segment);
    let decoded = tokio::task::spawn_blocking(move || frame::decompress(&frame)).await;
    let damaged = |why: String| FetchError::Damaged { name: name.clone(), why };
    let contents =
        decoded.map_err(|_| FetchError::GivenUp(name.clone()))?.map_err(|e| damaged(e.to_string()))?;
    let header =
        Header::check(segment, &contents, contents.len() as u64).map_err(|e| damaged(e.to_string()))?;
    match header.system_identifier == repository.root.system_identifier() {
        true => Ok(contents),
        false => Err(damaged(format!("it is of cluster {}", header.system_identifier))),
    }
}

/// Tries again what may come to something.
async fn patiently<F: Future<Output = Fetched>>(attempt: impl Fn() -> F) -> Fetched {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(FetchError::Store(error)) if error.is_lasting() => return Err(error.into()),
            Err(error @ (FetchError::Store(_) | FetchError::Lost(_))) if Instant::now() < deadline => {
                tracing::warn!(error = %Chain(&error), "fetching WAL is tried again");
                sleep(RETRY_AFTER).await;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests;
