//! Names of the files in `pg_wal` that are archived.

use std::fmt;

use proto::postgres::{Lsn, Timeline};

/// A whole WAL segment: `<timeline><log><segment>`, eight hexadecimal digits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Segment {
    /// Whose WAL.
    pub(crate) timeline: Timeline,
    /// The middle eight digits.
    pub(crate) log: u32,
    /// The last eight digits.
    pub(crate) number: u32,
}

/// What the server offers to its `archive_command`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum WalName {
    /// A whole segment.
    Segment(Segment),
    /// The beginning of the segment in which a timeline was left.
    Partial(Segment),
    /// Where a timeline began.
    History(Timeline),
    /// The label of a base backup that began in this segment.
    BackupLabel(Segment, u32),
}

/// Not the name of a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a WAL file")]
pub(crate) struct InvalidName(String);

/// Size of segments as `initdb` was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSize(pub(crate) u64);

impl SegmentSize {
    /// Segments in one `log`.
    fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl Segment {
    /// The segment that holds the byte at `lsn`.
    pub(crate) fn holding(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self::numbered(timeline, lsn.0 / size.0, size)
    }

    /// The last segment that is needed up to `end`, exclusively.
    pub(crate) fn up_to(timeline: Timeline, end: Lsn, size: SegmentSize) -> Self {
        Self::holding(timeline, Lsn(end.0.saturating_sub(1)), size)
    }

    /// The segment of this absolute number.
    pub(crate) fn numbered(timeline: Timeline, absolute: u64, size: SegmentSize) -> Self {
        // Both are below 2^32: a log is the upper half of a position.
        let part = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { timeline, log: part(absolute / size.per_log()), number: part(absolute % size.per_log()) }
    }

    /// Counted from the first segment of all.
    pub(crate) fn absolute(self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.per_log() + u64::from(self.number)
    }

    /// The first byte.
    pub(crate) fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.absolute(size) * size.0)
    }

    /// The byte after the last.
    pub(crate) fn end(self, size: SegmentSize) -> Lsn {
        Lsn((self.absolute(size) + 1) * size.0)
    }

    /// Folder in the archive: what timeline and log have in common.
    pub(crate) fn folder(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.number)
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(f),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            Self::BackupLabel(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

impl std::str::FromStr for Segment {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidName(text.to_owned());
        let part = |range| text.get(range).and_then(hexadecimal).ok_or_else(invalid);
        if text.len() != 24 {
            return Err(invalid());
        }
        let timeline = Timeline::new(part(0..8)?).ok_or_else(invalid)?;
        Ok(Self { timeline, log: part(8..16)?, number: part(16..24)? })
    }
}

impl std::str::FromStr for WalName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidName(text.to_owned());
        let (stem, rest) = text.split_once('.').unwrap_or((text, ""));
        match rest.split_once('.') {
            None if rest.is_empty() && stem == text => stem.parse().map(Self::Segment),
            None if rest == "partial" => stem.parse().map(Self::Partial),
            None if rest == "history" => {
                hexadecimal(stem).and_then(Timeline::new).map(Self::History).ok_or_else(invalid)
            }
            Some((offset, "backup")) => {
                Ok(Self::BackupLabel(stem.parse()?, hexadecimal(offset).ok_or_else(invalid)?))
            }
            _ => Err(invalid()),
        }
        .map_err(|_| invalid())
    }
}

/// Exactly eight digits, upper case as the server writes them.
fn hexadecimal(digits: &str) -> Option<u32> {
    let valid = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn knows_every_kind_of_file() {
        for name in [
            "000000010000000000000014",
            "00000001000000A0000000FF.partial",
            "0000002A.history",
            "000000010000000000000014.00000028.backup",
        ] {
            assert_eq!(name.parse::<WalName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for name in [
            "",
            ".",
            "00000001000000000000001",
            "00000001000000000000001g",
            "00000001000000000000001a",
            "000000000000000000000014",
            "000000010000000000000014.",
            "000000010000000000000014.tmp",
            "../../etc/passwd",
            "00000000.history",
            "archive_status",
            "000000010000000000000014.28.backup",
        ] {
            assert!(name.parse::<WalName>().is_err(), "{name:?}");
        }
    }

    proptest! {
        /// With every size that initdb allows, a segment holds exactly the bytes from its start to its end.
        #[test]
        fn a_segment_holds_its_bytes(lsn in 0..u64::MAX / 2, power in 0..11_u32) {
            let size = SegmentSize(MIB << power);
            let segment = Segment::holding(Timeline::FIRST, Lsn(lsn), size);
            prop_assert!(segment.start(size).0 <= lsn && lsn < segment.end(size).0);
            prop_assert_eq!(segment.end(size).0 - segment.start(size).0, size.0);
            prop_assert_eq!(segment.to_string().parse::<Segment>().unwrap(), segment);
        }
    }
}
