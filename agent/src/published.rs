//! What the driver shows to the rest of the process after each decision: HTTP, metrics and peers answer from it,
//! so that no request costs SQL, disk or a call.

use std::time::Duration;

use proto::{
    clock::BootTime,
    ha::{document::Document, view::Me},
    identity::Epoch,
    wire::{
        http::{Member, Role, Scope, State},
        peer::Status,
    },
};

/// One moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Published {
    /// When it was taken.
    pub(crate) at: BootTime,
    /// For the operator and the other members.
    pub(crate) status: Status,
    /// For monitors.
    pub(crate) member: Member,
    /// Primary: until when the lease lets it accept writes.
    pub(crate) lease_valid_until: Option<BootTime>,
    /// Until when the fence lets the server here write: set from before its promotion until it has stopped.
    pub(crate) fenced_until: Option<BootTime>,
    /// Primary: others' promises make it valid, since no renewal lands.
    pub(crate) by_promise: bool,
    /// Until when this member takes no part in an election, for the last primary that it promised that.
    pub(crate) promised_until: Option<BootTime>,
    /// Primary: when SQL last said that it accepts writes.
    pub(crate) writable_at: Option<BootTime>,
    /// Standby: when it was last seen streaming.
    pub(crate) streamed_at: Option<BootTime>,
    /// When the last call about the Lease that was answered was sent.
    pub(crate) lease_seen_at: Option<BootTime>,
    /// Largest delay of PID 1's own timer.
    pub(crate) worst_lateness: Duration,
    /// L of the profile in force.
    pub(crate) lease: Duration,
    /// The Lease's document, if it has one.
    pub(crate) document: Option<Box<Document>>,
}

impl Published {
    /// Before the first decision.
    pub(crate) fn unknown(me: &Me) -> Self {
        let status = Status {
            pod: me.pod.clone(),
            ordinal: me.ordinal,
            role: Role::None,
            state: State::Unknown,
            doing: None,
            epoch: Epoch::default(),
            leader: None,
            data_id: None,
            system_identifier: None,
            timeline: None,
            position: None,
            lag: None,
            replication: Vec::new(),
            durable: None,
            failover_blocked: None,
            server_version: None,
            generation: String::new(),
            pending_restart: Vec::new(),
            configuration_error: None,
            disk: None,
            last_takeover: None,
            archive: None,
            restore: None,
        };
        let patroni = Scope {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scope: me.database.clone(),
            name: me.pod.clone(),
        };
        Self {
            at: crate::boot_clock::now(),
            member: Member::unknown(patroni),
            status,
            lease_valid_until: None,
            fenced_until: None,
            by_promise: false,
            promised_until: None,
            writable_at: None,
            streamed_at: None,
            lease_seen_at: None,
            worst_lateness: Duration::ZERO,
            lease: Duration::ZERO,
            document: None,
        }
    }

    /// Role at `now`: a primary is one only while its lease is valid, even if this agent's loop is late.
    pub(crate) fn role(&self, now: BootTime) -> Role {
        let valid = self.lease_valid_until.is_some_and(|until| now < until);
        match self.status.role {
            Role::Primary if !valid => Role::None,
            role => role,
        }
    }

    /// Whether the server takes connections.
    pub(crate) fn running(&self) -> bool {
        matches!(self.status.state, State::Running | State::Streaming)
    }
}
