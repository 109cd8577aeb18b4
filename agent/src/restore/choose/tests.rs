//! What is chosen for which target.

use proto::{postgres::WalPosition, wire::backup::BackupKind};

use super::*;
use crate::backup::chain::{
    self,
    tests::{at, timeline},
};

fn lsn(segment: u64) -> Lsn {
    Lsn(segment << 24 | 0x100)
}

/// Begins and ends within segments.
fn backup(hours: i64, number: u32, segment: u64) -> Contents {
    let position = |segment| WalPosition { timeline: timeline(number), lsn: lsn(segment) };
    let mut made = chain::tests::backup(hours, number, segment);
    (made.summary.start, made.summary.stop) = (position(segment), position(segment + 1));
    made
}

fn segments(ranges: &[(u32, std::ops::Range<u64>)]) -> BTreeSet<Segment> {
    let size = SegmentSize(1 << 24);
    let of = |(number, range): &(u32, std::ops::Range<u64>)| {
        let timeline = timeline(*number);
        range.clone().map(move |n| Segment::numbered(timeline, n, size)).collect::<Vec<_>>()
    };
    ranges.iter().flat_map(of).collect()
}

/// Two backups on timeline 1, which was left in segment 20 for timeline 3, which has a third one.
fn known() -> Known {
    Known {
        backups: vec![backup(10, 1, 2), backup(20, 1, 12), backup(30, 3, 25)],
        histories: Histories::from([(timeline(3), History::Real(vec![(timeline(1), lsn(20))]))]),
        segments: segments(&[(1, 1..20), (3, 20..40)]),
        archived_until: Some(at(40)),
        latest: Some(at(39)),
    }
}

fn begins_with(known: &Known, target: &RestoreTarget) -> Result<(String, usize), Unreachable> {
    known.plan(target, None).map(|plan| (plan.backup.summary.name, plan.wal.len()))
}

#[test]
fn a_target_is_reached_from_the_newest_backup_that_ended_before_it() {
    let known = known();
    let time = |hours| begins_with(&known, &RestoreTarget::Time(at(hours)));
    assert_eq!(time(10), Ok(("b10".to_owned(), 38)));
    assert_eq!(time(29), Ok(("b20".to_owned(), 28)), "across the failover");
    assert_eq!(time(40), Ok(("b30".to_owned(), 15)));
    assert_eq!(begins_with(&known, &RestoreTarget::Latest), Ok(("b30".to_owned(), 15)));
    assert_eq!(begins_with(&known, &RestoreTarget::Lsn(lsn(14))), Ok(("b20".to_owned(), 28)));
    assert_eq!(begins_with(&known, &RestoreTarget::Xid(7)), Ok(("b10".to_owned(), 38)));
}

#[test]
fn what_cannot_be_reached_is_refused_with_what_can() {
    let known = known();
    let why = |target| begins_with(&known, &target).unwrap_err().to_string();
    assert!(why(RestoreTarget::Time(at(9))).contains(&at(10).to_string()));
    assert!(why(RestoreTarget::Time(at(41))).contains(&at(39).to_string()));
    assert!(why(RestoreTarget::Lsn(lsn(1))).contains("0/3000100"));
    assert!(why(RestoreTarget::Lsn(lsn(40))).contains("0/28000000"));
    assert_eq!(Known::default().plan(&RestoreTarget::Latest, None), Err(Unreachable::NoBackup));
    let named = known.plan(&RestoreTarget::Latest, Some("b11")).unwrap_err().to_string();
    assert!(named.contains("b10, b20, b30"), "{named}");
}

#[test]
fn a_backup_that_is_too_new_for_the_target_is_refused_although_it_was_named() {
    let refused = known().plan(&RestoreTarget::Time(at(25)), Some("b30"));
    assert!(matches!(refused, Err(Unreachable::TooEarly { .. })));
}

#[test]
fn a_time_is_told_with_an_offset() {
    let time: Timestamp = "2026-11-26T10:50:04.281523Z".parse().unwrap();
    let (name, value) = setting(&RestoreTarget::Time(time)).unwrap();
    assert_eq!((name, value.as_str()), ("recovery_target_time", "2026-11-26 10:50:04.281523+00"));
}

#[test]
fn a_hole_is_no_end() {
    let mut known = known();
    known.segments.remove(&"000000030000000000000021".parse().unwrap());
    let refused = begins_with(&known, &RestoreTarget::Latest).unwrap_err();
    assert!(matches!(refused, Unreachable::Hole { latest: Lsn(0x2100_0000), .. }), "{refused}");
    assert!(begins_with(&known, &RestoreTarget::Lsn(lsn(0x20))).is_ok(), "before it");
    assert!(begins_with(&known, &RestoreTarget::Lsn(lsn(0x22))).is_err());
    assert!(begins_with(&known, &RestoreTarget::Immediate).is_ok());
}

#[test]
fn what_a_failover_lost_is_neither_an_end_nor_a_hole() {
    let mut known = known();
    known.segments.extend(segments(&[(1, 20..60)]));
    assert_eq!(begins_with(&known, &RestoreTarget::Latest), Ok(("b30".to_owned(), 15)));
    // Just promoted: nothing of the new timeline is archived.
    known.segments = segments(&[(1, 1..20)]);
    known.backups.pop();
    assert_eq!(begins_with(&known, &RestoreTarget::Latest), Ok(("b20".to_owned(), 8)));
}

#[test]
fn a_backup_that_a_failover_left_behind_is_used_only_by_name_and_on_its_timeline() {
    let mut known = known();
    known.backups.insert(2, backup(21, 1, 22));
    assert_eq!(begins_with(&known, &RestoreTarget::Time(at(22))).unwrap().0, "b20");
    known.segments.extend(segments(&[(1, 20..30)]));
    let plan = known.plan(&RestoreTarget::Latest, Some("b21")).unwrap();
    assert_eq!((plan.timeline, plan.wal.len()), (timeline(1), 8));
}

/// As [`known`], with the second building on the first and the third on the second.
fn increments() -> Known {
    let mut known = known();
    for (depth, number) in (1..).zip(1..3) {
        let parent = known.backups[number - 1].summary.name.clone();
        let summary = &mut known.backups[number].summary;
        (summary.kind, summary.parent, summary.depth) = (BackupKind::Incremental, Some(parent), depth);
    }
    known
}

#[test]
fn an_incremental_backup_is_restored_with_what_it_builds_on() {
    let chain = |target| {
        let plan = increments().plan(&target, None).unwrap();
        let names = plan.chain.iter().map(|link| link.summary.name.clone()).collect::<Vec<_>>();
        (names, plan.wal.len())
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(chain(RestoreTarget::Latest), (names(&["b10", "b20", "b30"]), 15));
    assert_eq!(chain(RestoreTarget::Time(at(29))), (names(&["b10", "b20"]), 28));
    assert_eq!(chain(RestoreTarget::Time(at(10))), (names(&["b10"]), 38));
}

#[test]
fn a_chain_that_lost_a_link_is_passed_over_and_refused_by_name() {
    let mut known = increments();
    known.backups.remove(1);
    chain::mark_broken(&mut known.backups);
    assert_eq!(begins_with(&known, &RestoreTarget::Latest), Ok(("b10".to_owned(), 38)));
    let refused = known.plan(&RestoreTarget::Latest, Some("b30")).unwrap_err().to_string();
    assert!(refused.contains("b30 builds on b20"), "{refused}");
}
