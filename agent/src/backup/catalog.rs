//! What is in a repository.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use proto::{
    postgres::Timeline,
    wire::backup::{BackupSummary, Repository as Described},
};

use super::{
    chain,
    contents::{Contents, FORMAT},
    snapshot::entry,
};
use crate::{
    archive::{
        connection::Repository,
        layout::Root,
        names::WalName,
        store::{Store, StoreError},
        upkeep::Latest,
    },
    supervisor::history::{Histories, History},
};

/// Files that are read at once.
const READS: usize = 8;

/// Completed backups, oldest first. Those that lack something that they build on are marked as damaged.
pub(crate) async fn backups(store: &Store, root: &Root) -> Result<Vec<Contents>, StoreError> {
    let names: Vec<_> = store
        .folders(&root.backups())
        .await?
        .iter()
        .filter_map(|folder| folder.filename().map(str::to_owned))
        .collect();
    let read = futures::stream::iter(names).map(|name| async move { backup(store, root, &name).await });
    let read: Vec<Option<Contents>> = read.buffered(READS).try_collect().await?;
    let mut backups: Vec<_> = read.into_iter().flatten().collect();
    backups.sort_by_key(|backup| backup.summary.stopped_at);
    chain::mark_broken(&mut backups);
    Ok(backups)
}

/// One backup, if it was completed.
pub(crate) async fn backup(store: &Store, root: &Root, name: &str) -> Result<Option<Contents>, StoreError> {
    let path = root.backup_file(name);
    match store.get_json::<Contents>(&path).await? {
        Some(contents) if contents.format != FORMAT => Err(StoreError::Contents {
            path: path.to_string(),
            message: format!("format {} is of another version", contents.format),
        }),
        found => Ok(found),
    }
}

/// How the archived timelines descend from each other.
pub(crate) async fn histories(store: &Store, root: &Root) -> Result<Histories, StoreError> {
    let objects = store.list(&root.histories()).await?;
    let timelines = objects.iter().filter_map(|object| match object.location.filename()?.parse() {
        Ok(WalName::History(timeline)) => Some((timeline, object.location.clone())),
        _ => None,
    });
    let read = futures::stream::iter(timelines.collect::<Vec<_>>()).map(|(timeline, path)| async move {
        let text = store.get(&path).await?.unwrap_or_default();
        Ok::<_, StoreError>((timeline, History::parse(&String::from_utf8_lossy(&text))))
    });
    read.buffered(READS).try_collect::<BTreeMap<_, _>>().await
}

/// Whether recovery along `newest` passes the end of this backup.
pub(crate) fn leads_to(backup: &BackupSummary, newest: Timeline, histories: &Histories) -> bool {
    if backup.stop.timeline == newest {
        return true;
    }
    histories
        .get(&newest)
        .and_then(|history| history.left(backup.stop.timeline))
        .is_some_and(|left| backup.stop.lsn <= left)
}

/// The timeline that the newest history file names, or the newest one of any backup.
pub(crate) fn newest_timeline(backups: &[Contents], histories: &Histories) -> Timeline {
    let of_backups = backups.iter().map(|backup| backup.summary.stop.timeline);
    histories.keys().copied().chain(of_backups).max().unwrap_or(Timeline::FIRST)
}

/// For the operator.
pub(crate) async fn describe(repository: &Repository) -> Result<Described, StoreError> {
    let Repository { store, root } = repository;
    let (found, snapshots, histories) =
        tokio::try_join!(backups(store, root), entry::entries(store, root), histories(store, root))?;
    let newest = newest_timeline(&found, &histories);
    let latest: Option<Latest> = store.get_json(&root.latest()).await?;
    let good = |backup: &&BackupSummary| backup.damage.is_none() && leads_to(backup, newest, &histories);
    let backups: Vec<_> = found.into_iter().map(|backup| backup.summary).collect();
    let earliest = backups.iter().find(good).map(|backup| backup.stopped_at);
    let latest =
        latest.map(|latest| latest.time).filter(|time| earliest.is_some_and(|earliest| earliest <= *time));
    Ok(Described {
        path: root.relative(),
        earliest_restorable: earliest,
        latest_restorable: latest.or(earliest),
        backups,
        snapshots: snapshots.into_iter().map(|entry| entry.summary).collect(),
    })
}
