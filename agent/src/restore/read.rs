//! Finds the repository that is to be restored, and reads what it holds.

use jiff::Timestamp;
use object_store::path::Path;
use proto::{postgres::SystemIdentifier, wire::backup::RestoreConfig};

use super::choose::Known;
use crate::{
    archive::{
        layout::{Root, segment_of},
        store::{Store, StoreError},
        upkeep::Latest,
    },
    backup::catalog,
};

/// Why there is nothing to restore.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The store does not say.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not exactly one.
    #[error("{} has {} {what} where one is to be restored: {}; name it in the target", .place, .found.len(), .found.join(", "))]
    Ambiguous {
        /// Where.
        place: String,
        /// What kind of folder.
        what: &'static str,
        /// Those there are.
        found: Vec<String>,
    },
    /// The folder of a system identifier is none.
    #[error("{0:?} is not a system identifier")]
    Identifier(String),
}

/// The folder that the configuration means.
pub(crate) async fn root(store: &Store, prefix: &Path, config: &RestoreConfig) -> Result<Root, ReadError> {
    let uid = match &config.database_uid {
        Some(uid) => uid.clone(),
        None => only(store, prefix, "Databases").await?,
    };
    let identifier = if let Some(identifier) = config.system_identifier {
        identifier
    } else {
        let name = only(store, &prefix.clone().join(uid.as_str()), "clusters").await?;
        SystemIdentifier(name.parse().map_err(|_| ReadError::Identifier(name))?)
    };
    Ok(Root::new(prefix, &uid, identifier))
}

async fn only(store: &Store, folder: &Path, what: &'static str) -> Result<String, ReadError> {
    let folders = store.folders(folder).await?;
    let mut found: Vec<_> = folders.iter().filter_map(|f| f.filename().map(str::to_owned)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (one, _) => {
            found.extend(one);
            Err(ReadError::Ambiguous { place: folder.to_string(), what, found })
        }
    }
}

/// Everything that a choice depends on.
pub(crate) async fn known(store: &Store, root: &Root) -> Result<Known, ReadError> {
    let wal = root.wal();
    let (backups, histories, objects) =
        tokio::try_join!(catalog::backups(store, root), catalog::histories(store, root), store.list(&wal))?;
    let written = objects.iter().map(|object| object.last_modified.timestamp()).max();
    let latest: Option<Latest> = store.get_json(&root.latest()).await?;
    Ok(Known {
        backups,
        histories,
        segments: objects.iter().filter_map(|object| segment_of(&object.location)).collect(),
        // Stores tell whole seconds.
        archived_until: written.and_then(|seconds| Timestamp::from_second(seconds + 1).ok()),
        latest: latest.map(|latest| latest.time),
    })
}
