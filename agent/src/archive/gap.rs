//! What is missing in the archive although no archiver will offer it any more. A standby marks the WAL that it receives
//! as archived, so that after a crash of the primary nobody offers the last files: the new primary looks for them. And
//! what a primary wrote while archiving was turned off counts as archived too.

use std::collections::BTreeSet;

use proto::{
    ha::document::Opening,
    postgres::{Lsn, SystemIdentifier, Timeline},
};

use super::{
    header::{Header, HeaderError},
    names::{Segment, SegmentSize},
};

/// So many files in a row that are there end the search: the archiver works in order, but for what it reads ahead.
const ENOUGH: usize = 8;

/// The segments that must be in the archive, newest first: those of the newest timeline before `since`, the first that
/// its archiver sent, and those of the timelines before. A timeline's last segment is not among them: it is continued
/// under the name of the next timeline, from its first byte on.
pub(crate) fn owed(
    openings: &[Opening],
    since: Option<Segment>,
    size: SegmentSize,
) -> impl Iterator<Item = Segment> + '_ {
    let before = move |opening: &Opening, end: u64| {
        let timeline = opening.timeline;
        (first_of(opening, size)..end).rev().map(move |number| Segment::numbered(timeline, number, size))
    };
    let newest = openings.last().zip(since).filter(|(opening, since)| opening.timeline == since.timeline);
    let newest = newest.into_iter().flat_map(move |(opening, since)| before(opening, since.absolute(size)));
    let older = openings.windows(2).rev().flat_map(move |pair| {
        before(&pair[0], Segment::holding(pair[0].timeline, pair[1].switch, size).absolute(size))
    });
    newest.chain(older)
}

/// The timeline of `initdb` begins with segment 1.
fn first_of(opening: &Opening, size: SegmentSize) -> u64 {
    match opening.timeline {
        Timeline::FIRST => 1,
        timeline => Segment::holding(timeline, opening.switch, size).absolute(size),
    }
}

/// Why a file does not fill the gap of its name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The server reuses files: what was read may be another segment, or parts of two.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// WAL of others.
    #[error("it is WAL of cluster {0}")]
    Foreign(SystemIdentifier),
}

/// Whether `contents` are this segment, and WAL of the cluster whose archive it is for.
pub(crate) fn check(segment: Segment, contents: &[u8], own: SystemIdentifier) -> Result<(), Unfit> {
    let found = Header::check(segment, contents, contents.len() as u64)?.system_identifier;
    match found == own {
        true => Ok(()),
        false => Err(Unfit::Foreign(found)),
    }
}

/// Looks for missing segments, newest first.
#[derive(Debug, Default)]
pub(crate) struct Search {
    in_a_row: usize,
    missing: Vec<Segment>,
}

impl Search {
    /// Notes whether the archive has this one; `false` ends the search.
    pub(crate) fn note(&mut self, segment: Segment, there: bool) -> bool {
        if there {
            self.in_a_row += 1;
        } else {
            self.in_a_row = 0;
            self.missing.push(segment);
        }
        self.in_a_row < ENOUGH
    }

    /// What is missing, oldest first.
    pub(crate) fn missing(mut self) -> Vec<Segment> {
        self.missing.reverse();
        self.missing
    }
}

/// Whether anything of this history before `segment` is among the `archived` ones: then a missing one is a hole, and
/// otherwise only older than the archive.
pub(crate) fn is_hole(segment: Segment, archived: &BTreeSet<Segment>, size: SegmentSize) -> bool {
    archived
        .iter()
        .any(|other| other.timeline <= segment.timeline && other.absolute(size) < segment.absolute(size))
}

/// The end of what is archived without a gap, as a bound for what standbys keep.
pub(crate) fn watermark(newest: Option<Segment>, size: SegmentSize) -> Option<Lsn> {
    newest.map(|segment| segment.end(size))
}

#[cfg(test)]
mod tests {
    use proto::identity::{DataId, Epoch};

    use super::*;
    use crate::archive::header::tests::segment;

    const SIZE: SegmentSize = SegmentSize(1 << 24);

    fn opening(timeline: u32, switch: u64) -> Opening {
        Opening {
            epoch: Epoch(timeline),
            primary: DataId(1),
            timeline: Timeline::new(timeline).unwrap(),
            switch: Lsn(switch << 24 | 0x123),
            checkpointed: true,
        }
    }

    fn names(segments: impl IntoIterator<Item = Segment>) -> Vec<String> {
        segments.into_iter().map(|segment| segment.to_string()).collect()
    }

    #[test]
    fn each_timeline_owes_what_lies_before_the_next() {
        let owed = names(owed(&[opening(2, 3), opening(4, 5), opening(5, 6)], None, SIZE));
        assert_eq!(
            owed,
            ["000000040000000000000005", "000000020000000000000004", "000000020000000000000003"]
        );
    }

    #[test]
    fn a_timeline_left_in_its_first_segment_owes_nothing() {
        assert_eq!(owed(&[opening(2, 3), opening(3, 3)], None, SIZE).count(), 0);
        assert_eq!(owed(&[opening(2, 3)], None, SIZE).count(), 0);
    }

    #[test]
    fn the_newest_timeline_owes_what_lies_before_the_first_that_was_sent() {
        let since = |name: &str| Some(name.parse().unwrap());
        let openings = [opening(2, 3), opening(3, 5)];
        let before = names(owed(&openings, since("000000030000000000000007"), SIZE));
        assert_eq!(
            before,
            [
                "000000030000000000000006",
                "000000030000000000000005",
                "000000020000000000000004",
                "000000020000000000000003"
            ]
        );
        // Sent before this timeline was opened.
        assert_eq!(owed(&openings, since("000000020000000000000007"), SIZE).count(), 2);
        assert_eq!(owed(&openings, since("000000030000000000000005"), SIZE).count(), 2);
    }

    #[test]
    fn holes_behind_files_read_ahead_are_found() {
        let mut search = Search::default();
        let owed: Vec<_> = owed(&[opening(2, 3), opening(3, 40)], None, SIZE).collect();
        let there = |index: usize| !matches!(index, 0 | 1 | 4);
        let looked =
            owed.iter().enumerate().take_while(|(index, segment)| search.note(**segment, there(*index)));
        assert_eq!(looked.count(), 12, "and the thirteenth ended it");
        assert_eq!(
            names(search.missing()),
            ["000000020000000000000023", "000000020000000000000026", "000000020000000000000027"]
        );
    }

    #[test]
    fn what_is_older_than_the_archive_is_no_hole() {
        let segment: Segment = "000000020000000000000010".parse().unwrap();
        let of = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        assert!(!is_hole(segment, &of(&["000000020000000000000011", "000000030000000000000001"]), SIZE));
        assert!(is_hole(segment, &of(&["00000001000000000000000F"]), SIZE));
    }

    /// Nothing is written over what the archive has: a wrong file would stay for ever.
    #[test]
    fn only_the_segment_itself_fills_its_gap() {
        let (name, next): (Segment, Segment) =
            ("000000020000000000000010".parse().unwrap(), "000000020000000000000011".parse().unwrap());
        let own = SystemIdentifier(77);
        let whole = segment(name, 77);
        assert_eq!(check(name, &whole, own), Ok(()));
        assert_eq!(check(name, &segment(name, 78), own), Err(Unfit::Foreign(SystemIdentifier(78))));
        for wrong in [&segment(next, 77), &whole[..whole.len() / 2], &vec![0; whole.len()], &[]] {
            assert!(matches!(check(name, wrong, own), Err(Unfit::Header(_))), "{} bytes", wrong.len());
        }
    }
}
