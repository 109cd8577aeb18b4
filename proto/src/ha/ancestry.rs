//! Whether a member's data is a beginning of the leader's (ha.md section 8; review S-2, Patroni #1251).
//!
//! Numbers alone say nothing: two members once promoted to one timeline number and streamed each other's fork.
//! The Lease lists the leader's ancestors, and each timeline number was reserved for one of them.

use super::document::Opening;
use crate::{identity::Epoch, postgres::WalPosition};

/// What a member must do before it may stream from the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Its WAL is a beginning of the leader's.
    Follow,
    /// It has WAL that the leader has not.
    Rewind,
}

/// The fate of data that was last opened in epoch `opened` and ends at `end`, under a leader of this history.
pub fn fate(history: &[Opening], opened: Option<Epoch>, end: WalPosition) -> Fate {
    if opened.is_some_and(|opened| !led(history, opened) && !superseded(history, opened, end)) {
        return Fate::Rewind;
    }
    // The opening that left the timeline on which the data ends.
    let left_by = history.iter().find(|opening| opening.timeline > end.timeline);
    let is_ancestor = history.first().is_none_or(|first| end.timeline < first.timeline)
        || history.iter().any(|opening| opening.timeline == end.timeline);
    match left_by {
        _ if !is_ancestor => Fate::Rewind,
        Some(next) if end.lsn > next.switch => Fate::Rewind,
        Some(_) | None => Fate::Follow,
    }
}

/// Whether an epoch is one of the leader's ancestors, or older than all that are remembered.
fn led(history: &[Opening], opened: Epoch) -> bool {
    history.first().is_none_or(|first| opened < first.epoch)
        || history.iter().any(|opening| opening.epoch == opened)
}

/// Whether the data has WAL of a later ancestor, and so was rewound since it was opened.
fn superseded(history: &[Opening], opened: Epoch, end: WalPosition) -> bool {
    history.iter().any(|opening| opening.timeline == end.timeline && opening.epoch > opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::DataId,
        postgres::{Lsn, Timeline},
    };

    fn opening(epoch: u32, timeline: u32, switch: u64) -> Opening {
        let timeline = Timeline::new(timeline).unwrap();
        let (epoch, primary, switch) = (Epoch(epoch), DataId(u64::from(epoch)), Lsn(switch));
        Opening { epoch, primary, timeline, switch, checkpointed: true }
    }

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: Timeline::new(timeline).unwrap(), lsn: Lsn(lsn) }
    }

    /// Epoch 1 began timeline 2 at 100, epoch 3 timeline 4 at 200; epoch 2 on timeline 3 was abandoned.
    fn history() -> [Opening; 2] {
        [opening(1, 2, 100), opening(3, 4, 200)]
    }

    #[test]
    fn a_beginning_of_the_leaders_wal_follows() {
        for end in [at(1, 90), at(1, 100), at(2, 150), at(2, 200), at(4, 999)] {
            assert_eq!(fate(&history(), None, end), Fate::Follow, "{end}");
        }
    }

    #[test]
    fn wal_beyond_a_switch_or_on_a_foreign_timeline_rewinds() {
        for end in [at(1, 101), at(2, 201), at(3, 150), at(5, 150)] {
            assert_eq!(fate(&history(), None, end), Fate::Rewind, "{end}");
        }
    }

    #[test]
    fn data_opened_in_an_epoch_that_is_no_ancestor_rewinds_whatever_the_numbers_say() {
        assert_eq!(fate(&history(), Some(Epoch(2)), at(2, 150)), Fate::Rewind);
        assert_eq!(fate(&history(), Some(Epoch(1)), at(2, 150)), Fate::Follow);
        // Rewound since: its WAL is of a later ancestor.
        assert_eq!(fate(&history(), Some(Epoch(2)), at(4, 250)), Fate::Follow);
    }
}
