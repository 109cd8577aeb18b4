//! Takes WAL files from the server's `archive_command` and writes them to the store.
//!
//! Failure modes: without the right to archive (the lease is over, or the promotion has not got that far) the
//! command is held for [`PERMISSION_TIMEOUT`] and then refused; a slow store holds it for as long as the store's
//! own limits; a server that shuts down waits for [`FAREWELL`] at most, since a hand-over waits for it.

use std::{collections::VecDeque, io, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use proto::wire::{
    backup::{ArchiveFailure, ArchivedWal},
    http::State,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Archive,
    connection::{Connection, Repository},
    message::{Contents, Reply, Request},
    names::{Segment, WalName},
    push::{self, WalFile},
};
use crate::chain::Chain;

/// Files in memory at once: what the server asks for and what it will ask for next.
const PUSHES: usize = 4;
/// The largest file that is taken, compressed or not. Segments of more than 64 MiB would not fit the memory that
/// the container has.
const MAX_FILE: u64 = 65 << 20;
/// The client sends its line at once.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// The client compresses before it sends.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// A promotion archives its history file before this agent has seen that it is done.
const PERMISSION_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at whether it may be archived.
const PERMISSION_EVERY: Duration = Duration::from_millis(100);
/// All attempts for one file.
const PUSH_TIMEOUT: Duration = Duration::from_mins(3);
/// All attempts while the server shuts down; whoever leads next archives what is missing.
const FAREWELL: Duration = Duration::from_secs(1);
/// After the socket failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    #[error("the client was silent for too long")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("the client said something unknown")]
    Shape(#[from] serde_json::Error),
    #[error("{0} bytes are more than a WAL file has")]
    Large(u64),
}

/// Serves until the process ends.
pub(crate) async fn serve(archive: Archive, socket: &Path) {
    let slots = Arc::new(Semaphore::new(PUSHES));
    let mut talks = JoinSet::new();
    loop {
        let _stale = tokio::fs::remove_file(socket).await;
        let listener = match UnixListener::bind(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot listen on {}", socket.display());
                sleep(PAUSE).await;
                continue;
            }
        };
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            while talks.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else { break };
            let archive = archive.clone();
            talks.spawn(async move {
                if let Err(error) = talk(&archive, stream).await {
                    tracing::debug!(error = %Chain(&error), "a WAL file was not taken");
                }
                drop(slot);
            });
        }
        sleep(PAUSE).await;
    }
}

async fn talk(archive: &Archive, stream: UnixStream) -> Result<(), TalkError> {
    let begun = Instant::now();
    let mut stream = BufReader::new(stream);
    let reply = match hear(&mut stream).await? {
        Request::Offer { name, ahead } => match offered(archive, &name, ahead).await {
            Offered::Answer(reply) => reply,
            Offered::Wanted(repository, name) => {
                say(&mut stream, &Reply::Send).await?;
                let (contents, stored) = body(&mut stream).await?;
                take(archive, &repository, Offer { name, contents, stored, ahead, begun }).await
            }
        },
        // A member gets what it misses from the leader, or copies its data (docs/backup-repository.md).
        Request::Fetch { name } => {
            Reply::Failed { why: format!("members do not fetch {name} from the archive") }
        }
    };
    say(&mut stream, &reply).await
}

enum Offered {
    Answer(Reply),
    Wanted(Repository, WalName),
}

async fn offered(archive: &Archive, name: &str, ahead: bool) -> Offered {
    let repository = match archive.connection() {
        Connection::Disabled => {
            archive.noted().forget_acknowledged();
            return Offered::Answer(Reply::Done);
        }
        Connection::Pending => {
            return Offered::Answer(refused(archive, "the archive's store is not open (yet)"));
        }
        Connection::Open(repository) => repository,
    };
    let Ok(name) = name.parse::<WalName>() else {
        return Offered::Answer(refused(archive, &format!("{name:?} is not the name of a WAL file")));
    };
    if archive.noted().acknowledged(&name) {
        archive.noted().archived(name, ahead);
        return Offered::Answer(Reply::Done);
    }
    match permission(archive).await {
        true => Offered::Wanted(repository, name),
        false => Offered::Answer(refused(archive, "this member may not write: it holds no valid lease")),
    }
}

/// Only a server under an armed fence may be writing, and nobody else while its time is not over (L2).
async fn permission(archive: &Archive) -> bool {
    let deadline = Instant::now() + PERMISSION_TIMEOUT;
    while !archive.may_write() {
        if Instant::now() >= deadline || archive.state() == State::Stopping {
            return false;
        }
        sleep(PERMISSION_EVERY).await;
    }
    true
}

fn refused(archive: &Archive, why: &str) -> Reply {
    match archive.state() {
        State::Stopping => Reply::GiveUp { why: why.to_owned() },
        _ => Reply::Failed { why: why.to_owned() },
    }
}

/// A file that is here to be written.
struct Offer {
    name: WalName,
    contents: Contents,
    stored: Vec<u8>,
    ahead: bool,
    /// When the conversation about it began.
    begun: Instant,
}

async fn take(archive: &Archive, repository: &Repository, offer: Offer) -> Reply {
    let Offer { name, contents, stored, ahead, begun } = offer;
    let own = repository.root.system_identifier();
    if contents.system_identifier.is_some_and(|found| found != own) {
        return refused(archive, &format!("{name} belongs to another cluster than {own}"));
    }
    let Some(fingerprint) = super::fingerprint_of(&contents.fingerprint) else {
        return refused(archive, "a fingerprint is not one");
    };
    let file = WalFile { name: name.clone(), fingerprint, stored };
    let (store, root) = (&repository.store, &repository.root);
    let asked = Instant::now();
    let pushed = tokio::select! {
        pushed = timeout(PUSH_TIMEOUT, push::push(store, root, archive.pod(), file)) => pushed.ok(),
        () = farewell(archive) => None,
    };
    match pushed {
        Some(Ok(())) => {
            let mut noted = archive.noted();
            noted.counts.upload(begun.elapsed(), asked.elapsed());
            noted.archived(name, ahead);
            Reply::Done
        }
        Some(Err(error)) => {
            let failure = error.failure();
            tracing::warn!(error = failure.message, "a WAL file was not archived");
            archive.noted().failed(failure.clone());
            refused(archive, &failure.message)
        }
        None => refused(archive, &format!("the store took too long with {name}")),
    }
}

/// Ends a moment after the server began to shut down.
async fn farewell(archive: &Archive) {
    while archive.state() != State::Stopping {
        sleep(PERMISSION_EVERY).await;
    }
    sleep(FAREWELL).await;
}

async fn hear<T: serde::de::DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> Result<T, TalkError> {
    let mut line = String::new();
    timeout(LINE_TIMEOUT, stream.read_line(&mut line)).await??;
    Ok(serde_json::from_str(&line)?)
}

async fn say(stream: &mut BufReader<UnixStream>, reply: &Reply) -> Result<(), TalkError> {
    let line = serde_json::to_string(reply)? + "\n";
    timeout(LINE_TIMEOUT, stream.get_mut().write_all(line.as_bytes())).await??;
    Ok(())
}

async fn body(stream: &mut BufReader<UnixStream>) -> Result<(Contents, Vec<u8>), TalkError> {
    let read = async {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let contents: Contents = serde_json::from_str(&line)?;
        let length = usize::try_from(contents.length).ok().filter(|_| contents.length <= MAX_FILE);
        let mut bytes = vec![0; length.ok_or(TalkError::Large(contents.length))?];
        stream.read_exact(&mut bytes).await?;
        Ok((contents, bytes))
    };
    timeout(BODY_TIMEOUT, read).await?
}

/// Kept for the status.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    acknowledged: VecDeque<WalName>,
    /// The last file that the store took for the server's archiver, which works in order.
    pub(crate) last: Option<ArchivedWal>,
    /// The highest segment of the newest timeline among those: all before it are in the archive.
    pub(crate) newest: Option<Segment>,
    /// The first segment that the server's archiver sent since archiving was turned on, or since this member leads:
    /// what was written before, others have sent, or nobody.
    pub(crate) first: Option<Segment>,
    /// The last failure since.
    pub(crate) error: Option<ArchiveFailure>,
    /// What happened since this process began.
    pub(crate) counts: Counts,
}

/// Since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Files that the store took for the server's archiver.
    pub(crate) archived: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Files that were written to the store, those sent along included.
    pub(crate) uploads: u64,
    /// What these took in all, from the first word about a file on: reading, compressing, sending, the store.
    pub(crate) handling: Duration,
    /// What of that was the store.
    pub(crate) storing: Duration,
}

impl Counts {
    fn upload(&mut self, handling: Duration, storing: Duration) {
        self.uploads += 1;
        self.handling += handling;
        self.storing += storing;
    }
}

/// Acknowledged files that are remembered: those read ahead, and a few more.
const REMEMBERED: usize = 16;

impl Noted {
    /// Whether the store has acknowledged this file a moment ago.
    fn acknowledged(&self, name: &WalName) -> bool {
        self.acknowledged.contains(name)
    }

    /// The store has taken it.
    fn archived(&mut self, name: WalName, ahead: bool) {
        if !ahead {
            self.error = None;
            self.counts.archived += 1;
            self.last = Some(ArchivedWal { name: name.to_string(), at: Timestamp::now() });
        }
        if let WalName::Segment(segment) = name {
            if !ahead {
                self.first.get_or_insert(segment);
                self.newest = self.newest.max(Some(segment));
            }
            self.acknowledged.push_back(name);
        }
        while self.acknowledged.len() > REMEMBERED {
            self.acknowledged.pop_front();
        }
    }

    /// The store has not taken it.
    pub(crate) fn failed(&mut self, failure: ArchiveFailure) {
        self.error = Some(failure);
        self.counts.failed += 1;
    }

    /// Another server may write files of the same names now, or the archive may miss what is written from now on.
    pub(crate) fn forget_acknowledged(&mut self) {
        self.acknowledged.clear();
        self.first = None;
    }
}
