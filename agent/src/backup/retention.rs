//! What a repository need not hold any more: pure, and its execution in an order in which a crash only leaves more
//! than necessary.
//!
//! Kept is whatever any time of the window needs: the newest good backup that is older than the window, all that are
//! newer, and every WAL file from the oldest kept one's start on. What is not certainly superfluous stays.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use proto::{
    postgres::{Lsn, Timeline},
    wire::backup::{BackupSummary, Retention, RetentionReport},
};

use super::{catalog, contents::Contents};
use crate::{
    archive::{
        connection::Repository,
        names::{Segment, SegmentSize, WalName},
        store::StoreError,
    },
    chain::Chain,
    supervisor::history::Histories,
};

/// Pieces without `backup.json` are of a run that still goes on, perhaps in another pod, or failed. None takes
/// longer.
const UNFINISHED_AFTER: SignedDuration = SignedDuration::from_hours(72);

/// The names of the backups that may go, oldest first.
fn superfluous(
    backups: &[BackupSummary],
    newest: Timeline,
    histories: &Histories,
    window_begins: Timestamp,
) -> Vec<String> {
    let good =
        |backup: &&BackupSummary| backup.damage.is_none() && catalog::leads_to(backup, newest, histories);
    let anchor = backups
        .iter()
        .filter(good)
        .filter(|backup| backup.stopped_at <= window_begins)
        .max_by_key(|b| b.stopped_at);
    let Some(anchor) = anchor else { return Vec::new() };
    let older = backups.iter().filter(|backup| backup.stopped_at < anchor.stopped_at);
    older.map(|backup| backup.name.clone()).collect()
}

/// WAL before this position serves no kept backup: recovery from each begins at its start and goes forward only.
fn oldest_needed(kept: &[&BackupSummary]) -> Option<Lsn> {
    kept.iter().map(|backup| backup.start.lsn).min()
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
    let Repository { store, root } = repository;
    let (found, histories) =
        tokio::try_join!(catalog::backups(store, root), catalog::histories(store, root))?;
    let newest = catalog::newest_timeline(&found, &histories);
    let now = Timestamp::now();
    let window = SignedDuration::from_hours(24 * i64::from(wish.days));
    let summaries: Vec<_> = found.iter().map(|backup| backup.summary.clone()).collect();
    let Ok(window_begins) = now.checked_sub(window) else { return Ok(RetentionReport::default()) };
    let going = superfluous(&summaries, newest, &histories, window_begins);
    let unfinished = unfinished(repository, &found, running, now).await?;
    let wal = superfluous_wal(repository, &found, &going).await?;
    let mut report = RetentionReport {
        backups: going.clone(),
        unfinished: unfinished.clone(),
        wal_files: wal.len() as u64,
        not_deleted: Vec::new(),
    };
    if wish.dry_run {
        return Ok(report);
    }
    // First what makes it a backup: a crash leaves an unfinished one, and never one that lacks something.
    let mut failed = store.delete(going.iter().map(|name| root.backup_file(name)).collect()).await;
    if failed.is_empty() {
        for name in going.iter().chain(&unfinished) {
            let objects = store.list(&root.backup(name)).await?;
            failed.extend(store.delete(objects.into_iter().map(|object| object.location).collect()).await);
        }
        failed.extend(store.delete(wal).await);
    }
    report.not_deleted = failed.iter().map(|error| Chain(error).to_string()).collect();
    Ok(report)
}

async fn superfluous_wal(
    repository: &Repository,
    found: &[Contents],
    going: &[String],
) -> Result<Vec<Path>, StoreError> {
    let kept: Vec<_> =
        found.iter().map(|backup| &backup.summary).filter(|backup| !going.contains(&backup.name)).collect();
    let (Some(from), Some(size)) = (oldest_needed(&kept), found.last().map(|backup| backup.wal_segment_size))
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
    let name = path.filename()?;
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
mod tests {
    use proptest::prelude::*;
    use proto::{postgres::WalPosition, wire::backup::BackupKind};

    use super::*;
    use crate::supervisor::history::History;

    const SIZE: SegmentSize = SegmentSize(1 << 24);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + hours * 3600).unwrap()
    }

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    /// Ends an hour and a segment after it began.
    fn backup(hours: i64, number: u32, segment: u64) -> BackupSummary {
        let position = |segment: u64| WalPosition { timeline: timeline(number), lsn: Lsn(segment << 24) };
        BackupSummary {
            name: format!("b{hours}"),
            kind: BackupKind::Full,
            started_at: at(hours - 1),
            stopped_at: at(hours),
            start: position(segment),
            stop: position(segment + 1),
            size_bytes: 1,
            stored_bytes: 1,
            server_version: 170_000,
            pod: "db-1".to_owned(),
            from_standby: true,
            damage: None,
        }
    }

    fn straight() -> Histories {
        Histories::new()
    }

    #[test]
    fn the_newest_one_before_the_window_stays() {
        let backups = [backup(1, 1, 1), backup(25, 1, 2), backup(49, 1, 3)];
        let going = |window| superfluous(&backups, timeline(1), &straight(), at(window));
        assert!(going(0).is_empty());
        assert!(going(24).is_empty(), "the window needs the first");
        assert_eq!(going(25), ["b1"]);
        assert_eq!(going(1000), ["b1", "b25"], "the last one stays, however old");
    }

    #[test]
    fn a_damaged_one_is_no_anchor_and_neither_is_one_that_the_failover_left_behind() {
        let mut backups = [backup(1, 1, 1), backup(25, 1, 9)];
        backups[1].damage = Some("checksum".to_owned());
        assert!(superfluous(&backups, timeline(1), &straight(), at(100)).is_empty());
        backups[1].damage = None;
        let left_before = Histories::from([(timeline(2), History::Real(vec![(timeline(1), Lsn(5 << 24))]))]);
        assert!(superfluous(&backups, timeline(2), &left_before, at(100)).is_empty());
        let left_after = Histories::from([(timeline(2), History::Real(vec![(timeline(1), Lsn(50 << 24))]))]);
        assert_eq!(superfluous(&backups, timeline(2), &left_after, at(100)), ["b1"]);
    }

    #[test]
    fn objects_are_known_by_their_names() {
        let of = |name: &str| file_name(&Path::from(name)).map(|name| name.to_string());
        assert_eq!(of("a/000000010000000000000003.zst").as_deref(), Some("000000010000000000000003"));
        assert_eq!(
            of("a/000000010000000000000003.partial.db-1.zst").as_deref(),
            Some("000000010000000000000003.partial")
        );
        assert_eq!(of("a/anything"), None);
    }

    proptest! {
        /// Whatever happened, every time of the window that could be restored to still can be: a good backup from
        /// before it is there, with all WAL from its start on.
        #[test]
        fn every_time_of_the_window_stays_restorable(
            steps in prop::collection::vec((1..60_i64, 1..6_u64, 0..10_u8, 0..5_u8), 1..30),
            window in 0..1500_i64,
        ) {
            let (mut hours, mut segment, mut number) = (0, 1, 1);
            let (mut backups, mut ancestors, mut histories) = (Vec::new(), Vec::new(), Histories::new());
            for (hours_later, segments, event, damaged) in steps {
                hours += hours_later;
                segment += segments;
                // A failover; it may lose what was written last, with a backup in it.
                if event < 2 {
                    let left = segment - u64::from(event).min(segment - 1);
                    ancestors.push((timeline(number), Lsn(left << 24)));
                    number += 1;
                    histories.insert(timeline(number), History::Real(ancestors.clone()));
                    segment = left;
                } else {
                    let mut made = backup(hours, number, segment);
                    segment += 1;
                    made.damage = (damaged == 0).then(|| "checksum".to_owned());
                    backups.push(made);
                }
            }
            let newest = timeline(number);
            let usable = |backup: &BackupSummary| backup.damage.is_none() && catalog::leads_to(backup, newest, &histories);
            let going = superfluous(&backups, newest, &histories, at(window));
            let kept: Vec<_> = backups.iter().filter(|backup| !going.contains(&backup.name)).collect();
            for time in window..=hours {
                let before: Vec<_> = backups.iter().filter(|b| usable(b) && b.stopped_at <= at(time)).collect();
                let still = kept.iter().filter(|b| usable(b) && b.stopped_at <= at(time)).max_by_key(|b| b.stopped_at);
                prop_assert_eq!(before.is_empty(), still.is_none(), "{} of {}", time, hours);
                if let (Some(backup), Some(from)) = (still, oldest_needed(&kept)) {
                    let first = Segment::holding(backup.start.timeline, backup.start.lsn, SIZE).absolute(SIZE);
                    for needed in first..=segment {
                        let name = WalName::Segment(Segment::numbered(newest, needed, SIZE));
                        prop_assert!(is_needed(&name, from, SIZE));
                    }
                }
            }
            if backups.iter().any(usable) {
                prop_assert!(kept.iter().any(|backup| usable(backup)), "the last good one is gone");
            }
        }
    }
}
