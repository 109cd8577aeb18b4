//! Which backup, which timeline and which WAL lead to a target; or why none do, and what does instead. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proto::{
    postgres::{Lsn, Timeline},
    wire::backup::{BackupSummary, RestoreTarget},
};

use crate::{
    archive::names::{Segment, SegmentSize},
    backup::{catalog, chain, chain::Broken, contents::Contents},
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
    /// What it is made of: the full one that it builds on first, itself last.
    pub(crate) chain: Vec<Contents>,
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
    /// What the named one builds on is not there.
    #[error("{wanted}: {why}; name another backup, or none for the newest that can be restored")]
    Broken {
        /// Its name.
        wanted: String,
        /// What is missing.
        why: Broken,
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
        let chain = chain::chain(&self.backups, backup)
            .map_err(|why| Unreachable::Broken { wanted: backup.summary.name.clone(), why })?;
        let size = SegmentSize(backup.wal_segment_size);
        let wal = self.wal(&backup.summary, timeline, size);
        self.check_wal(target, &wal, size)?;
        Ok(Plan {
            backup: backup.clone(),
            chain: chain.into_iter().cloned().collect(),
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
mod tests;
