//! The state of the world: three servers, their agents as the core left them, one Lease, and what is under way.
//!
//! Nothing in it is a clock. What the core sees as time is made from a few ages ([`crate::ages`]).

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    ha::{
        lease::{Contents, WriteId},
        memory::Memory,
        question::{Question, Reply},
        sync_names::SyncNames,
        view::{LocalWal, PeerReplies, SwitchoverRequest, Verified},
    },
    identity::{DataId, Epoch, Ordinal},
    postgres::{Lsn, Timeline, WalPosition},
    wire::supervisor::{Ended, JobEnd, Order},
};

use crate::promise::write_in;

/// Bytes that a record takes.
pub(crate) const RECORD: u64 = 100;

/// One record of WAL. With its place in the log it is unique, since a timeline has one writer (S3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    pub(crate) timeline: u32,
    pub(crate) writer: DataId,
}

/// What survives a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) data_id: DataId,
    pub(crate) sealed: Epoch,
    /// What a restarted supervisor reads: the same, unless a mutant forgets.
    pub(crate) stored: Epoch,
    pub(crate) opened: Option<Epoch>,
    pub(crate) log: Vec<Record>,
    /// The data is not consistent before the log is this long.
    pub(crate) consistent_from: usize,
}

impl Disk {
    pub(crate) fn end(&self) -> WalPosition {
        let timeline = self.log.last().map_or(1, |record| record.timeline);
        WalPosition { timeline: Timeline::new(timeline).unwrap(), lsn: self.lsn() }
    }

    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(self.log.len() as u64 * RECORD)
    }
}

/// What the server does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Process {
    Stopped { last: Option<Ended>, shutdown: Option<WalPosition> },
    Starting,
    Standby,
    Primary { timeline: u32, switch: Lsn },
    Stopping { shutdown: WalPosition },
}

/// What a primary knows of an attached standby.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Walsender {
    pub(crate) ordinal: u8,
    /// Flushed by the standby; its reply is under way.
    pub(crate) sent: Lsn,
    /// As the primary knows it.
    pub(crate) flushed: Lsn,
    /// Its own copy of the names, reloaded in its own time.
    pub(crate) names: SyncNames,
}

/// One life of the `postgres` container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Life {
    pub(crate) run: u8,
    pub(crate) process: Process,
    /// Which member's server it streams from, and whether with a slot.
    pub(crate) following: Option<(usize, bool)>,
    pub(crate) job: Option<Order>,
    pub(crate) last_job: Option<JobEnd>,
    /// The epoch whose fence is armed and has not passed.
    pub(crate) fence: Option<Epoch>,
    /// The tick that it counts from.
    pub(crate) armed: u8,
    pub(crate) names: SyncNames,
    /// Whether commits wait: set by the checkpointer.
    pub(crate) flag: bool,
    pub(crate) senders: BTreeMap<DataId, Walsender>,
    /// Ends of commits that wait.
    pub(crate) waiting: BTreeSet<Lsn>,
}

impl Life {
    pub(crate) fn new(run: u8) -> Self {
        Self {
            run,
            process: Process::Stopped { last: None, shutdown: None },
            following: None,
            job: None,
            last_job: None,
            fence: None,
            armed: 0,
            names: SyncNames::Closed,
            flag: true,
            senders: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    pub(crate) fn is_primary(&self) -> bool {
        matches!(self.process, Process::Primary { .. })
    }

    pub(crate) fn end(&mut self, last: Ended, shutdown: Option<WalPosition>) {
        *self = Self {
            process: Process::Stopped { last: Some(last), shutdown },
            fence: self.fence,
            armed: self.armed,
            last_job: self.last_job.take(),
            ..Self::new(self.run)
        };
    }
}

/// A version of the Lease as the API server stores it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    /// Zero: there is no Lease.
    pub(crate) version: u32,
    pub(crate) contents: Contents,
}

/// A write on its way, with the version that it replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InFlight {
    pub(crate) basis: Option<u32>,
    pub(crate) contents: Contents,
}

/// What an agent last saw of the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "one in each agent, nearly always the large one")]
pub(crate) enum Seen {
    NotYet,
    Missing,
    Version {
        stored: Stored,
        expired: bool,
        /// The tick at which it was seen first.
        since: u8,
    },
}

/// One agent process with what its driver keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Agent {
    pub(crate) memory: Memory,
    pub(crate) seen: Seen,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) refused: Option<WriteId>,
    /// Questions on their way, by member.
    pub(crate) asked: BTreeMap<usize, Question>,
    pub(crate) peers: BTreeMap<Ordinal, PeerReplies>,
    pub(crate) wal: LocalWal,
    pub(crate) verified: Option<Verified>,
    pub(crate) commits_wait: bool,
    pub(crate) checkpoint: Option<Timeline>,
    pub(crate) switchover: Option<SwitchoverRequest>,
    /// The tick at which it started, if that is less than L ago.
    pub(crate) young: Option<u8>,
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self {
            memory: Memory::default(),
            seen: Seen::NotYet,
            in_flight: None,
            refused: None,
            asked: BTreeMap::new(),
            peers: BTreeMap::new(),
            wal: LocalWal::default(),
            verified: None,
            commits_wait: false,
            checkpoint: None,
            switchover: None,
            young: None,
        }
    }
}

/// What the API server is to one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Api {
    Answers,
    /// It takes no writes.
    ReadsOnly,
    Away,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) ordinal: u8,
    pub(crate) uid: u8,
    pub(crate) disk: Option<Disk>,
    pub(crate) life: Life,
    pub(crate) agent: Agent,
    pub(crate) api: Api,
}

/// What has happened, for the properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Journal {
    /// Acknowledged records, and by a primary of which epoch.
    pub(crate) acknowledged: BTreeMap<(Lsn, Record), Epoch>,
    pub(crate) commits: u8,
    /// Who promoted to which timeline.
    pub(crate) writers: BTreeMap<u32, DataId>,
    /// Openings that landed: epoch, data, timeline.
    pub(crate) opened: BTreeSet<(Epoch, DataId, u32)>,
    /// What was violated first.
    pub(crate) violated: Option<Violation>,
    pub(crate) released_for_switchover: bool,
    pub(crate) fell_back: bool,
    pub(crate) write_unanswered: bool,
    pub(crate) relayed: bool,
    pub(crate) promised: bool,
}

/// Which property does not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Violation {
    S1,
    S2,
    S3,
    S4,
}

/// The state that is explored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) lease: Stored,
    /// The last version of an earlier epoch, for reads that go back.
    pub(crate) before: Option<Stored>,
    /// Writes whose sender has given them up, but that may still land.
    pub(crate) late: Vec<InFlight>,
    pub(crate) journal: Journal,
    pub(crate) faults: u8,
    pub(crate) wiped: u8,
    /// Moments whose order matters so far, and rounds of questions of a primary that cannot renew.
    pub(crate) tick: u8,
    pub(crate) asks: u8,
    /// The version that was deleted: one that is made again is above it.
    pub(crate) deleted: u32,
}

impl World {
    pub(crate) fn violate(&mut self, what: Violation) {
        self.journal.violated.get_or_insert(what);
    }

    /// A name that no other write or survey which anybody still knows of bears.
    pub(crate) fn next_write(&self, node: usize) -> WriteId {
        let agent = &self.nodes[node].agent;
        let seen = match &agent.seen {
            Seen::Version { stored, .. } => i64::from(stored.version),
            Seen::NotYet | Seen::Missing => 0,
        };
        let late = self.late.iter().map(|write| write.contents.write_id);
        let known: BTreeSet<WriteId> = agent.known_ids().into_iter().chain(late).collect();
        let first = seen * 1_000 + i64::from(self.nodes[node].ordinal) * 100;
        (first..first + 100).map(WriteId).find(|id| !known.contains(id)).unwrap_or_default()
    }

    /// S2: what was acknowledged in an earlier epoch is in the log of a later primary.
    pub(crate) fn check_nothing_lost(&mut self, node: usize) {
        let Some(disk) = &self.nodes[node].disk else { return };
        let epoch = disk.opened.unwrap_or_default();
        let has = |(lsn, record): &(Lsn, Record)| {
            disk.log.get(usize::try_from(lsn.0 / RECORD).unwrap() - 1) == Some(record)
        };
        if self.journal.acknowledged.iter().any(|(record, acked)| *acked < epoch && !has(record)) {
            self.violate(Violation::S2);
        }
    }

    pub(crate) fn acknowledge(&mut self, node: usize, lsn: Lsn) {
        let Some(disk) = &self.nodes[node].disk else { return };
        let Some(record) = disk.log.get(usize::try_from(lsn.0 / RECORD).unwrap() - 1).copied() else {
            return;
        };
        let epoch = disk.opened.unwrap_or_default();
        self.journal.acknowledged.insert((lsn, record), epoch);
        for later in 0..self.nodes.len() {
            if self.nodes[later].life.is_primary() {
                self.check_nothing_lost(later);
            }
        }
    }
}

impl Agent {
    /// Forgets what no decision looks at any more.
    pub(crate) fn forget(&mut self) {
        let memory = &mut self.memory;
        let mine = match &self.seen {
            Seen::Version { stored, .. } => Some(stored.contents.epoch),
            Seen::NotYet | Seen::Missing => None,
        };
        let over = memory.takeover.as_ref().is_some_and(|takeover| Some(takeover.epoch) < mine);
        if over && memory.writes.is_empty() {
            memory.takeover = None;
        }
        let surveys = [
            memory.contest.as_ref().and_then(|contest| contest.survey),
            memory.handover.and_then(|handover| handover.survey),
        ];
        // A survey of earlier has no effect on whom it reaches.
        self.asked.retain(|_, question| match question {
            Question::Survey { id, .. } => surveys.iter().flatten().any(|survey| survey.id == *id),
            Question::Seal { .. } | Question::Relay(_) => true,
        });
        let claimed = memory.takeover.as_ref().map(|takeover| takeover.epoch);
        for peer in self.peers.values_mut() {
            peer.survey.take_if(|(id, _)| !surveys.iter().flatten().any(|survey| survey.id == *id));
            peer.seal.take_if(|(epoch, _)| Some(*epoch) != claimed);
        }
        let tenure = memory.tenure.as_ref();
        for peer in self.peers.values_mut() {
            // Promises that count are in the tenure; others may count together with later ones.
            peer.relay.take_if(|given| {
                let promised = matches!(given.reply, Reply::Promised { .. });
                !promised || tenure.is_none_or(|t| t.epoch != given.epoch || given.asked_at <= t.renewed_at)
            });
        }
        self.peers.retain(|_, peer| *peer != PeerReplies::default());
    }

    fn known_ids(&self) -> Vec<WriteId> {
        let memory = &self.memory;
        let surveys = [
            memory.contest.as_ref().and_then(|contest| contest.survey),
            memory.handover.and_then(|handover| handover.survey),
        ];
        let answered = self.peers.values().filter_map(|peer| peer.survey.as_ref().map(|(id, _)| id.0));
        let mut ids: Vec<WriteId> = memory.writes.iter().map(|write| write.id).collect();
        ids.extend(surveys.into_iter().flatten().map(|survey| survey.id.0));
        ids.extend(answered);
        ids.extend(self.asked.values().filter_map(write_in));
        ids.extend(self.in_flight.iter().map(|write| write.contents.write_id));
        if let Seen::Version { stored, .. } = &self.seen {
            ids.push(stored.contents.write_id);
        }
        ids
    }
}
