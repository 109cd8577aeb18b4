//! What the Lease remembers for the cluster: the annotation [`crate::pod::ANNOTATION_HA`] (ha.md section 2).
//!
//! An annotation that is absent or does not parse means that nobody may lead, never "no configuration" (W4).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{configuration::Configuration, question};
use crate::{
    identity::{DataId, Epoch, Ordinal},
    postgres::{Lsn, SystemIdentifier, Timeline, WalPosition},
};

/// The most members that a Database may have.
const MAX_MEMBERS: usize = 9;
/// How many openings are remembered: an annotation may have 256 KiB, an opening takes about 100 bytes. A member
/// whose timeline is older than all of them rewinds, which reads the full history from the leader.
const MAX_HISTORY: usize = 100;

/// The annotation's contents.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Highest timeline ever reserved by a claim.
    pub timeline: Timeline,
    /// Who may contend and count.
    pub members: BTreeMap<Ordinal, DataId>,
    /// Every configuration that may be in force, oldest first; the last one is the one being put in force.
    pub configurations: Vec<Configuration>,
    /// The leader's ancestry: which epoch began which timeline, and where.
    pub history: Vec<Opening>,
    /// Identifier of the cluster that all of this is about.
    pub system_identifier: SystemIdentifier,
    /// Leader's end of WAL at its last renewal: the reference of `maxLagBytes` in `Async`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_lsn: Option<Lsn>,
    /// Why the last holder left; gone with the next claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// A claim since the last opening rested on expiry: the primary of that opening is presumed dead, not
    /// proven, and may be living on promises. Handed on by every later claim and release until the next opening.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub presumed: bool,
}

/// An epoch in which a member became primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// Which epoch.
    pub epoch: Epoch,
    /// Whose data.
    pub primary: DataId,
    /// The timeline that it began.
    pub timeline: Timeline,
    /// Where it left the timeline before.
    pub switch: Lsn,
    /// The promotion is done and a checkpoint on the new timeline too: only then may others rewind to this
    /// leader or copy its data.
    #[serde(default)]
    pub checkpointed: bool,
}

/// How a holder left.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Why.
    pub reason: ReleaseReason,
    /// Who left.
    pub from: Ordinal,
    /// Who should lead next if it ties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Ordinal>,
}

/// Why a holder left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReleaseReason {
    /// Somebody asked for a switchover.
    Switchover,
    /// The pod is being deleted, or its container ends.
    PodDeleted,
    /// The member is no longer wanted.
    ScaledDown,
    /// PostgreSQL ended by itself.
    PostgresDied,
    /// The container ended.
    ContainerDied,
    /// The fence ended PostgreSQL.
    Fenced,
    /// The volume did not answer for `ioTimeout`.
    DiskHung,
    /// The volume is full.
    DiskFull,
    /// A claim that could not become an open: no read quorum, or somebody was ahead.
    ClaimFailed,
    /// One that only a later version has.
    #[serde(other)]
    Unknown,
}

/// Why an annotation is not a [`Document`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// Not JSON of the right shape.
    #[error("the HA document of the Lease cannot be read; nobody may lead until it is restored")]
    Json(#[source] serde_json::Error),
    /// Well-formed, but it contradicts itself.
    #[error("the HA document of the Lease contradicts itself ({0}); nobody may lead until it is restored")]
    Nonsense(&'static str),
}

/// Reads a document inside another structure; refuses what [`Document::parse`] refuses.
pub(super) fn checked<'de, D: Deserializer<'de>, T: From<Document>>(deserializer: D) -> Result<T, D::Error> {
    let document = Document::deserialize(deserializer)?;
    document.contradiction().map_or_else(|| Ok(document.into()), |why| Err(D::Error::custom(why)))
}

impl Document {
    /// Reads the annotation; refuses what no agent can have written.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        let document: Self = serde_json::from_str(text).map_err(InvalidDocument::Json)?;
        document.contradiction().map_or(Ok(document), |why| Err(InvalidDocument::Nonsense(why)))
    }

    /// The annotation's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn contradiction(&self) -> Option<&'static str> {
        let ids: BTreeSet<_> = self.members.values().collect();
        let rising = |pair: &[Opening]| pair[0].epoch < pair[1].epoch && pair[0].timeline < pair[1].timeline;
        let checks = [
            (self.members.len() > MAX_MEMBERS, "more members than a Database can have"),
            (self.members.keys().any(|ordinal| usize::from(ordinal.0) >= MAX_MEMBERS), "an ordinal above 8"),
            (ids.len() < self.members.len(), "two members with one data id"),
            (!self.history.windows(2).all(rising), "a history that does not rise"),
            (self.history.last().is_some_and(|last| last.timeline > self.timeline), "an unreserved timeline"),
            (!self.configurations.windows(2).all(|w| w[0].epoch <= w[1].epoch), "unsorted configurations"),
            (
                self.configurations.iter().any(|c| {
                    c.standbys.len() > MAX_MEMBERS
                        || usize::from(c.k) > MAX_MEMBERS
                        || c.standbys.contains(&c.primary)
                }),
                "an impossible configuration",
            ),
        ];
        checks.into_iter().find_map(|(wrong, why)| wrong.then_some(why))
    }

    /// The opening of `epoch`, if its holder has opened and not only claimed.
    pub fn opened(&self, epoch: Epoch) -> Option<&Opening> {
        self.history.last().filter(|opening| opening.epoch == epoch)
    }

    /// The last epoch that was opened.
    pub(super) fn last_opened(&self) -> Epoch {
        self.history.last().map_or(Epoch::default(), |opening| opening.epoch)
    }

    /// The epoch of a Lease that states `stated` beside this document. A number far above all that was opened was
    /// written by hand, and counting on from it would soon reach the end of all numbers: it counts as none.
    pub fn epoch(&self, stated: Epoch) -> Epoch {
        if question::is_plausible(stated, self.last_opened()) { stated } else { Epoch::default() }
    }

    /// Whether `answered` holds everything acknowledged so far: a read quorum of every configuration in force.
    pub fn has_read_quorum(&self, answered: &BTreeSet<DataId>) -> bool {
        self.configurations.iter().all(|configuration| configuration.has_read_quorum(answered))
    }

    /// Whether `ordinal` with this data may contend and count (review S-10).
    pub fn lists(&self, ordinal: Ordinal, data_id: DataId) -> bool {
        self.members.get(&ordinal) == Some(&data_id)
    }

    /// The member with this data.
    pub fn ordinal_of(&self, data_id: DataId) -> Option<Ordinal> {
        self.members.iter().find_map(|(ordinal, id)| (*id == data_id).then_some(*ordinal))
    }

    /// The history of a leader that begins `opening` with its own WAL ending on `last`: openings on timelines
    /// that it has no record of are not its ancestors.
    #[must_use]
    pub fn history_of(&self, last: WalPosition, opening: Opening) -> Vec<Opening> {
        let ancestors = self.history.iter().filter(|past| past.timeline <= last.timeline).copied();
        let all: Vec<_> = ancestors.chain([opening]).collect();
        all[all.len().saturating_sub(MAX_HISTORY)..].to_vec()
    }
}
