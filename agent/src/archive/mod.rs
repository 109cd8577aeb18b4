//! The archive: continuous WAL and base backups in an object store (docs/backup-repository.md).
//!
//! | file | one idea |
//! |---|---|
//! | [`names`], [`header`], [`layout`] | what is archived, and where: pure |
//! | [`store`], [`destination`], [`connection`] | the object store, its credentials, whether it works |
//! | [`age`], [`store::sealed`] | encryption, and which objects are encrypted |
//! | [`command`], [`message`], [`serving`] | from the server's `archive_command` to the sidecar |
//! | [`push`] | one file, exactly once |
//! | [`gap`], [`upkeep`] | what earlier primaries left, what standbys keep for that, what the status says |

pub(crate) mod age;
pub(crate) mod command;
pub(crate) mod connection;
pub(crate) mod destination;
pub(crate) mod frame;
mod gap;
pub(crate) mod header;
pub(crate) mod layout;
pub(crate) mod message;
pub(crate) mod names;
mod push;
mod serving;
pub(crate) mod store;
pub(crate) mod upkeep;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use connection::{Connection, ConnectionTask};
use proto::{
    ha::view::Me,
    pod::ARCHIVE_SOCKET,
    wire::{
        backup::{ArchiveStatus, RestoreProgress, StoreHealth},
        config::AgentConfig,
        http::{Role, State},
    },
};
pub(crate) use serving::Counts;
use serving::Noted;
use tokio::sync::watch;
use upkeep::UpkeepTask;

use crate::{boot_clock, peer::client::Peers, published::Published};

/// The archive of this member; cheap to clone.
#[derive(Clone)]
pub(crate) struct Archive {
    me: Arc<Me>,
    published: watch::Receiver<Arc<Published>>,
    connection: watch::Receiver<Connection>,
    health: watch::Receiver<Option<StoreHealth>>,
    noted: Arc<Mutex<Noted>>,
    status: watch::Receiver<Option<ArchiveStatus>>,
    restore: watch::Receiver<Option<RestoreProgress>>,
}

/// What the archive is made of.
pub(crate) struct Parts<'a> {
    /// Who this is.
    pub(crate) me: Arc<Me>,
    /// What the driver shows.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// What the operator wants.
    pub(crate) config: watch::Receiver<AgentConfig>,
    /// The other members.
    pub(crate) peers: Peers,
    /// Directory with the credentials.
    pub(crate) credentials: &'a Path,
    /// Directory of the server's socket.
    pub(crate) socket_directory: Arc<str>,
}

/// Makes the handle, and the tasks that keep the store open and look after what is in it.
pub(crate) fn archive(parts: Parts<'_>) -> (Archive, ConnectionTask, UpkeepTask) {
    let (connection_in, connection) = watch::channel(Connection::Pending);
    let (health_in, health) = watch::channel(None);
    let (status_in, status) = watch::channel(None);
    let (restore_in, restore) = watch::channel(None);
    let task = ConnectionTask {
        config: parts.config,
        published: parts.published.clone(),
        credentials: parts.credentials.to_owned(),
        connection: connection_in,
        health: health_in,
    };
    let archive = Archive {
        me: parts.me,
        published: parts.published,
        connection,
        health,
        noted: Arc::default(),
        status,
        restore,
    };
    let upkeep = UpkeepTask::new(archive.clone(), parts.peers, parts.socket_directory, status_in, restore_in);
    (archive, task, upkeep)
}

/// Serves the server's `archive_command`.
pub(crate) async fn serve(archive: Archive) {
    serving::serve(archive, Path::new(ARCHIVE_SOCKET)).await;
}

impl Archive {
    /// The store as it can be reached now.
    pub(crate) fn connection(&self) -> Connection {
        self.connection.borrow().clone()
    }

    /// For the operator.
    pub(crate) fn status(&self) -> Option<ArchiveStatus> {
        self.status.borrow().clone()
    }

    /// What happened since this process began.
    pub(crate) fn counts(&self) -> Counts {
        self.noted().counts
    }

    /// The restore that runs in this pod, or made its data.
    pub(crate) fn restore(&self) -> Option<RestoreProgress> {
        self.restore.borrow().clone()
    }

    /// Name of this pod.
    pub(crate) fn pod(&self) -> &str {
        &self.me.pod
    }

    /// What the driver shows.
    pub(crate) fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// What the server does.
    pub(crate) fn state(&self) -> State {
        self.published().status.state
    }

    /// What this member is.
    pub(crate) fn role(&self) -> Role {
        self.published().role(boot_clock::now())
    }

    /// Whether the server here may be writing WAL, and no other.
    fn may_write(&self) -> bool {
        self.published().fenced_until.is_some_and(|until| boot_clock::now() < until)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn fingerprint_of(text: &str) -> Option<push::Fingerprint> {
    let mut fingerprint = push::Fingerprint::default();
    if text.len() != 2 * fingerprint.len() {
        return None;
    }
    for (at, byte) in fingerprint.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(fingerprint)
}

#[cfg(test)]
pub(crate) mod tests;
