//! What the data volume allows: whether it answers, and whether there is room to lead (ha.md section 6).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    contest,
    document::{Document, ReleaseReason},
    handover,
    memory::{Survey, Tenure},
    question::{Reply, SurveyId},
    turn::Turn,
    view::View,
};
use crate::{
    identity::Ordinal,
    wire::supervisor::{Server, Space},
};

/// A promotion copies a segment of WAL (16 MiB), writes a history file and needs the next segment soon after.
pub const FULL_BELOW: u64 = 32 << 20;
/// Who takes over from a leader whose volume is full should have room for more than a moment.
const AMPLE_FROM: u64 = 128 << 20;
/// How often a leader whose volume is full asks the others for theirs.
const RELIEF_EVERY: Duration = Duration::from_secs(2);

/// How much can still be written to a member's volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Room {
    /// Not enough to be promoted.
    Full,
    /// Enough to lead, not enough to be preferred.
    Tight,
    /// Enough, or not known: a member of an earlier version does not say.
    #[default]
    Ample,
}

impl Room {
    /// Judges what is left.
    pub fn of(space: Space) -> Self {
        match space.available_bytes {
            available if available < FULL_BELOW => Self::Full,
            available if available < AMPLE_FROM => Self::Tight,
            _ => Self::Ample,
        }
    }
}

/// Room on my own volume.
pub(super) fn room(view: &View) -> Room {
    view.report().and_then(|report| report.space).map_or(Room::Ample, Room::of)
}

/// Whether my volume has answered nothing for `ioTimeout`. Before the first answer nothing is known: the data is
/// unread then.
pub(super) fn hangs(view: &View) -> bool {
    view.report().is_some_and(|report| {
        report.disk_ok_at.is_some_and(|ok| report.at.since(ok) > view.config.io_timeout())
    })
}

/// Why my volume forbids me to lead.
pub(super) fn unfit(view: &View) -> Option<(&'static str, ReleaseReason)> {
    if hangs(view) {
        return Some(("my volume does not answer", ReleaseReason::DiskHung));
    }
    (room(view) == Room::Full)
        .then_some(("my volume is full: raise spec.storage.size", ReleaseReason::DiskFull))
}

/// Whether a leader should end its server because the volume hangs: only if another can lead then, or nothing is
/// served from here yet. SIGKILL waits for no disk, so the Lease can be given back.
pub(super) fn must_end(view: &View, tenure: &Tenure) -> bool {
    let serves = matches!(view.server(), Some(Server::Primary { .. } | Server::Stopping));
    let runs = serves || matches!(view.server(), Some(Server::Starting | Server::Standby { .. }));
    runs && hangs(view) && !(serves && tenure.caught_up.is_empty())
}

/// Who should lead instead of me, whose volume is full: somebody caught up with ample room. Asks for that.
pub(super) fn relief(turn: &mut Turn<'_>, document: &Document) -> Option<Ordinal> {
    let view = turn.view;
    if room(view) != Room::Full {
        turn.memory.relief = None;
        return None;
    }
    let new = Survey { id: SurveyId(view.lease.next_write), since: view.now };
    let running = turn.memory.relief.filter(|survey| view.now < survey.since + RELIEF_EVERY);
    let survey = *turn.memory.relief.insert(running.unwrap_or(new));
    contest::ask_all(turn, survey, false, document.members.keys().copied());
    handover::candidates(view, document).find(|member| {
        matches!(contest::reply(view, *member, survey), Some(Reply::Surveyed(other)) if other.room == Room::Ample)
    })
}
