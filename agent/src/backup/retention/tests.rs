//! Retention over simulated histories.

use object_store::path::Path;
use proptest::prelude::*;
use proto::postgres::SystemIdentifier;

use super::*;
use crate::{
    archive::{layout::Root, tests::faulty::Faulty},
    backup::{
        chain::tests::{at, backup, increment, timeline},
        snapshot::entry::tests::made,
    },
    supervisor::history::History,
};

const SIZE: SegmentSize = SegmentSize(1 << 24);

fn straight() -> Histories {
    Histories::new()
}

fn going_at(
    backups: &[Contents],
    newest: Timeline,
    histories: &Histories,
    window_begins: Timestamp,
) -> Vec<String> {
    superfluous(backups, anchor(backups, newest, histories, window_begins))
}

#[test]
fn the_newest_one_before_the_window_stays() {
    let backups = [backup(1, 1, 1), backup(25, 1, 3), backup(49, 1, 5)];
    let going = |window| going_at(&backups, timeline(1), &straight(), at(window));
    assert!(going(0).is_empty());
    assert!(going(24).is_empty(), "the window needs the first");
    assert_eq!(going(25), ["b1"]);
    assert_eq!(going(1000), ["b1", "b25"], "the last one stays, however old");
}

#[test]
fn a_damaged_one_is_no_anchor_and_neither_is_one_that_the_failover_left_behind() {
    let mut backups = [backup(1, 1, 1), backup(25, 1, 9)];
    backups[1].summary.damage = Some("checksum".to_owned());
    assert!(going_at(&backups, timeline(1), &straight(), at(100)).is_empty());
    backups[1].summary.damage = None;
    let left_before = Histories::from([(timeline(2), History::Real(vec![(timeline(1), Lsn(5 << 24))]))]);
    assert!(going_at(&backups, timeline(2), &left_before, at(100)).is_empty());
    let left_after = Histories::from([(timeline(2), History::Real(vec![(timeline(1), Lsn(50 << 24))]))]);
    assert_eq!(going_at(&backups, timeline(2), &left_after, at(100)), ["b1"]);
}

/// Two chains of three, a day between their backups: b1 to b49 and b73 to b121.
fn two_chains() -> Vec<Contents> {
    let mut backups: Vec<Contents> = Vec::new();
    for number in 0..6 {
        let (hours, segment) = (1 + 24 * number, 1 + 2 * u64::try_from(number).unwrap());
        backups.push(match backups.last().filter(|_| number % 3 > 0) {
            Some(parent) => increment(hours, 1, segment, parent),
            None => backup(hours, 1, segment),
        });
    }
    backups
}

#[test]
fn what_a_kept_one_builds_on_stays_with_its_wal() {
    let backups = two_chains();
    let going = |window| going_at(&backups, timeline(1), &straight(), at(window));
    assert!(going(49).is_empty(), "b49 is needed, and builds on both before");
    assert_eq!(going(73), ["b1", "b25", "b49"]);
    assert_eq!(going(1000), ["b1", "b25", "b49"], "b121 builds on b73 and b97");
    let kept: Vec<_> = backups.iter().filter(|b| !going(1000).contains(&b.summary.name)).collect();
    assert_eq!(oldest_needed(kept.iter().map(|backup| &backup.summary)), Some(backups[3].summary.start.lsn));
}

#[test]
fn what_builds_on_another_goes_before_it() {
    let backups = two_chains();
    let going = ["b1", "b25", "b49"].map(str::to_owned);
    let order: Vec<_> = in_order(&backups, &going).iter().map(|b| b.summary.name.clone()).collect();
    assert_eq!(order, ["b49", "b25", "b1"]);
}

/// A repository with the backups of [`two_chains`], the last of which ended long before any window of today.
async fn repository(faulty: &Faulty, backups: &[Contents]) -> Repository {
    let root = Root::new(&Path::from("x"), "uid", SystemIdentifier(1));
    let store = faulty.store();
    for backup in backups {
        let name = &backup.summary.name;
        store.put(&root.piece(name, "base.tar", 0), vec![0]).await.unwrap();
        store.put_json(&root.backup_file(name), backup).await.unwrap();
    }
    Repository { store, root }
}

async fn folders(repository: &Repository) -> Vec<String> {
    let folders = repository.store.folders(&repository.root.backups()).await.unwrap();
    folders.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect()
}

#[tokio::test]
async fn whole_chains_are_deleted_with_their_pieces() {
    let repository = repository(&Faulty::default(), &two_chains()).await;
    let wish = Retention { days: 1, dry_run: false };
    let planned = apply(&repository, Retention { dry_run: true, ..wish }, None).await.unwrap();
    assert_eq!(planned.backups, ["b1", "b25", "b49"]);
    assert_eq!(apply(&repository, wish, None).await.unwrap(), planned);
    assert_eq!(folders(&repository).await, ["b121", "b73", "b97"]);
}

#[tokio::test]
async fn what_the_store_does_not_let_go_keeps_what_it_builds_on() {
    let faulty = Faulty::default();
    let repository = repository(&faulty, &two_chains()).await;
    faulty.lock(repository.root.backup_file("b25"));
    let report = apply(&repository, Retention { days: 1, dry_run: false }, None).await.unwrap();
    assert_eq!(report.not_deleted.len(), 1, "{:?}", report.not_deleted);
    assert_eq!(folders(&repository).await, ["b1", "b121", "b25", "b73", "b97"]);
    let left = catalog::backups(&repository.store, &repository.root).await.unwrap();
    assert!(left.iter().all(|backup| backup.summary.damage.is_none()), "all that is left can be restored");
}

/// As a crash does it, or a store that goes away.
#[tokio::test]
async fn wherever_deleting_ends_what_is_left_is_whole_and_the_next_time_finishes_it() {
    let wish = Retention { days: 1, dry_run: false };
    for objects in 0..6 {
        let faulty = Faulty::default();
        let repository = repository(&faulty, &two_chains()).await;
        let Repository { store, root } = &repository;
        faulty.delete_only(Some(objects));
        let report = apply(&repository, wish, None).await.unwrap();
        assert!(!report.not_deleted.is_empty(), "{objects} of 6 objects");
        let left = catalog::backups(store, root).await.unwrap();
        let names: Vec<_> = left.iter().map(|backup| backup.summary.name.as_str()).collect();
        for backup in &left {
            let name = &backup.summary.name;
            assert!(store.exists(&root.piece(name, "base.tar", 0)).await.unwrap(), "{name} after {objects}");
            let parent = backup.summary.parent.as_deref();
            assert!(parent.is_none_or(|parent| names.contains(&parent)), "{name} after {objects}: {names:?}");
        }
        faulty.delete_only(None);
        apply(&repository, wish, None).await.unwrap();
        let kept = catalog::backups(store, root).await.unwrap();
        assert_eq!(kept.len(), 3, "after {objects}");
    }
}

/// b97 is the newest in the store, b98 and b122 are snapshots beside it; the WAL of b98 begins before that of b97, as it
/// does if its instance was behind.
#[tokio::test]
async fn snapshots_go_with_what_is_older_than_the_last_one_in_the_store_and_keep_their_wal() {
    let repository = repository(&Faulty::default(), &[backup(1, 1, 1), backup(97, 1, 9)]).await;
    let Repository { store, root } = &repository;
    for snapshot in [made(2, 1, 2), made(98, 1, 8), made(122, 1, 11)] {
        store.put_json(&root.snapshot_file(&snapshot.summary.name), &snapshot).await.unwrap();
    }
    for segment in [7, 8, 9] {
        let name = WalName::Segment(Segment::numbered(timeline(1), segment, SIZE));
        store.put(&root.wal_file(&name, "db-1"), vec![0]).await.unwrap();
    }
    let report = apply(&repository, Retention { days: 1, dry_run: false }, None).await.unwrap();
    assert_eq!((report.backups, report.snapshots), (vec!["b1".to_owned()], vec!["b2".to_owned()]));
    assert_eq!(report.wal_files, 1, "b98 needs segment 8");
    let left = entry::entries(store, root).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.summary.name.as_str()).collect::<Vec<_>>(), ["b98", "b122"]);
}

/// One that was killed looks like one that still runs somewhere, until nobody can be at it any more.
#[tokio::test]
async fn pieces_that_nobody_made_a_backup_of_go_after_three_days() {
    let repository = repository(&Faulty::default(), &[backup(1, 1, 1)]).await;
    for name in ["killed", "slow"] {
        repository.store.put(&repository.root.piece(name, "base.tar", 0), vec![0]).await.unwrap();
    }
    let written = Timestamp::now();
    let wish = Retention { days: 1, dry_run: false };
    let after = async |hours, running| {
        let now = written + SignedDuration::from_hours(hours);
        apply_at(&repository, wish, running, now).await.unwrap().unfinished
    };
    assert!(after(71, None).await.is_empty());
    assert_eq!(folders(&repository).await, ["b1", "killed", "slow"]);
    assert_eq!(after(73, Some("slow")).await, ["killed"], "the other one runs here");
    assert_eq!(folders(&repository).await, ["b1", "slow"]);
    assert_eq!(after(73, None).await, ["slow"]);
    assert_eq!(folders(&repository).await, ["b1"]);
}

#[test]
fn objects_are_known_by_their_names() {
    let of = |name: &str| file_name(&Path::from(name)).map(|name| name.to_string());
    assert_eq!(of("a/000000010000000000000003.zst").as_deref(), Some("000000010000000000000003"));
    assert_eq!(of("a/000000010000000000000003.zst.age").as_deref(), Some("000000010000000000000003"));
    assert_eq!(
        of("a/000000010000000000000003.00000028.backup.age").as_deref(),
        Some("000000010000000000000003.00000028.backup")
    );
    assert_eq!(
        of("a/000000010000000000000003.partial.db-1.zst").as_deref(),
        Some("000000010000000000000003.partial")
    );
    assert_eq!(of("a/anything"), None);
}

proptest! {
    /// Whatever happened, every time of the window that could be restored to still can be: a good backup from
    /// before it is there, with what it builds on and all WAL from its start on. And wherever a crash ends the
    /// deletion, nothing that is left lacks what it builds on.
    #[test]
    fn every_time_of_the_window_stays_restorable(
        steps in prop::collection::vec((1..60_i64, 1..6_u64, 0..10_u8, 0..5_u8), 1..30),
        window in 0..1500_i64,
        full_every in 1..8_u32,
    ) {
        let wanted = chain::Wanted { full_every, server_version: 170_000, checksums: true };
        let (mut hours, mut segment, mut number, mut began) = (0, 1, 1, 1);
        let (mut backups, mut ancestors, mut histories) = (Vec::<Contents>::new(), Vec::new(), Histories::new());
        for (hours_later, segments, event, damaged) in steps {
            hours += hours_later;
            segment += segments;
            // A failover; it may lose what was written last on its timeline, with a backup in it.
            if event < 2 {
                let left = (segment - (3 * u64::from(event)).min(segment - 1)).max(began);
                ancestors.push((timeline(number), Lsn(left << 24)));
                number += 1;
                histories.insert(timeline(number), History::Real(ancestors.clone()));
                (segment, began) = (left, left);
            } else {
                let parent = chain::parent(&backups, timeline(number), &histories, wanted).ok();
                let mut made = match parent {
                    Some(parent) => increment(hours, number, segment, parent),
                    None => backup(hours, number, segment),
                };
                segment += 1;
                made.summary.damage = (damaged == 0).then(|| "checksum".to_owned());
                backups.push(made);
            }
        }
        let newest = timeline(number);
        let usable = |backup: &Contents| {
            backup.summary.damage.is_none() && catalog::leads_to(&backup.summary, newest, &histories)
        };
        let going = going_at(&backups, newest, &histories, at(window));
        let kept: Vec<_> = backups.iter().filter(|b| !going.contains(&b.summary.name)).collect();
        for time in window..=hours {
            let by_then = |b: &&Contents| usable(b) && b.summary.stopped_at <= at(time);
            let before = backups.iter().any(|b| by_then(&b));
            let still = kept.iter().copied().filter(by_then).max_by_key(|b| b.summary.stopped_at);
            prop_assert_eq!(before, still.is_some(), "{} of {}", time, hours);
            if let (Some(backup), Some(from)) = (still, oldest_needed(kept.iter().map(|backup| &backup.summary))) {
                let start = backup.summary.start;
                let first = Segment::holding(start.timeline, start.lsn, SIZE).absolute(SIZE);
                for needed in first..=segment {
                    let name = WalName::Segment(Segment::numbered(newest, needed, SIZE));
                    prop_assert!(is_needed(&name, from, SIZE));
                }
            }
        }
        if backups.iter().any(usable) {
            prop_assert!(kept.iter().any(|backup| usable(backup)), "the last good one is gone");
        }
        let mut left = backups.clone();
        for gone in in_order(&backups, &going) {
            left.retain(|backup| backup.summary.name != gone.summary.name);
            prop_assert!(left.iter().all(|backup| chain::chain(&left, backup).is_ok()));
        }
    }
}

#[test]
fn a_clock_that_is_ahead_makes_nothing_too_old() {
    assert_eq!(agreed(at(10), at(10)), (at(10), None));
    let (now, told) = agreed(at(34), at(10));
    assert_eq!(now, at(10));
    assert!(told.unwrap().contains("24h ahead of the store's"));
    let (now, told) = agreed(at(10), at(11));
    assert_eq!(now, at(10));
    assert!(told.unwrap().contains("1h behind the store's"));
    let (_, told) = agreed(at(10) + SKEW, at(10));
    assert_eq!(told, None);
}

#[tokio::test]
async fn the_stores_time_is_asked_for() {
    let repository = Repository { store: Faulty::default().store(), root: crate::archive::tests::root() };
    let wish = Retention { days: 1, dry_run: false };
    let report = apply(&repository, wish, None).await.unwrap();
    assert_eq!(report, RetentionReport::default(), "the clocks of a test agree");
    assert!(repository.store.exists(&repository.root.clock()).await.unwrap());
}
