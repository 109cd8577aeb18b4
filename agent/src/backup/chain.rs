//! Backups that build on each other: which ones a backup needs, and what a new one builds on. Pure.
//!
//! Order is that of the WAL, which no clock can turn round: a backup builds on one that ended before it began.

use proto::{
    postgres::Timeline,
    wire::backup::{BackupKind, LONGEST_CHAIN},
};

use super::{catalog, contents::Contents};
use crate::supervisor::history::Histories;

/// The first major version that takes incremental backups.
const FIRST_MAJOR: u32 = 17;

/// A backup that builds on something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be restored: {of} builds on {parent}, and no backup of that name from before it is there")]
pub(crate) struct Broken {
    of: String,
    parent: String,
}

/// The backups that restoring `last` needs: a full one first, `last` at the end.
pub(crate) fn chain<'a>(backups: &'a [Contents], last: &'a Contents) -> Result<Vec<&'a Contents>, Broken> {
    let mut chain = vec![last];
    let mut of = last;
    while let Some(name) = &of.summary.parent {
        // Less deep each time: whatever lies in the store, the way ends.
        let before = |backup: &&Contents| {
            backup.summary.name == *name
                && backup.summary.stop.lsn <= of.summary.start.lsn
                && backup.summary.depth < of.summary.depth
        };
        let broken = || Broken { of: of.summary.name.clone(), parent: name.clone() };
        of = backups.iter().find(before).ok_or_else(broken)?;
        chain.push(of);
    }
    chain.reverse();
    Ok(chain)
}

/// Notes as damage what cannot be restored because something is missing that it builds on.
pub(crate) fn mark_broken(backups: &mut [Contents]) {
    let broken: Vec<_> = backups.iter().map(|backup| chain(backups, backup).err()).collect();
    for (backup, broken) in backups.iter_mut().zip(broken) {
        let damage = backup.summary.damage.take();
        backup.summary.damage = damage.or_else(|| broken.map(|broken| broken.to_string()));
    }
}

/// The server that takes the next backup, and what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Each so-many-th backup is a full one.
    pub(crate) full_every: u32,
    /// `PG_VERSION_NUM`.
    pub(crate) server_version: u32,
    /// Whether pages have checksums.
    pub(crate) checksums: bool,
}

/// Why the next backup is a full one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WhyFull {
    /// It is its turn: nothing to tell anybody.
    #[error("its turn has come")]
    Due,
    #[error("PostgreSQL {0} takes no incremental backups; that begins with {FIRST_MAJOR}")]
    Version(u32),
    /// There are others; the first one of all is a full one anyway.
    #[error("there is no good backup that the present timeline leads on from")]
    NoParent,
    #[error("{0} ends a chain of {LONGEST_CHAIN} backups, and none is longer")]
    Longest(String),
    /// Pages that only `pg_checksums` touched are in no WAL.
    #[error("page checksums were turned on or off since {0}, or it does not tell whether it has any")]
    Checksums(String),
}

/// What the next backup builds on: the newest one that can be restored.
pub(crate) fn parent<'a>(
    backups: &'a [Contents],
    newest: Timeline,
    histories: &Histories,
    wanted: Wanted,
) -> Result<&'a Contents, WhyFull> {
    if wanted.full_every <= 1 || backups.is_empty() {
        return Err(WhyFull::Due);
    }
    if wanted.server_version / 10_000 < FIRST_MAJOR {
        return Err(WhyFull::Version(wanted.server_version / 10_000));
    }
    let good = |backup: &&Contents| {
        backup.summary.damage.is_none() && catalog::leads_to(&backup.summary, newest, histories)
    };
    let parent = backups.iter().filter(good).max_by_key(|backup| backup.summary.stop.lsn);
    let parent = parent.ok_or(WhyFull::NoParent)?;
    let name = || parent.summary.name.clone();
    match parent.summary.depth + 1 {
        length if length >= wanted.full_every => Err(WhyFull::Due),
        length if length >= LONGEST_CHAIN => Err(WhyFull::Longest(name())),
        _ if parent.checksums != Some(wanted.checksums) => Err(WhyFull::Checksums(name())),
        _ => Ok(parent),
    }
}

/// Whether a backup is incremental, what it builds on and how deep.
pub(crate) fn link(parent: Option<&Contents>) -> (BackupKind, Option<String>, u32) {
    match parent {
        Some(Contents { summary, .. }) => {
            (BackupKind::Incremental, Some(summary.name.clone()), summary.depth + 1)
        }
        None => (BackupKind::Full, None, 0),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use proto::{
        postgres::{Lsn, SystemIdentifier, WalPosition},
        wire::backup::BackupSummary,
    };

    use super::*;
    use crate::supervisor::history::History;

    pub(crate) fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + hours * 3600).unwrap()
    }

    pub(crate) fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    /// A full one that ends an hour and a segment after it began.
    pub(crate) fn backup(hours: i64, number: u32, segment: u64) -> Contents {
        let position = |segment: u64| WalPosition { timeline: timeline(number), lsn: Lsn(segment << 24) };
        let summary = BackupSummary {
            name: format!("b{hours}"),
            kind: BackupKind::Full,
            parent: None,
            depth: 0,
            fallback: None,
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
        };
        Contents {
            format: 1,
            summary,
            system_identifier: SystemIdentifier(1),
            wal_segment_size: 1 << 24,
            archives: Vec::new(),
            checksums: Some(true),
            data_bytes: None,
            encrypted: false,
        }
    }

    /// The same, building on `parent`.
    pub(crate) fn increment(hours: i64, number: u32, segment: u64, parent: &Contents) -> Contents {
        let mut made = backup(hours, number, segment);
        (made.summary.kind, made.summary.parent, made.summary.depth) = link(Some(parent));
        made
    }

    /// `b1`, and two that build on it and on each other.
    fn three() -> Vec<Contents> {
        let full = backup(1, 1, 1);
        let first = increment(2, 1, 3, &full);
        let second = increment(3, 1, 5, &first);
        vec![full, first, second]
    }

    fn wanted(full_every: u32) -> Wanted {
        Wanted { full_every, server_version: 170_004, checksums: true }
    }

    fn names(chain: &[&Contents]) -> Vec<String> {
        chain.iter().map(|link| link.summary.name.clone()).collect()
    }

    #[test]
    fn a_chain_begins_with_a_full_backup() {
        let backups = three();
        assert_eq!(names(&chain(&backups, &backups[2]).unwrap()), ["b1", "b2", "b3"]);
        assert_eq!(names(&chain(&backups, &backups[0]).unwrap()), ["b1"]);
    }

    #[test]
    fn what_lost_something_that_it_builds_on_is_damaged() {
        let mut backups = three();
        backups.remove(1);
        mark_broken(&mut backups);
        assert_eq!(backups[0].summary.damage, None);
        let damage = backups[1].summary.damage.clone().unwrap();
        assert!(damage.contains("b3 builds on b2"), "{damage}");
    }

    #[test]
    fn a_backup_that_builds_on_itself_or_on_a_later_one_is_broken() {
        let mut backups = three();
        backups[0].summary.parent = Some("b3".to_owned());
        assert!(backups.iter().all(|backup| chain(&backups, backup).is_err()));
        backups[0].summary.parent = Some("b1".to_owned());
        assert!(chain(&backups, &backups[0]).is_err());
        backups[0].summary.stop = backups[0].summary.start;
        assert!(chain(&backups, &backups[0]).is_err(), "no position tells it from a parent");
    }

    #[test]
    fn the_next_one_builds_on_the_newest_good_one_until_a_full_one_is_due() {
        let mut backups = three();
        let next = |backups: &[Contents], wanted| {
            parent(backups, timeline(1), &Histories::new(), wanted).map(|parent| parent.summary.name.clone())
        };
        assert_eq!(next(&backups, wanted(4)), Ok("b3".to_owned()));
        assert_eq!(next(&backups, wanted(3)), Err(WhyFull::Due));
        assert_eq!(next(&backups, wanted(1)), Err(WhyFull::Due));
        let older = Wanted { server_version: 160_003, ..wanted(4) };
        assert_eq!(next(&backups, older), Err(WhyFull::Version(16)));
        let unlike = Wanted { checksums: false, ..wanted(4) };
        assert_eq!(next(&backups, unlike), Err(WhyFull::Checksums("b3".to_owned())));
        backups[2].summary.depth = LONGEST_CHAIN - 1;
        assert_eq!(next(&backups, wanted(99)), Err(WhyFull::Longest("b3".to_owned())));
        backups[2].summary.damage = Some("checksum".to_owned());
        assert_eq!(next(&backups, wanted(4)), Ok("b2".to_owned()));
        let damaged = &backups[2..];
        assert_eq!(next(damaged, wanted(4)), Err(WhyFull::NoParent));
        assert_eq!(next(&[], wanted(4)), Err(WhyFull::Due), "the first one of all");
    }

    #[test]
    fn what_a_failover_left_behind_is_built_on_by_nobody() {
        let backups = three();
        let left = |segment: u64| {
            let history = History::Real(vec![(timeline(1), Lsn(segment << 24))]);
            let histories = Histories::from([(timeline(2), history)]);
            parent(&backups, timeline(2), &histories, wanted(9)).map(|parent| parent.summary.name.clone())
        };
        assert_eq!(left(6), Ok("b3".to_owned()));
        assert_eq!(left(5), Ok("b2".to_owned()));
        assert_eq!(left(1), Err(WhyFull::NoParent));
    }

    proptest! {
        /// However backups are made, damaged, lost and left behind: what a backup builds on can itself be restored,
        /// and no chain is longer than it may be.
        #[test]
        fn chains_are_whole_and_bounded(
            steps in prop::collection::vec((0..10_u8, 0..4_usize), 1..60),
            full_every in 1..20_u32,
        ) {
            let (mut segment, mut number, mut began) = (1, 1, 1);
            let (mut backups, mut ancestors, mut histories) = (Vec::<Contents>::new(), Vec::new(), Histories::new());
            for (hour, (event, which)) in (0_i64..).zip(steps) {
                match event {
                    0 => {
                        // What is lost ends with the timeline on which it was written.
                        let left = (segment - (which as u64).min(segment - 1)).max(began);
                        ancestors.push((timeline(number), Lsn(left << 24)));
                        number += 1;
                        histories.insert(timeline(number), History::Real(ancestors.clone()));
                        (segment, began) = (left, left);
                    }
                    1 if which < backups.len() => drop(backups.remove(which)),
                    _ => {
                        mark_broken(&mut backups);
                        let parent = parent(&backups, timeline(number), &histories, wanted(full_every)).ok();
                        let mut made = backup(hour, number, segment);
                        (made.summary.kind, made.summary.parent, made.summary.depth) = link(parent);
                        made.summary.damage = (event == 2).then(|| "checksum".to_owned());
                        if let Some(parent) = parent {
                            prop_assert!(parent.summary.damage.is_none());
                            let whole = chain(&backups, &made);
                            let length = u32::try_from(whole.map_err(|e| TestCaseError::fail(e.to_string()))?.len()).unwrap();
                            prop_assert!(length <= full_every.min(LONGEST_CHAIN));
                            prop_assert_eq!(length, made.summary.depth + 1);
                        }
                        backups.push(made);
                        segment += 2;
                    }
                }
            }
        }
    }
}
