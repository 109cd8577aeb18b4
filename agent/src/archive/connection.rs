//! Keeps the store open: with the configuration and the credentials as they are now, and knowing whether it works.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use object_store::path::Path;
use proto::{
    postgres::SystemIdentifier,
    wire::{
        backup::{ArchiveConfig, StoreHealth},
        config::AgentConfig,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    destination::{self, Credentials, DestinationError},
    layout::Root,
    store::{Store, StoreError, Written},
};
use crate::{chain::Chain, published::Published};

/// Configuration and credentials are compared this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A store that works is tried this often, so that a revoked key shows within a minute.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// One that does not is tried sooner.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// Version of the layout.
const FORMAT: u32 = 1;

/// The archive as it can be reached now.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    /// None is configured.
    Disabled,
    /// Configured, but not (yet) known to work.
    Pending,
    /// Has worked when it was last tried.
    Open(Repository),
}

/// Where the own WAL and backups go.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    /// The store.
    pub(crate) store: Store,
    /// The folder in it.
    pub(crate) root: Root,
}

/// Contents of [`Root::description`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    format: u32,
    system_identifier: SystemIdentifier,
    created_at: Timestamp,
}

impl Description {
    fn of(root: &Root) -> Self {
        Self { format: FORMAT, system_identifier: root.system_identifier(), created_at: Timestamp::now() }
    }
}

/// Why the store does not work.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Destination(#[from] DestinationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the repository has format {0}, which this version does not know")]
    Format(u32),
}

/// The task.
pub(crate) struct ConnectionTask {
    pub(super) config: watch::Receiver<AgentConfig>,
    pub(super) published: watch::Receiver<Arc<Published>>,
    pub(super) credentials: PathBuf,
    pub(super) connection: watch::Sender<Connection>,
    pub(super) health: watch::Sender<Option<StoreHealth>>,
}

/// What a store is opened with.
#[derive(Clone, PartialEq, Eq)]
struct Basis {
    config: ArchiveConfig,
    uid: String,
    system_identifier: SystemIdentifier,
    credentials: Credentials,
}

impl Basis {
    /// Whether nothing but credentials differs.
    fn is_same_place(&self, other: &Self) -> bool {
        (&self.config, &self.uid, self.system_identifier)
            == (&other.config, &other.uid, other.system_identifier)
    }
}

/// The store that was opened last.
type Opened = Option<(Basis, Repository)>;

impl ConnectionTask {
    /// Runs until nobody wants the archive.
    pub(crate) async fn run(self) {
        let mut tried: Option<Basis> = None;
        let mut open = Opened::None;
        let mut check_at = Instant::now();
        while !self.connection.is_closed() {
            let basis = self.basis();
            let changed = basis.as_ref().ok().and_then(Option::as_ref) != tried.as_ref();
            if changed {
                // What was tried before is tried anew if it comes back.
                tried = None;
            }
            match basis {
                Err(error) => self.tell(Connection::Pending, Some(&error.into())),
                Ok(None) => self.without_store(),
                Ok(Some(basis)) if changed || Instant::now() >= check_at => {
                    let works = self.check(&basis, &mut open).await;
                    check_at = Instant::now() + if works { CHECK_EVERY } else { RETRY_EVERY };
                    tried = Some(basis);
                }
                Ok(Some(_)) => {}
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn without_store(&self) {
        let pending = self.config.borrow().archive.is_some();
        self.connection.send_replace(if pending { Connection::Pending } else { Connection::Disabled });
        self.health.send_replace(None);
    }

    /// `None` if there is nothing to open: no configuration, or no data yet whose archive it would be.
    fn basis(&self) -> Result<Option<Basis>, DestinationError> {
        let config = self.config.borrow();
        let Some(archive) = &config.archive else { return Ok(None) };
        let Some(system_identifier) = self.published.borrow().status.system_identifier else {
            return Ok(None);
        };
        let credentials = Credentials::read(&self.credentials)?;
        let (config, uid) = (archive.clone(), config.database_uid.clone());
        Ok(Some(Basis { config, uid, system_identifier, credentials }))
    }

    /// Opens it if it is not, and tries it. A failed try does not close it: whoever uses it sees what fails.
    async fn check(&self, basis: &Basis, opened: &mut Opened) -> bool {
        let repository = match open(basis, opened) {
            Ok(repository) => repository,
            Err(error) => {
                self.tell(Connection::Pending, Some(&error.into()));
                return false;
            }
        };
        let error = try_out(&repository).await.err();
        self.tell(Connection::Open(repository), error.as_ref());
        error.is_none()
    }

    fn tell(&self, connection: Connection, error: Option<&CheckError>) {
        let why = error.map(|error| Chain(error).to_string());
        let known = self.health.borrow().as_ref().and_then(|health| health.why.clone());
        if let Some(why) = why.as_ref().filter(|why| known.as_ref() != Some(*why)) {
            tracing::warn!(error = why, "the archive's store does not work");
        }
        self.health.send_replace(Some(StoreHealth { reachable: why.is_none(), why, at: Timestamp::now() }));
        self.connection.send_replace(connection);
    }
}

/// Opens what is not open. If only credentials have changed, whoever is at it goes on with those of now.
fn open(basis: &Basis, opened: &mut Opened) -> Result<Repository, DestinationError> {
    if let Some((_, repository)) = opened.as_ref().filter(|(of, _)| of == basis) {
        return Ok(repository.clone());
    }
    let (store, prefix) = destination::open(&basis.config, &basis.credentials)?;
    let store = match opened.as_ref().filter(|(of, _)| of.is_same_place(basis)) {
        Some((_, before)) => store.in_place_of(&before.store),
        None => store,
    };
    let repository = Repository { store, root: Root::new(&prefix, &basis.uid, basis.system_identifier) };
    *opened = Some((basis.clone(), repository.clone()));
    Ok(repository)
}

/// Writes and reads the description. A store that takes it twice as new ignores conditions.
async fn try_out(repository: &Repository) -> Result<(), CheckError> {
    let Repository { store, root } = repository;
    let path = root.description();
    let text = match described(store, &path).await? {
        // A store that ignores conditions gets back what it has.
        Some(text) => text,
        None => serde_json::to_vec_pretty(&Description::of(root)).unwrap_or_default(),
    };
    if store.put_new(&path, text.clone()).await? == Written::New
        && store.put_new(&path, text).await? == Written::New
    {
        tracing::warn!("the store ignores conditions of writes: looking before each write instead");
        store.has_no_conditions();
    }
    match store.get_json::<Description>(&path).await? {
        Some(found) if found.format != FORMAT => Err(CheckError::Format(found.format)),
        _ => Ok(store.try_identities(&root.identities_test()).await?),
    }
}

/// The description that is there, if there is one.
async fn described(store: &Store, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match store.get(path).await {
        // To keys that may not list, S3 does not say that there is nothing.
        Err(StoreError::Refused { .. }) => Ok(None),
        described => described,
    }
}

#[cfg(test)]
mod tests;
