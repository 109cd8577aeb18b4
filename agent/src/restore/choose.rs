//! Which backup, which timeline and which WAL lead to a target; or why none do, and what does instead. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proto::{
    postgres::{Lsn, Timeline},
    wire::backup::{BackupSummary, RestoreTarget},
};

use crate::{
    archive::names::{Segment, SegmentSize},
    backup::{catalog, contents::Contents},
    supervisor::history::{Histories, History},
};

/// What the repository holds.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Completed backups, oldest first.
    pub(crate) backups: Vec<Contents>,
    /// History files.
    pub(crate) histories: Histories,
    /// WAL.
    pub(crate) segments: BTreeSet<Segment>,
    /// When the newest WAL was written: nothing later can be in it.
    pub(crate) archived_until: Option<Timestamp>,
    /// Up to when it certainly restores.
    pub(crate) latest: Option<Timestamp>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Begin with this one.
    pub(crate) backup: Contents,
    /// Follow history to this timeline.
    pub(crate) timeline: Timeline,
    /// The WAL there is from the backup's start on, in order and without a hole.
    pub(crate) wal: Vec<Segment>,
    /// How recovery is told where to end: name and value of a setting.
    pub(crate) setting: Option<(&'static str, String)>,
    /// Whether recovery must pass all of `wal`.
    pub(crate) to_the_end: bool,
}

/// Why a target cannot be reached, and what can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// Nothing there.
    #[error("the repository holds no complete backup that its newest timeline leads on from")]
    NoBackup,
    /// No such backup.
    #[error("there is no backup {wanted:?}; there are: {there}")]
    NoSuchBackup {
        /// Its name.
        wanted: String,
        /// The others.
        there: String,
    },
    /// Before the first backup.
    #[error(
        "{wanted} is before the end of the first usable backup; the earliest that can be restored to is {earliest}"
    )]
    TooEarly {
        /// The target.
        wanted: String,
        /// Instead.
        earliest: String,
    },
    /// After the last WAL.
    #[error("{wanted} is after the end of the archive; the latest that can be restored to is {latest}")]
    TooLate {
        /// The target.
        wanted: String,
        /// Instead.
        latest: String,
    },
    /// Between them.
    #[error(
        "{missing} is missing in the archive; the latest position that can be restored to is {latest}: name it as \
         the target to do without what follows"
    )]
    Hole {
        /// The first missing file.
        missing: Segment,
        /// Instead.
        latest: Lsn,
    },
}

/// The WAL from a position on.
struct Wal {
    there: Vec<Segment>,
    /// The first one that is missing although later ones are there.
    hole: Option<Segment>,
}

impl Known {
    fn newest(&self) -> Timeline {
        catalog::newest_timeline(&self.backups, &self.histories)
    }

    /// Good backups that the newest timeline leads on from, oldest first.
    fn usable(&self) -> impl DoubleEndedIterator<Item = &Contents> {
        let newest = self.newest();
        self.backups.iter().filter(move |backup| {
            backup.summary.damage.is_none() && catalog::leads_to(&backup.summary, newest, &self.histories)
        })
    }

    /// Finds the way to a target.
    pub(crate) fn plan(&self, target: &RestoreTarget, wanted: Option<&str>) -> Result<Plan, Unreachable> {
        let backup = match wanted {
            Some(name) => self.named(name)?,
            None => self.suitable(target)?,
        };
        let newest = self.newest();
        let timeline = match catalog::leads_to(&backup.summary, newest, &self.histories) {
            true => newest,
            false => backup.summary.stop.timeline,
        };
        self.check_backup(&backup.summary, target)?;
        let size = SegmentSize(backup.wal_segment_size);
        let wal = self.wal(&backup.summary, timeline, size);
        self.check_wal(target, &wal, size)?;
        Ok(Plan {
            backup: backup.clone(),
            timeline,
            wal: wal.there,
            setting: setting(target),
            to_the_end: *target == RestoreTarget::Latest,
        })
    }

    fn named(&self, name: &str) -> Result<&Contents, Unreachable> {
        let names = || self.backups.iter().map(|backup| backup.summary.name.as_str()).collect::<Vec<_>>();
        self.backups
            .iter()
            .find(|backup| backup.summary.name == name)
            .ok_or_else(|| Unreachable::NoSuchBackup { wanted: name.to_owned(), there: names().join(", ") })
    }

    fn suitable(&self, target: &RestoreTarget) -> Result<&Contents, Unreachable> {
        let first = self.usable().next().ok_or(Unreachable::NoBackup)?;
        let fits = |backup: &&Contents| self.check_backup(&backup.summary, target).is_ok();
        match target {
            // Where these lie is not known: every later backup might be behind them.
            RestoreTarget::Xid(_) | RestoreTarget::Name(_) => Ok(first),
            _ => Ok(self.usable().rev().find(fits).unwrap_or(first)),
        }
    }

    /// A backup is consistent from its stop on only.
    fn check_backup(&self, backup: &BackupSummary, target: &RestoreTarget) -> Result<(), Unreachable> {
        let first = self.usable().next().map_or(backup, |first| &first.summary);
        match target {
            RestoreTarget::Time(time) if *time < backup.stopped_at => Err(Unreachable::TooEarly {
                wanted: time.to_string(),
                earliest: first.stopped_at.to_string(),
            }),
            RestoreTarget::Lsn(lsn) if *lsn < backup.stop.lsn => {
                Err(Unreachable::TooEarly { wanted: lsn.to_string(), earliest: first.stop.lsn.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn check_wal(&self, target: &RestoreTarget, wal: &Wal, size: SegmentSize) -> Result<(), Unreachable> {
        let end = wal.there.last().map_or(Lsn(0), |last| last.end(size));
        let latest =
            |end: Option<Timestamp>| end.or(self.archived_until).map_or_else(String::new, |t| t.to_string());
        match (target, wal.hole) {
            (RestoreTarget::Latest, Some(missing)) => Err(Unreachable::Hole { missing, latest: end }),
            (RestoreTarget::Lsn(lsn), Some(missing)) if *lsn > end => {
                Err(Unreachable::Hole { missing, latest: end })
            }
            (RestoreTarget::Lsn(lsn), None) if *lsn > end => {
                Err(Unreachable::TooLate { wanted: lsn.to_string(), latest: end.to_string() })
            }
            (RestoreTarget::Time(time), _) if self.archived_until.is_some_and(|until| *time > until) => {
                Err(Unreachable::TooLate { wanted: time.to_string(), latest: latest(self.latest) })
            }
            _ => Ok(()),
        }
    }

    fn wal(&self, backup: &BackupSummary, timeline: Timeline, size: SegmentSize) -> Wal {
        let way = way(timeline, self.histories.get(&timeline));
        let mut there = Vec::new();
        let mut number = Segment::holding(backup.start.timeline, backup.start.lsn, size).absolute(size);
        loop {
            let segment = Segment::numbered(on(&way, number, size), number, size);
            if self.segments.contains(&segment) {
                there.push(segment);
                number += 1;
                continue;
            }
            let later = self.segments.iter().any(|other| {
                other.absolute(size) > number && on(&way, other.absolute(size), size) == other.timeline
            });
            return Wal { there, hole: later.then_some(segment) };
        }
    }
}

/// Where each timeline on the way to `timeline` began, oldest first.
fn way(timeline: Timeline, history: Option<&History>) -> Vec<(Timeline, Lsn)> {
    let mut way = Vec::new();
    let mut begin = Lsn(0);
    if let Some(History::Real(ancestors)) = history {
        for (ancestor, left) in ancestors {
            way.push((*ancestor, begin));
            begin = *left;
        }
    }
    way.push((timeline, begin));
    way
}

/// Whose segment of this number counts: the newest timeline's that began in it or before.
fn on(way: &[(Timeline, Lsn)], number: u64, size: SegmentSize) -> Timeline {
    let began = |(timeline, begin): &(Timeline, Lsn)| {
        (Segment::holding(*timeline, *begin, size).absolute(size) <= number).then_some(*timeline)
    };
    way.iter().rev().find_map(began).unwrap_or(Timeline::FIRST)
}

fn setting(target: &RestoreTarget) -> Option<(&'static str, String)> {
    match target {
        RestoreTarget::Latest => None,
        RestoreTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
        // The server knows no names of time zones yet when it reads this, not even "Z".
        RestoreTarget::Time(time) => {
            Some(("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()))
        }
        RestoreTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        RestoreTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
        RestoreTarget::Name(name) => Some(("recovery_target_name", name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        postgres::{SystemIdentifier, WalPosition},
        wire::backup::BackupKind,
    };

    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    fn lsn(segment: u64) -> Lsn {
        Lsn(segment << 24 | 0x100)
    }

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    fn backup(hours: i64, number: u32, segment: u64) -> Contents {
        let position = |segment| WalPosition { timeline: timeline(number), lsn: lsn(segment) };
        let summary = BackupSummary {
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
        };
        Contents {
            format: 1,
            summary,
            system_identifier: SystemIdentifier(1),
            wal_segment_size: 1 << 24,
            archives: Vec::new(),
        }
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
}
