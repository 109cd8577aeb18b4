//! Everything that an agent observes, as plain data: the one input of a decision beside its memory.
//!
//! All of it may be old. Nothing here is a promise; the rules say which age matters for what.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    lease::{Sighting, WriteId},
    question::{Relay, Reply, SurveyId},
};
use crate::{
    clock::BootTime,
    identity::{DataId, Epoch, Holder, Ordinal},
    pod,
    postgres::{Lsn, Timeline, WalPosition},
    wire::{
        config::AgentConfig,
        http::Role,
        supervisor::{Data, Durable, Report, Server, Upstream},
    },
};

/// What one agent knows at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// When the view was taken. Must not be later than any effect of the decision.
    pub now: BootTime,
    /// When this agent process started (L4).
    pub started_at: BootTime,
    /// Who I am.
    pub me: Me,
    /// What the operator wants.
    pub config: AgentConfig,
    /// The Lease and my requests about it.
    pub lease: LeaseView,
    /// My supervisor.
    pub supervisor: Supervisor,
    /// What my supervisor last answered about the end of my WAL.
    pub wal: LocalWal,
    /// What SQL on my own server says; `None` while there is none.
    pub sql: Option<SqlFacts>,
    /// What the other members last answered, by ordinal.
    pub peers: BTreeMap<Ordinal, PeerReplies>,
    /// Role label that my pod bears; `None` while not known.
    pub label: Option<Role>,
    /// My pod has a deletion timestamp.
    pub deletion_requested: bool,
    /// A switchover that somebody asked for, until the core says what became of it.
    pub switchover: Option<SwitchoverRequest>,
}

/// Who I am.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Me {
    /// My ordinal.
    pub ordinal: Ordinal,
    /// Name of my pod.
    pub pod: String,
    /// UID of my pod.
    pub pod_uid: String,
    /// Name of the Database.
    pub database: String,
    /// Its namespace.
    pub namespace: String,
}

/// The Lease and my own requests about it. At most one request is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseView {
    /// What it showed, to a read or as the answer to a write.
    pub sighting: Sighting,
    /// A request is under way: no other will be begun.
    pub busy: bool,
    /// The last write that was answered with a definite refusal (409, 4xx): it has not landed and never will.
    pub refused: Option<WriteId>,
    /// A name for the next write: wall-clock microseconds, made unique and growing by the driver.
    pub next_write: WriteId,
}

/// The process that owns PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Supervisor {
    /// Not connected yet, or the connection is lost and the lock is still held: anything may be running.
    Unknown,
    /// Its newest report.
    Reported(Box<Report>),
    /// The connection is lost and the agent holds the lock exclusively: every PostgreSQL process is dead
    /// (ha.md section 1, proof of death).
    Dead,
}

/// Ends of local WAL, as [`crate::wire::supervisor::Answer`] gave them to this agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LocalWal {
    /// To [`crate::wire::supervisor::Order::Seal`], whether this agent or a peer's question was behind it.
    pub sealed: Option<SealedEnd>,
    /// To [`crate::wire::supervisor::Order::EndOfWal`], and when it was ordered.
    pub end: Option<(BootTime, WalPosition)>,
}

/// A member that acknowledges nothing below `epoch` any more, and its exact end of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SealedEnd {
    /// For which claim.
    pub epoch: Epoch,
    /// Where it ends.
    pub position: WalPosition,
    /// When the seal was ordered.
    pub at: BootTime,
}

/// What SQL on the own server says. Read about once a second, and at once after an action on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SqlFacts {
    /// When the queries were sent.
    pub at: BootTime,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Primary: flushed up to here. Standby: received and flushed up to here.
    pub flushed: Lsn,
    /// `synchronous_standby_names` as a *new* session shows it.
    pub names: String,
    /// A probe commit was seen in wait event `SyncRep` since the server started and since the names were last
    /// empty (review S-7: SHOW says nothing about whether commits wait).
    pub commits_wait: bool,
    /// The last local write that succeeded ([`super::action::Action::VerifyLocalWrite`]).
    pub verified: Option<Verified>,
    /// `timeline_id` of `pg_control_checkpoint()`: pg_rewind works from that, not from the running server.
    pub checkpoint_timeline: Option<Timeline>,
    /// Standbys by `application_name`, as far as it is a data id.
    pub standbys: BTreeMap<DataId, Standby>,
    /// Members that have a slot here ([`pod::member_slot`]).
    pub slots: BTreeSet<Ordinal>,
    /// When the slow, separate verdict last said that PostgreSQL works (L5).
    pub works_at: Option<BootTime>,
}

/// A local write that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verified {
    /// Under this epoch.
    pub epoch: Epoch,
    /// After a new session showed these names.
    pub names: String,
    /// The end of WAL, read after the write.
    pub lsn: Lsn,
    /// When it was begun.
    pub at: BootTime,
}

/// A standby attached to my server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standby {
    /// Which member, told by its slot.
    pub ordinal: Option<Ordinal>,
    /// `pg_stat_replication.state` is `streaming`.
    pub streaming: bool,
    /// Flushed by it.
    pub flushed: Lsn,
}

/// What another member last answered, kept until it answers the same kind again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerReplies {
    /// To a survey: which, and what.
    pub survey: Option<(SurveyId, Reply)>,
    /// To a seal: of which epoch, and what.
    pub seal: Option<(Epoch, Reply)>,
    /// To a renewal to be relayed.
    pub relay: Option<RelayReply>,
}

/// What a member answered to a renewal to be relayed. [`Reply::Shown`] is a sighting as well, if the question was
/// asked after the last one came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayReply {
    /// Epoch of the renewal.
    pub epoch: Epoch,
    /// When it was asked.
    pub asked_at: BootTime,
    /// For how long a promise was asked.
    pub span: Duration,
    /// The reply.
    pub reply: Reply,
}

impl RelayReply {
    /// The reply to `relay`.
    pub fn new(relay: &Relay, reply: Reply) -> Self {
        let epoch = relay.renewal.contents.epoch;
        Self { epoch, asked_at: relay.asked_at, span: relay.span, reply }
    }
}

/// Somebody wants another leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwitchoverRequest {
    /// Names the request, so that it is carried out once.
    pub id: u64,
    /// Who should lead; anybody fit if absent.
    pub to: Option<Ordinal>,
}

/// PostgreSQL's port.
const PORT: u16 = pod::POSTGRES_PORT;

impl View {
    /// The supervisor's newest report.
    pub fn report(&self) -> Option<&Report> {
        match &self.supervisor {
            Supervisor::Reported(report) => Some(report),
            Supervisor::Unknown | Supervisor::Dead => None,
        }
    }

    /// State of my server, if known.
    pub fn server(&self) -> Option<&Server> {
        self.report().map(|report| &report.server)
    }

    /// My durable state, if I have data.
    pub fn durable(&self) -> Option<&Durable> {
        match &self.report()?.data {
            Data::Present(durable) => Some(durable),
            Data::Unread | Data::Empty | Data::Unusable { .. } => None,
        }
    }

    /// My name as a holder, while my supervisor's run is known.
    pub fn holder(&self) -> Option<Holder> {
        let run = self.report()?.run.clone();
        Some(Holder { pod: self.me.pod.clone(), pod_uid: self.me.pod_uid.clone(), run })
    }

    /// Epoch of the Lease as last seen.
    pub fn lease_epoch(&self) -> Epoch {
        match &self.lease.sighting {
            Sighting::Seen(observed) => observed.version.epoch,
            Sighting::NotYet | Sighting::Missing(_) => Epoch::default(),
        }
    }

    /// How I attach to a member.
    pub fn upstream(&self, leader: Ordinal) -> Upstream {
        Upstream {
            host: pod::member_host(&self.me.database, leader, &self.me.namespace),
            port: PORT,
            slot: Some(pod::member_slot(self.me.ordinal)),
        }
    }

    /// My exact end of WAL as sealed for `epoch`.
    pub fn sealed_end(&self, epoch: Epoch) -> Option<SealedEnd> {
        self.wal.sealed.filter(|sealed| sealed.epoch == epoch)
    }

    /// My pod is going away.
    pub fn leaving(&self) -> bool {
        self.deletion_requested || self.report().is_some_and(|report| report.terminating)
    }
}
