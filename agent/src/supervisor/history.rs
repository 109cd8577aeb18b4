//! Timeline history files, and the placeholders that make PostgreSQL number its next timeline as the Lease
//! reserves it (ha.md section 10; review S-2).
//!
//! PostgreSQL promotes to the newest history *file* that it sees, plus one, and looks for that newest one by
//! counting up until a file is missing. So a placeholder for each missing number below the reserved one
//! forces the number. Two more rules follow from the same counting:
//!
//! * A placeholder with no real file above it must not be there at a start: recovery would take it for the
//!   newest timeline, of which the data is no part, and refuse.
//! * A gap below a real file must not be there at a start either: recovery would stop counting at the gap
//!   and never replay what was written on the newer timelines.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use proto::postgres::{Lsn, Timeline};

use super::durable::{DurableError, remove_file, sync_directory, write_file};

/// Contents of a placeholder: PostgreSQL skips comments.
const PLACEHOLDER: &str = "# Reserved elsewhere; this number was never used here.\n";

/// What one history file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// Written by us to skip the number.
    Placeholder,
    /// Each ancestor with the position at which it was left, oldest first.
    Real(Vec<(Timeline, Lsn)>),
}

impl History {
    /// Parses a history file.
    pub(crate) fn parse(text: &str) -> Self {
        if text.is_empty() || text == PLACEHOLDER {
            return Self::Placeholder;
        }
        let ancestor = |line: &str| {
            let mut fields = line.split_whitespace();
            Some((Timeline::new(fields.next()?.parse().ok()?)?, fields.next()?.parse().ok()?))
        };
        Self::Real(text.lines().filter_map(ancestor).collect())
    }

    /// Where this timeline began.
    pub(crate) fn began(&self) -> Option<Lsn> {
        match self {
            Self::Placeholder => None,
            Self::Real(ancestors) => ancestors.last().map(|(_, lsn)| *lsn),
        }
    }

    /// Where `timeline` was left on the way to this one, if it is an ancestor.
    pub(crate) fn left(&self, timeline: Timeline) -> Option<Lsn> {
        match self {
            Self::Placeholder => None,
            Self::Real(ancestors) => {
                ancestors.iter().find(|(ancestor, _)| *ancestor == timeline).map(|(_, lsn)| *lsn)
            }
        }
    }

    /// Whether `timeline` is an ancestor.
    pub(crate) fn descends_from(&self, timeline: Timeline) -> bool {
        matches!(self, Self::Real(ancestors) if ancestors.iter().any(|(ancestor, _)| *ancestor == timeline))
    }
}

/// All history files of a `pg_wal`.
pub(crate) type Histories = BTreeMap<Timeline, History>;

/// What must change before a start: numbers to remove, numbers to fill.
#[derive(Debug, Default, PartialEq, Eq)]
struct Repair {
    remove: Vec<Timeline>,
    fill: Vec<Timeline>,
}

fn repair(histories: &Histories) -> Repair {
    let real = histories.iter().filter(|(_, history)| **history != History::Placeholder);
    let newest = real.map(|(timeline, _)| *timeline).max().unwrap_or(Timeline::FIRST);
    Repair {
        remove: histories.keys().filter(|timeline| **timeline > newest).copied().collect(),
        fill: missing_below(histories, newest),
    }
}

/// Numbers below `newest` without a file. Timeline 1 never has one.
fn missing_below(histories: &Histories, newest: Timeline) -> Vec<Timeline> {
    (2..newest.0.get())
        .filter_map(Timeline::new)
        .filter(|timeline| !histories.contains_key(timeline))
        .collect()
}

/// Makes the history files fit for a start.
pub(crate) fn prepare_start(pg_wal: &Path) -> Result<(), DurableError> {
    let repair = repair(&read_all(pg_wal)?);
    for timeline in &repair.remove {
        remove_file(&path(pg_wal, *timeline))?;
    }
    fill(pg_wal, &repair.fill)?;
    sync_directory(pg_wal)
}

/// Makes the next promotion obtain exactly `reserved`, as far as files can.
pub(crate) fn prepare_promotion(pg_wal: &Path, reserved: Timeline) -> Result<(), DurableError> {
    fill(pg_wal, &missing_below(&read_all(pg_wal)?, reserved))
}

fn fill(pg_wal: &Path, missing: &[Timeline]) -> Result<(), DurableError> {
    missing.iter().try_for_each(|timeline| write_file(&path(pg_wal, *timeline), PLACEHOLDER.as_bytes()))
}

/// Reads all history files of `pg_wal`.
pub(crate) fn read_all(pg_wal: &Path) -> Result<Histories, DurableError> {
    let failed = |source: io::Error| DurableError::Read { path: pg_wal.to_owned(), source };
    let mut histories = Histories::new();
    for entry in fs::read_dir(pg_wal).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(timeline) = entry.file_name().to_str().and_then(number) else { continue };
        let text = fs::read_to_string(entry.path())
            .map_err(|source| DurableError::Read { path: entry.path(), source })?;
        histories.insert(timeline, History::parse(&text));
    }
    Ok(histories)
}

fn number(file_name: &str) -> Option<Timeline> {
    let digits = file_name.strip_suffix(".history").filter(|digits| digits.len() == 8)?;
    Timeline::new(u32::from_str_radix(digits, 16).ok()?)
}

fn path(pg_wal: &Path, timeline: Timeline) -> PathBuf {
    pg_wal.join(format!("{:08X}.history", timeline.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    #[test]
    fn parses_what_postgresql_writes() {
        let history = History::parse("1\t0/3000148\tno recovery target specified\n\n3\t0/5000000\treason\n");
        assert_eq!(history.began(), Some(Lsn(0x500_0000)));
        assert!(history.descends_from(timeline(1)) && !history.descends_from(timeline(2)));
        assert_eq!(History::parse(PLACEHOLDER), History::Placeholder);
    }

    #[test]
    fn reads_only_history_files_and_repairs_them() {
        let directory = tempfile::tempdir().unwrap();
        let pg_wal = directory.path();
        for name in ["00000003.history", "000000010000000000000001", "00000009.history.partial"] {
            fs::write(pg_wal.join(name), "1\t0/300\tx\n").unwrap();
        }
        prepare_promotion(pg_wal, timeline(6)).unwrap();
        assert_eq!(read_all(pg_wal).unwrap().keys().map(|t| t.0.get()).collect::<Vec<_>>(), [2, 3, 4, 5]);
        prepare_start(pg_wal).unwrap();
        assert_eq!(read_all(pg_wal).unwrap().keys().map(|t| t.0.get()).collect::<Vec<_>>(), [2, 3]);
    }

    proptest! {
        /// What PostgreSQL's counting finds after a repair is the newest real timeline; after preparing a
        /// promotion, the reserved number minus one.
        #[test]
        fn counting_finds_the_right_number(files in proptest::collection::btree_map(2_u32..12, any::<bool>(), 0..8), ahead in 1_u32..5) {
            let directory = tempfile::tempdir().unwrap();
            let pg_wal = directory.path();
            for (number, real) in &files {
                let text = if *real { "1\t0/300\tx\n" } else { PLACEHOLDER };
                fs::write(path(pg_wal, timeline(*number)), text).unwrap();
            }
            let newest_real = files.iter().filter(|(_, real)| **real).map(|(number, _)| *number).max().unwrap_or(1);
            let count = || (2..100).find(|number| !path(pg_wal, timeline(*number)).exists()).unwrap() - 1;
            prepare_start(pg_wal).unwrap();
            prop_assert_eq!(count(), newest_real);
            prepare_promotion(pg_wal, timeline(newest_real + ahead)).unwrap();
            prop_assert_eq!(count() + 1, newest_real + ahead);
        }
    }
}
