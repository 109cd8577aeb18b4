//! What an agent remembers from decision to decision. All of it is volatile: an agent that restarts begins
//! with `Memory::default()` and is safe (what must survive is in the Lease or beside PGDATA).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    configuration::Electorate,
    document::{Document, ReleaseReason},
    lease::{ResourceVersion, Vacancy, WriteId},
    question::SurveyId,
};
use crate::{
    clock::BootTime,
    identity::{DataId, Epoch, Holder, Ordinal},
    postgres::WalPosition,
    wire::http::Role,
};

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Own writes on the current version that may still land.
    pub writes: Vec<PendingWrite>,
    /// Who could elect another leader by what my writes on this version say, whichever of them landed.
    pub electorates: Option<(ResourceVersion, BTreeSet<Electorate>)>,
    /// What I promised to a primary that could not renew.
    pub promise: Option<Promise>,
    /// Highest epoch that my supervisor was ordered to seal for another member; its report may not show it yet.
    pub seal_ordered: Epoch,
    /// My tenure of the Lease.
    pub tenure: Option<Tenure>,
    /// A vacancy that I contend for.
    pub contest: Option<Contest>,
    /// My claim on its way to an open.
    pub takeover: Option<Takeover>,
    /// A planned stop of my leadership.
    pub handover: Option<Handover>,
    /// My volume is full: the question who has room.
    pub relief: Option<Survey>,
    /// I do not contend before this, or before another has led: whoever leads may name me again.
    pub stand_aside_until: Option<BootTime>,
    /// Failed attempts to lead in a row, for back-off.
    pub failures: u32,
    /// The epoch whose failure was counted last.
    pub failure_counted: Option<Epoch>,
    /// When things were last asked for (see [`Paced`]).
    pub paced: BTreeMap<Paced, BootTime>,
    /// Since when a standby of S is not streaming.
    pub missing_since: BTreeMap<DataId, BootTime>,
    /// Since when I follow a leader without receiving anything from it.
    pub idle_since: Option<BootTime>,
    /// Rewinds that failed in a row.
    pub failed_rewinds: u32,
    /// When the last rewind, clone or initdb ended that was taken note of.
    pub remade_at: Option<BootTime>,
    /// The leader's epoch that my data was rewound to or cloned from: it only has to follow.
    pub joined: Option<Epoch>,
    /// My data is being given up for a copy of the leader's.
    pub recloning: bool,
    /// Copies begun that have not proven themselves since.
    pub copies: u32,
    /// Since when my server has been starting.
    pub starting_since: Option<BootTime>,
    /// Once-only things of my current epoch.
    pub told: BTreeSet<Told>,
    /// The last switchover request that was dealt with.
    pub switchover_done: Option<u64>,
    /// When I last saw a leader that was alive.
    pub leader_seen_at: Option<BootTime>,
    /// My running server has streamed from a leader.
    pub followed: bool,
    /// The role that the label was last set to.
    pub labelled: Option<Role>,
    /// Since when I look for data among members of a Database that was never initialised.
    pub bootstrap: Option<Survey>,
}

/// A write of mine whose answer is not known, or that is known to have landed only by seeing it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingWrite {
    /// Its name.
    pub id: WriteId,
    /// When it was decided, which is before it was sent: what a deadline counts from.
    pub at: BootTime,
    /// The version that it replaces; `None` creates.
    pub basis: Option<ResourceVersion>,
    /// As whom.
    pub holder: Option<Holder>,
}

/// What I know of my own leadership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure {
    /// Which epoch.
    pub epoch: Epoch,
    /// When the last renewal that landed was decided (W2).
    pub renewed_at: BootTime,
    /// When enough others were last asked, who then promised to take no part in an election, and for how long.
    pub promised: Option<(BootTime, Duration)>,
    /// A write of this very agent has landed: whatever an earlier one sent cannot land any more.
    pub own: bool,
    /// Since when renewals have landed without a gap.
    pub unbroken_since: BootTime,
    /// L that the last landed version states.
    pub duration: Duration,
    /// The document of the last version seen, to recreate a Lease that vanished.
    pub document: Document,
    /// Standbys of S that had everything when last looked, so that one of them could take over.
    pub caught_up: BTreeSet<DataId>,
}

impl Tenure {
    /// What the deadlines that belong to `lease` count from: the last renewal that landed, or the last promises
    /// that were enough and for so long.
    pub fn counts_from(&self, lease: Duration) -> BootTime {
        let promised = self.promised.filter(|(_, span)| *span >= lease);
        promised.map_or(self.renewed_at, |(asked_at, _)| asked_at.max(self.renewed_at))
    }
}

/// A promise to take no part in an election that rests on expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// Epoch of the primary that relies on it.
    pub epoch: Epoch,
    /// Until when.
    pub until: BootTime,
}

/// A vacancy that I contend for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contest {
    /// The version judged.
    pub resource_version: ResourceVersion,
    /// When I first saw it vacant.
    pub since: BootTime,
    /// When the leader was last known alive: what an outage counts from.
    pub gone_since: BootTime,
    /// The survey under way.
    pub survey: Option<Survey>,
}

/// One round of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Survey {
    /// Its name.
    pub id: SurveyId,
    /// When it began.
    pub since: BootTime,
}

/// My claim on its way to an open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Takeover {
    /// The epoch claimed (or about to be).
    pub epoch: Epoch,
    /// When the claim was decided.
    pub since: BootTime,
    /// When the leader was last known alive.
    pub gone_since: BootTime,
    /// Who led before.
    pub from: Option<Ordinal>,
    /// Why it left, if it said so.
    pub reason: Option<ReleaseReason>,
    /// How the Lease had come free.
    pub vacancy: Vacancy,
    /// Who answered the survey, and so should answer the seal.
    pub expected: BTreeSet<DataId>,
    /// Sealed answers to this epoch, including my own.
    pub sealed: BTreeMap<DataId, (Ordinal, WalPosition)>,
    /// My own end must have been read after this (it moved when I caught up).
    pub own_after: BootTime,
    /// Since when I stream from a sealed member that is ahead.
    pub catching_up: Option<BootTime>,
    /// When my own server was sealed first; the patience with others counts from it.
    pub own_sealed_at: Option<BootTime>,
}

/// A planned stop of my leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handover {
    /// Why.
    pub reason: ReleaseReason,
    /// Who should lead next.
    pub prefer: Option<Ordinal>,
    /// The switchover request behind it.
    pub request: Option<u64>,
    /// When it began.
    pub since: BootTime,
    /// When the server was seen stopped.
    pub stopped_at: Option<BootTime>,
    /// The round of questions about the shutdown LSN.
    pub survey: Option<Survey>,
}

/// What is done again and again with a pause between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Paced {
    /// A read of the Lease.
    Read,
    /// A write of the Lease.
    Write,
    /// A survey question to a member.
    Survey(Ordinal),
    /// A seal question to a member.
    Seal(Ordinal),
    /// A renewal to be relayed, to all members.
    Relay,
    /// An order to the supervisor.
    Order(OrderKind),
    /// Setting the synchronous names.
    Names,
    /// Seeing a commit wait.
    Probe,
    /// A local write.
    Verify,
    /// Making slots.
    Slots,
    /// Dropping a member's slot.
    DropSlot(Ordinal),
    /// Setting the label.
    Label,
    /// Clearing other pods' labels.
    StaleLabels,
    /// A checkpoint.
    Checkpoint,
}

/// Orders by kind, for pacing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderKind {
    /// Arm
    Arm,
    /// Initdb
    Initdb,
    /// Clone
    Clone,
    /// Rewind
    Rewind,
    /// Start
    Start,
    /// Follow
    Follow,
    /// Seal
    Seal,
    /// EndOfWal
    EndOfWal,
    /// Promote
    Promote,
    /// Stop
    Stop,
    /// Kill
    Kill,
    /// Exit
    Exit,
}

/// What is said once in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    /// That I took over.
    TookOver,
    /// That durability was lost.
    DurabilityLost,
    /// That a human accepted the loss of acknowledged commits.
    LossAccepted,
}
