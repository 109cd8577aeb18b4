//! Reads the output of `pg_controldata`, which knows every version's layout of `pg_control`.

use std::collections::BTreeMap;

use proto::postgres::{Lsn, Timeline, WalPosition};

/// What the supervisor needs from `pg_control`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Timeline that recovery must at least reach.
    pub(crate) timeline: Timeline,
    /// Before this position the data is not consistent; zero if it is by itself.
    pub(crate) consistent_from: WalPosition,
    /// A base backup or rewind has not been replayed to its end yet.
    pub(crate) in_backup: bool,
    /// Size of a WAL segment in bytes.
    pub(crate) segment_size: u64,
    /// Settings that a standby must not run below, by their names in `postgresql.conf`.
    pub(crate) minimums: BTreeMap<&'static str, u64>,
}

/// The output lacks a line or has an unexpected value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("pg_controldata did not tell {0:?} in the form expected")]
pub(crate) struct InvalidControl(&'static str);

/// Label in the output, name in `postgresql.conf`.
const MINIMUMS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

impl Control {
    /// Parses the output of `pg_controldata`.
    pub(crate) fn parse(output: &str) -> Result<Self, InvalidControl> {
        let lines: BTreeMap<&str, &str> =
            output.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect();
        let text = |label: &'static str| lines.get(label).copied().ok_or(InvalidControl(label));
        let lsn = |label| text(label)?.parse::<Lsn>().map_err(|_| InvalidControl(label));
        let number = |label| text(label)?.parse::<u64>().map_err(|_| InvalidControl(label));
        let timeline = |label| Ok(u32::try_from(number(label)?).ok().and_then(Timeline::new));
        let checkpoint = timeline("Latest checkpoint's TimeLineID")?
            .ok_or(InvalidControl("Latest checkpoint's TimeLineID"))?;
        let minimum = timeline("Min recovery ending loc's timeline")?.unwrap_or(checkpoint);
        let minimums = MINIMUMS.iter().map(|(label, name)| Ok((*name, number(label)?)));
        Ok(Self {
            timeline: checkpoint.max(minimum),
            consistent_from: WalPosition { timeline: minimum, lsn: lsn("Minimum recovery ending location")? },
            in_backup: lsn("Backup start location")? != Lsn(0)
                || text("End-of-backup record required")? != "no",
            segment_size: number("Bytes per WAL segment")?,
            minimums: minimums.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pg_control version number:            1300
Latest checkpoint's TimeLineID:       3
Minimum recovery ending location:     0/3000148
Min recovery ending loc's timeline:   4
Backup start location:                0/0
Backup end location:                  0/0
End-of-backup record required:        no
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Bytes per WAL segment:                16777216
";

    #[test]
    fn reads_every_value() {
        let control = Control::parse(OUTPUT).unwrap();
        let timeline = Timeline::new(4).unwrap();
        assert_eq!(control.timeline, timeline);
        assert_eq!(control.consistent_from, WalPosition { timeline, lsn: Lsn(0x300_0148) });
        assert!(!control.in_backup);
        assert_eq!(control.segment_size, 16 << 20);
        assert_eq!(control.minimums["max_prepared_transactions"], 0);
        assert_eq!(control.minimums["max_connections"], 100);
    }

    #[test]
    fn an_unfinished_backup_shows() {
        let output =
            OUTPUT.replace("Backup start location:                0/0", "Backup start location: 0/2000028");
        assert!(Control::parse(&output).unwrap().in_backup);
    }

    #[test]
    fn a_missing_line_is_named() {
        let output = OUTPUT.replace("Bytes per WAL segment", "Bytes");
        assert_eq!(Control::parse(&output), Err(InvalidControl("Bytes per WAL segment")));
    }
}
