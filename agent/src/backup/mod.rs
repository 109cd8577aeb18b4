//! Base backups into the archive (docs/backup-repository.md).
//!
//! | file | one idea |
//! |---|---|
//! | [`protocol`] | the server's replication protocol |
//! | [`pieces`] | a stream as compressed objects |
//! | [`patience`] | how long a backup waits for its store |
//! | [`contents`] | `backup.json` |
//! | [`run`] | one backup |
//! | [`chain`] | backups that build on each other: pure |
//! | [`snapshot`] | one whose data is in a VolumeSnapshot |
//! | [`increment`] | what a backup builds on, or why on nothing |
//! | [`catalog`] | what is in the repository |
//! | [`retention`] | what need not be there any more |
//! | [`http`] | what the operator asks |

pub(crate) mod catalog;
pub(crate) mod chain;
pub(crate) mod contents;
pub(crate) mod http;
mod increment;
mod patience;
mod pieces;
mod protocol;
mod retention;
mod run;
pub(crate) mod snapshot;

use std::sync::Arc;

use jiff::Timestamp;
use proto::{
    pod::{POSTGRES_PORT, pod_ordinal},
    wire::{
        backup::{ArchiveStatus, BackupKind, BackupPhase, BackupState, StartBackup},
        http::{Role, State},
        snapshot::{BackupMethod, SnapshotTaken},
    },
};
pub(crate) use run::{Leader, Run};
use snapshot::{Hold, Taken};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    archive::{
        Archive, Counts,
        connection::{Connection, Repository},
        layout::is_backup_name,
    },
    chain::Chain,
    peer::client::Peers,
};

/// A wish that waits for the task to look.
const QUEUE: usize = 1;

/// Why no backup was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error("{0:?} cannot name a backup: use letters, digits, '-' and '.', at most 63")]
    Name(String),
    #[error("backup {0} runs here; one at a time")]
    Busy(String),
    #[error("there is a backup {0} already")]
    Taken(String),
    #[error("no backup {0} waits for a VolumeSnapshot here")]
    NotAwaited(String),
    #[error("no archive is configured, or its store cannot be used; see the status")]
    NoArchive,
    #[error("this member's server does not run as primary or standby")]
    NotRunning,
    #[error(transparent)]
    Store(#[from] crate::archive::store::StoreError),
}

/// Begins backups and tells how they are; cheap to clone.
#[derive(Clone)]
pub(crate) struct Backups {
    archive: Archive,
    state: Arc<watch::Sender<Option<BackupState>>>,
    taken: Arc<watch::Sender<Taken>>,
    wishes: mpsc::Sender<(Repository, StartBackup)>,
}

/// Makes them, one at a time.
pub(crate) struct BackupTask {
    archive: Archive,
    peers: Peers,
    socket_directory: Arc<str>,
    state: Arc<watch::Sender<Option<BackupState>>>,
    taken: Arc<watch::Sender<Taken>>,
    wishes: mpsc::Receiver<(Repository, StartBackup)>,
}

/// Makes the handle and the task.
pub(crate) fn backups(archive: Archive, peers: Peers, socket_directory: Arc<str>) -> (Backups, BackupTask) {
    let state = Arc::new(watch::Sender::new(None));
    let taken = Arc::new(watch::Sender::new(None));
    let (wishes_in, wishes) = mpsc::channel(QUEUE);
    let handle = Backups {
        archive: archive.clone(),
        state: Arc::clone(&state),
        taken: Arc::clone(&taken),
        wishes: wishes_in,
    };
    (handle, BackupTask { archive, peers, socket_directory, state, taken, wishes })
}

impl Backups {
    /// The one under way, or the last one.
    pub(crate) fn state(&self) -> Option<BackupState> {
        self.state.borrow().clone()
    }

    /// The archive with that.
    pub(crate) fn archive_status(&self) -> Option<ArchiveStatus> {
        self.archive.status().map(|archive| ArchiveStatus { backup: self.state(), ..archive })
    }

    /// What the archive did since this process began.
    pub(crate) fn counts(&self) -> Counts {
        self.archive.counts()
    }

    /// The repository, if it can be used.
    pub(crate) fn repository(&self) -> Result<Repository, BeginError> {
        match self.archive.connection() {
            Connection::Open(repository) => Ok(repository),
            Connection::Disabled | Connection::Pending => Err(BeginError::NoArchive),
        }
    }

    /// Begins a backup; its outcome is in the state.
    pub(crate) async fn begin(&self, wish: StartBackup) -> Result<BackupState, BeginError> {
        if !is_backup_name(&wish.name) {
            return Err(BeginError::Name(wish.name));
        }
        let repository = self.repository()?;
        if !matches!(self.archive.state(), State::Running | State::Streaming)
            || self.archive.role() == Role::None
        {
            return Err(BeginError::NotRunning);
        }
        for path in [repository.root.backup_file(&wish.name), repository.root.snapshot_file(&wish.name)] {
            if repository.store.exists(&path).await? {
                return Err(BeginError::Taken(wish.name));
            }
        }
        let Ok(slot) = self.wishes.try_reserve() else {
            let name = self.state().map(|state| state.name).unwrap_or_default();
            return Err(BeginError::Busy(name));
        };
        if let Some(running) = self.state().filter(|state| !is_over(state.phase)) {
            return Err(BeginError::Busy(running.name));
        }
        let kind = match wish.method {
            BackupMethod::Physical => BackupKind::Full,
            BackupMethod::VolumeSnapshot => BackupKind::Snapshot,
        };
        let state = BackupState::begun(wish.name.clone(), kind, Timestamp::now());
        self.state.send_replace(Some(state.clone()));
        slot.send((repository, wish));
        Ok(state)
    }

    /// The volume is copied: the server need not wait any more. Telling it twice is harmless.
    pub(crate) fn taken(&self, name: String, taken: SnapshotTaken) -> Result<BackupState, BeginError> {
        let state = self.state().filter(|state| state.name == name && state.kind == BackupKind::Snapshot);
        match state {
            Some(state) if state.phase == BackupPhase::AwaitingSnapshot => {
                self.taken.send_replace(Some((name, taken)));
                Ok(state)
            }
            Some(state) if state.phase != BackupPhase::Starting => Ok(state),
            _ => Err(BeginError::NotAwaited(name)),
        }
    }
}

fn is_over(phase: BackupPhase) -> bool {
    matches!(phase, BackupPhase::Completed | BackupPhase::Failed)
}

impl BackupTask {
    /// Runs until nobody can wish any more.
    pub(crate) async fn run(self) {
        let this = Arc::new(self.archive.clone());
        let mut task = self;
        while let Some((repository, wish)) = task.wishes.recv().await {
            let mut one = JoinSet::new();
            let (archive, peers) = (Arc::clone(&this), task.peers.clone());
            let (socket, state) = (Arc::clone(&task.socket_directory), Arc::clone(&task.state));
            let taken = task.taken.subscribe();
            one.spawn(
                async move { make(&archive, &peers, &socket, &state, taken, &repository, &wish).await },
            );
            // A panic in one backup must not end the next ones.
            if !matches!(one.join_next().await, Some(Ok(()))) {
                fail(&task.state, "the backup ended in a panic; see the agent's log".to_owned());
            }
        }
    }
}

async fn make(
    archive: &Archive,
    peers: &Peers,
    socket_directory: &str,
    state: &watch::Sender<Option<BackupState>>,
    taken: watch::Receiver<Taken>,
    repository: &Repository,
    wish: &StartBackup,
) {
    let name = wish.name.as_str();
    let shown = archive.published();
    let leader = || {
        let shown = archive.published();
        let leader = shown.status.leader.as_deref().and_then(pod_ordinal)?;
        Some(if leader == shown.status.ordinal { Leader::Here } else { Leader::There(leader) })
    };
    let run = Run {
        repository,
        peers,
        socket_directory,
        port: POSTGRES_PORT,
        leader: &leader,
        pod: archive.pod(),
        from_standby: archive.role() == Role::Replica,
        server_version: shown.status.server_version.unwrap_or_default(),
        full_every: wish.full_every,
        state,
    };
    tracing::info!(name, "a backup begins");
    let data = || archive.published().status.data_id;
    let made = match wish.method {
        BackupMethod::Physical => run.make(name).await,
        BackupMethod::VolumeSnapshot => run.make_of_snapshot(name, Hold { data: &data, taken }).await,
    };
    match made {
        Ok(summary) => {
            tracing::info!(
                name,
                kind = ?summary.kind,
                size = summary.size_bytes,
                stored = summary.stored_bytes,
                "a backup is complete"
            );
            state.send_modify(|state| {
                if let Some(state) = state {
                    state.phase = BackupPhase::Completed;
                    state.bytes_done = summary.size_bytes;
                    state.stored_bytes = summary.stored_bytes;
                    state.summary = Some(summary);
                }
            });
        }
        Err(error) => {
            let why = Chain(&error).to_string();
            tracing::error!(name, error = why, "a backup failed");
            fail(state, why);
        }
    }
}

fn fail(state: &watch::Sender<Option<BackupState>>, why: String) {
    state.send_modify(|state| {
        if let Some(state) = state.as_mut().filter(|state| !is_over(state.phase)) {
            state.phase = BackupPhase::Failed;
            state.error = Some(why);
        }
    });
}
