//! What members ask each other (ha.md sections 4 and 6). Bodies of the peer API.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    lease::{LeaseVersion, Renewal, WriteId},
    volume::Room,
};
use crate::{
    clock::BootTime,
    identity::{DataId, Epoch},
    postgres::{SystemIdentifier, Timeline, WalPosition},
};

/// Names one round of a survey, so that an old answer is not taken for a new one. Unique like a write id, from
/// which it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SurveyId(pub WriteId);

/// A question to a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// Where does your WAL end? No effect on the member.
    #[serde(rename_all = "camelCase")]
    Survey {
        /// Repeated by the asker to match the answer.
        id: SurveyId,
        /// The asker wants to lead because the Lease expired: who has promised, or may have forgotten a
        /// promise (L4), must not answer.
        expired: bool,
    },
    /// I have claimed `epoch`: acknowledge nothing lower, ever again, and say where your WAL ends.
    #[serde(rename_all = "camelCase")]
    Seal {
        /// The claim's epoch.
        epoch: Epoch,
        /// As in the survey before the claim.
        expired: bool,
    },
    /// I lead and cannot renew: write this for me, or promise to take no part in an election that rests on
    /// expiry (ha.md section 6).
    Relay(Box<Relay>),
}

/// A renewal to be relayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    /// What the asker cannot write itself.
    pub renewal: Renewal,
    /// P: how long a promise binds from the moment it is made.
    pub span: Duration,
    /// When this was asked, on the asker's clock: what it counts a promise from. Nothing to anybody else.
    pub asked_at: BootTime,
}

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// To a survey: I have no data.
    Empty,
    /// To a survey.
    Surveyed(Testimony),
    /// To a seal: sealed for that epoch, with nothing left here that could acknowledge.
    #[serde(rename_all = "camelCase")]
    Sealed {
        /// Whose WAL.
        data_id: DataId,
        /// Its exact end.
        position: WalPosition,
    },
    /// To a renewal: I could read the Lease after this was asked, and it shows this. The renewal has landed if
    /// that bears its name; if it bears another's, the Lease has moved on.
    Shown(Box<LeaseVersion>),
    /// To a renewal: neither could I write it, and I am bound for its span.
    #[serde(rename_all = "camelCase")]
    Promised {
        /// Whose data takes no part.
        data_id: DataId,
    },
    /// Not now, or never.
    Refused(Refused),
}

/// What a member says of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Testimony {
    /// Name of the data.
    pub data_id: DataId,
    /// Of which cluster it is.
    pub system_identifier: SystemIdentifier,
    /// End of the last flushed record.
    pub position: WalPosition,
    /// Highest epoch sealed, followed or opened: a claim must be higher.
    pub sealed: Epoch,
    /// Room on its volume: a leader without any looks for a member that has some.
    #[serde(default)]
    pub room: Room,
}

/// How far above the Lease's the numbers of a member may be. A Lease that was restored from a backup has forgotten
/// some epochs; a million are not of this Database, and counting on from them would soon reach the end of all numbers.
const FORGOTTEN: u32 = 1 << 20;

/// Whether `epoch` can have existed under a Lease that shows `shown`.
pub(super) fn is_plausible(epoch: Epoch, shown: Epoch) -> bool {
    epoch.0 <= shown.0.saturating_add(FORGOTTEN)
}

/// Whether `timeline` can exist when `reserved` is the highest that the Lease knows of.
pub(super) fn is_plausible_timeline(timeline: Timeline, reserved: Timeline) -> bool {
    timeline.0.get() <= reserved.0.get().saturating_add(FORGOTTEN)
}

impl Testimony {
    /// Whether a member can say this under a Lease that shows `epoch` and has reserved `timeline`.
    pub(super) fn is_plausible(&self, epoch: Epoch, timeline: Timeline) -> bool {
        is_plausible(self.sealed, epoch) && is_plausible_timeline(self.position.timeline, timeline)
    }
}

/// Why a member did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Highest epoch sealed, followed or opened, if it is known: a claim must be higher.
    pub sealed: Option<Epoch>,
    /// It has promised the last primary to take no part: nobody may lead before that is over.
    #[serde(default)]
    pub promised: bool,
    /// For people.
    pub why: String,
}
