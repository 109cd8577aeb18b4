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
    /// The destination is another, or nothing was ever archived.
    #[error("there are no {what} in {place:?}, where one is to be restored: check destination and uid")]
    Nothing {
        /// Where.
        place: String,
        /// What kind of folder.
        what: &'static str,
    },
    /// More than one.
    #[error(
        "{place:?} has {} {what} where one is to be restored: {}; name one of them as {key}",
        .found.len(), .found.join(", ")
    )]
    Ambiguous {
        /// Where.
        place: String,
        /// What kind of folder.
        what: &'static str,
        /// What says which.
        key: &'static str,
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
        None => only(store, prefix, "Databases", "uid").await?,
    };
    let identifier = if let Some(identifier) = config.system_identifier {
        identifier
    } else {
        let name = only(store, &prefix.clone().join(uid.as_str()), "clusters", "systemIdentifier").await?;
        SystemIdentifier(name.parse().map_err(|_| ReadError::Identifier(name))?)
    };
    Ok(Root::new(prefix, &uid, identifier))
}

/// The one folder there is.
async fn only(
    store: &Store,
    folder: &Path,
    what: &'static str,
    key: &'static str,
) -> Result<String, ReadError> {
    let folders = store.folders(folder).await?;
    let mut found: Vec<_> = folders.iter().filter_map(|f| f.filename().map(str::to_owned)).collect();
    let place = folder.to_string();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(ReadError::Nothing { place, what }),
        (Some(last), false) => {
            found.push(last);
            Err(ReadError::Ambiguous { place, what, key, found })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::archive::tests::faulty::Faulty;

    /// A store with the repositories of these Databases and clusters, and what is found for a wish in it.
    async fn found(
        folders: &[(&str, u64)],
        uid: Option<&str>,
        identifier: Option<u64>,
    ) -> Result<String, String> {
        let (store, prefix) = (Faulty::default().store(), Path::from("a/b"));
        for (uid, identifier) in folders {
            let root = Root::new(&prefix, uid, SystemIdentifier(*identifier));
            store.put(&root.description(), b"{}".to_vec()).await.unwrap();
        }
        let config = json!({"source": {"destination": "s3://a/b"}, "databaseUid": uid});
        let mut config: RestoreConfig = serde_json::from_value(config).unwrap();
        config.system_identifier = identifier.map(SystemIdentifier);
        let root = root(&store, &prefix, &config).await;
        root.map(|root| root.relative()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_alone_need_not_be_named() {
        assert_eq!(found(&[("one", 7)], None, None).await.unwrap(), "one/7");
        assert_eq!(found(&[("one", 7), ("two", 8)], Some("two"), None).await.unwrap(), "two/8");
        assert_eq!(found(&[("one", 7), ("one", 8)], None, Some(8)).await.unwrap(), "one/8");
    }

    #[tokio::test]
    async fn of_several_none_is_guessed_and_all_are_named() {
        let why = found(&[("one", 7), ("two", 8)], None, None).await.unwrap_err();
        assert!(
            why.contains("\"a/b\" has 2 Databases") && why.contains("one, two") && why.contains("uid"),
            "{why}"
        );
        let why = found(&[("one", 7), ("one", 8)], Some("one"), None).await.unwrap_err();
        assert!(why.contains("\"a/b/one\" has 2 clusters") && why.contains("7, 8"), "{why}");
    }

    #[tokio::test]
    async fn where_nothing_is_nothing_is_restored() {
        for uid in [None, Some("one")] {
            let why = found(&[], uid, None).await.unwrap_err();
            assert!(why.contains("where one is to be restored"), "{why}");
        }
        let why = found(&[("one", 7)], Some("two"), None).await.unwrap_err();
        assert!(why.contains("no clusters in \"a/b/two\""), "{why}");
    }
}
