//! What a repository need not hold any more: pure, and its execution in an order in which a crash only leaves more
//! than necessary.
//!
//! Kept is whatever any time of the window needs: the newest good backup that is older than the window, all that are
//! newer, what those build on, snapshots that are not older, and every WAL file from the oldest kept one's start on. What is not certainly
//! superfluous stays.

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use proto::{
    postgres::{Lsn, Timeline},
    wire::backup::{BackupSummary, Retention, RetentionReport},
};

use super::{
    catalog, chain,
    contents::Contents,
    snapshot::entry::{self, Entry},
};
use crate::{
    archive::{
        connection::Repository,
        names::{Segment, SegmentSize, WalName},
        store::{StoreError, sealed::plain_name},
    },
    chain::Chain,
    supervisor::history::Histories,
};

/// Pieces without `backup.json` are of a run that still goes on, perhaps in another pod, or failed. None takes
/// longer.
const UNFINISHED_AFTER: SignedDuration = SignedDuration::from_hours(72);

/// Clocks of computers that ask for the time differ by less, and S3 does not accept more than 15 minutes.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// When the backup ended that the window needs from before it.
fn anchor(
    backups: &[Contents],
    newest: Timeline,
    histories: &Histories,
    window_begins: Timestamp,
) -> Option<Timestamp> {
    let good = |backup: &&Contents| {
        backup.summary.damage.is_none() && catalog::leads_to(&backup.summary, newest, histories)
    };
    let stopped = backups.iter().filter(good).map(|backup| backup.summary.stopped_at);
    stopped.filter(|stopped| *stopped <= window_begins).max()
}

/// The names of the backups that may go, oldest first.
fn superfluous(backups: &[Contents], anchor: Option<Timestamp>) -> Vec<String> {
    let Some(anchor) = anchor else { return Vec::new() };
    let (older, kept): (Vec<_>, Vec<_>) =
        backups.iter().partition(|backup| backup.summary.stopped_at < anchor);
    let built_on = built_on(backups, kept);
    older.iter().map(|backup| backup.summary.name.clone()).filter(|name| !built_on.contains(name)).collect()
}

/// What must be there for these to be restored.
fn built_on<'a>(backups: &'a [Contents], kept: impl IntoIterator<Item = &'a Contents>) -> BTreeSet<String> {
    let chains = kept.into_iter().filter_map(|backup| chain::chain(backups, backup).ok());
    chains.flatten().map(|backup| backup.summary.name.clone()).collect()
}

/// Those of `going` in an order in which a crash leaves none without what it builds on.
fn in_order<'a>(backups: &'a [Contents], going: &[String]) -> Vec<&'a Contents> {
    let mut order: Vec<_> = backups.iter().filter(|backup| going.contains(&backup.summary.name)).collect();
    order.sort_by_key(|backup| Reverse(backup.summary.stop.lsn));
    order
}

/// WAL before this position serves no kept backup: recovery from each begins at its start and goes forward only.
fn oldest_needed<'a>(kept: impl IntoIterator<Item = &'a BackupSummary>) -> Option<Lsn> {
    kept.into_iter().map(|backup| backup.start.lsn).min()
}

fn is_needed(name: &WalName, from: Lsn, size: SegmentSize) -> bool {
    match name {
        WalName::Segment(segment) | WalName::Partial(segment) | WalName::BackupLabel(segment, _) => {
            segment.end(size) > from
        }
        // Small, and each tells of all its ancestors.
        WalName::History(_) => true,
    }
}

/// Deletes what is superfluous, or only tells it.
pub(crate) async fn apply(
    repository: &Repository,
    wish: Retention,
    running: Option<&str>,
) -> Result<RetentionReport, StoreError> {
    let stores = repository.store.time(&repository.root.clock()).await?;
    let (now, clocks) = agreed(Timestamp::now(), stores);
    let report = apply_at(repository, wish, running, now).await?;
    Ok(RetentionReport { clocks, ..report })
}

/// The time that counts, and what is to be told of the clocks. A clock that is ahead would make everything too old at once,
/// so it is the earlier of both.
fn agreed(own: Timestamp, stores: Timestamp) -> (Timestamp, Option<String>) {
    let ahead = own.duration_since(stores);
    let told = (ahead.abs() > SKEW).then(|| {
        let direction = if ahead.is_positive() { "ahead of" } else { "behind" };
        format!(
            "the clock of this instance is {:#} {direction} the store's; the earlier one counts: set them right",
            SignedDuration::from_secs(ahead.as_secs().abs())
        )
    });
    (own.min(stores), told)
}

async fn apply_at(
    repository: &Repository,
    wish: Retention,
    running: Option<&str>,
    now: Timestamp,
) -> Result<RetentionReport, StoreError> {
    let Repository { store, root } = repository;
    let (found, snapshots, histories) = tokio::try_join!(
        catalog::backups(store, root),
        entry::entries(store, root),
        catalog::histories(store, root)
    )?;
    let newest = catalog::newest_timeline(&found, &histories);
    let window = SignedDuration::from_hours(24 * i64::from(wish.days));
    let Ok(window_begins) = now.checked_sub(window) else { return Ok(RetentionReport::default()) };
    let anchor = anchor(&found, newest, &histories, window_begins);
    let going = superfluous(&found, anchor);
    let (old, young): (Vec<_>, Vec<_>) =
        snapshots.iter().partition(|entry| entry::is_superfluous(entry, anchor));
    let unfinished = unfinished(repository, &found, running, now).await?;
    let wal = superfluous_wal(repository, &found, &going, &young).await?;
    let mut report = RetentionReport {
        backups: going.clone(),
        snapshots: old.iter().map(|entry| entry.summary.name.clone()).collect(),
        unfinished: unfinished.clone(),
        wal_files: wal.len() as u64,
        not_deleted: Vec::new(),
        clocks: None,
    };
    if wish.dry_run {
        return Ok(report);
    }
    // First what makes it a backup: a crash leaves an unfinished one, and never one that lacks something.
    let (gone, mut failed) = unmake(repository, &found, &going).await;
    let old = report.snapshots.iter().map(|name| root.snapshot_file(name)).collect();
    failed.extend(store.delete(old).await);
    let all_gone = failed.is_empty();
    for name in gone.iter().chain(&unfinished) {
        let objects = store.list(&root.backup(name)).await?;
        failed.extend(store.delete(objects.into_iter().map(|object| object.location).collect()).await);
    }
    if all_gone {
        failed.extend(store.delete(wal).await);
    }
    report.not_deleted = failed.iter().map(|error| Chain(error).to_string()).collect();
    Ok(report)
}

/// Makes backups none, and returns which. What the store does not let go keeps what it builds on.
async fn unmake(
    repository: &Repository,
    found: &[Contents],
    going: &[String],
) -> (Vec<String>, Vec<StoreError>) {
    let Repository { store, root } = repository;
    let (mut gone, mut failed, mut held) = (Vec::new(), Vec::new(), BTreeSet::new());
    for backup in in_order(found, going) {
        let name = &backup.summary.name;
        if held.contains(name) {
            continue;
        }
        let refused = store.delete(vec![root.backup_file(name)]).await;
        match refused.is_empty() {
            true => gone.push(name.clone()),
            false => held.extend(built_on(found, [backup])),
        }
        failed.extend(refused);
    }
    (gone, failed)
}

async fn superfluous_wal(
    repository: &Repository,
    found: &[Contents],
    going: &[String],
    snapshots: &[&Entry],
) -> Result<Vec<Path>, StoreError> {
    let kept = found.iter().map(|backup| &backup.summary).filter(|backup| !going.contains(&backup.name));
    let kept = kept.chain(snapshots.iter().map(|entry| &entry.summary));
    let (Some(from), Some(size)) = (oldest_needed(kept), found.last().map(|backup| backup.wal_segment_size))
    else {
        return Ok(Vec::new());
    };
    let size = SegmentSize(size);
    let first_folder = |timeline| Segment::holding(timeline, from, size).folder();
    let mut paths = Vec::new();
    for folder in repository.store.folders(&repository.root.wal()).await? {
        let name = folder.filename().unwrap_or_default().to_owned();
        let timeline =
            name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(Timeline::new);
        // A folder after the one that the position lies in holds nothing that may go.
        if timeline.is_none_or(|timeline| name > first_folder(timeline)) && name != "partial" {
            continue;
        }
        for object in repository.store.list(&folder).await? {
            if file_name(&object.location).is_some_and(|name| !is_needed(&name, from, size)) {
                paths.push(object.location);
            }
        }
    }
    Ok(paths)
}

/// The WAL file that an object is, without what the repository adds to its name.
fn file_name(path: &Path) -> Option<WalName> {
    let name = plain_name(path.filename()?);
    let name = name.strip_suffix(".zst").unwrap_or(name);
    match name.split_once(".partial.") {
        Some((segment, _)) => segment.parse().map(WalName::Partial).ok(),
        None => name.parse().ok(),
    }
}

async fn unfinished(
    repository: &Repository,
    found: &[Contents],
    running: Option<&str>,
    now: Timestamp,
) -> Result<Vec<String>, StoreError> {
    let Repository { store, root } = repository;
    let completed: BTreeSet<_> = found.iter().map(|backup| backup.summary.name.as_str()).collect();
    let mut unfinished = Vec::new();
    for folder in store.folders(&root.backups()).await? {
        let Some(name) = folder.filename().filter(|name| !completed.contains(name) && running != Some(*name))
        else {
            continue;
        };
        let touched = store.list(&folder).await?.iter().map(|object| object.last_modified.timestamp()).max();
        let touched = touched.and_then(|seconds| Timestamp::from_second(seconds).ok());
        if touched.is_some_and(|touched| now.duration_since(touched) > UNFINISHED_AFTER) {
            unfinished.push(name.to_owned());
        }
    }
    Ok(unfinished)
}

#[cfg(test)]
mod tests;
