//! What the rest of the process may tell: built after each decision, from the same view.

use std::time::Duration;

use jiff::Timestamp;
use proto::{
    clock::BootTime,
    ha::{
        action::{Summary, TookOver},
        document::Document,
        lease::{Recorded, Sighting},
        view::View,
    },
    identity::Epoch,
    postgres::{Timeline, WalPosition},
    wire::{
        http::{Lag, Member, Role, Scope, State, Xlog},
        peer::{Status, Takeover},
        supervisor::{Data, JobKind, Report, Server},
    },
};

use super::{
    Driver,
    observe::flushed,
    outcome::{Outcome, Work},
};
use crate::{
    boot_clock,
    published::Published,
    sql::{acts, facts::Facts},
};

/// Facts older than this say nothing about whether the server takes connections.
const FACTS_MAX_AGE: Duration = Duration::from_secs(5);
/// Slots on standbys are moved this often: they hold at most this much more WAL than needed.
const ADVANCE_EVERY: Duration = Duration::from_secs(10);

/// What is known before the first decision.
pub(super) fn nothing() -> Summary {
    Summary {
        role: Role::None,
        epoch: Epoch::default(),
        leader: None,
        doing: "starting".to_owned(),
        durable: None,
        failover_blocked: None,
        lease_valid_until: None,
        by_promise: false,
    }
}

/// A take-over, for the status.
pub(super) fn takeover(taken: &TookOver, database: &str) -> Takeover {
    Takeover {
        planned: taken.planned,
        from: taken.from.map(|from| format!("{database}-{from}")),
        to: format!("{database}-{}", taken.to),
        reason: taken.reason.clone(),
        seconds: taken.duration.as_secs_f64(),
        timeline: taken.timeline,
        at: Timestamp::now(),
    }
}

impl Driver {
    /// Shows the outcome of a decision.
    pub(super) fn show(&mut self, view: &View) {
        let facts = self.fresh_facts(view);
        let facts = facts.as_ref();
        let state = state(view, facts);
        if state == State::Streaming {
            self.streamed_at = Some(view.now);
        }
        if let Some((asked, Facts { writable: true, .. })) = &self.inputs.reading.borrow().facts {
            self.writable_at = Some(*asked);
        }
        if let Some(report) = view.report() {
            self.hands.metrics.fences(report.fence_count);
        }
        let status = self.status(view, facts, state);
        let published = Published {
            at: view.now,
            member: self.member(view, facts, &status),
            status,
            lease_valid_until: self.summary.lease_valid_until,
            fenced_until: view.report().and_then(|report| report.fence).map(|fence| fence.fast_stop_at),
            by_promise: self.summary.by_promise,
            promised_until: self.memory.promise.map(|promise| promise.until),
            writable_at: self.writable_at,
            streamed_at: self.streamed_at,
            lease_seen_at: self.inputs.lease.borrow().answered,
            worst_lateness: Duration::from_micros(view.report().map_or(0, |report| report.worst_lateness_us)),
            lease: view.config.profile.timing().lease,
            document: document(view).cloned().map(Box::new),
        };
        self.shown.send_replace(std::sync::Arc::new(published));
    }

    fn fresh_facts(&self, view: &View) -> Option<Facts> {
        view.sql.as_ref().filter(|sql| view.now.since(sql.at) < FACTS_MAX_AGE)?;
        self.inputs.reading.borrow().facts.as_ref().map(|(_, facts)| facts.clone())
    }

    fn status(&self, view: &View, facts: Option<&Facts>, state: State) -> Status {
        let (report, durable) = (view.report(), view.durable());
        let position = facts.and_then(|facts| position(report, facts));
        Status {
            pod: self.me.pod.clone(),
            ordinal: self.me.ordinal,
            role: self.summary.role,
            state,
            doing: Some(doing(&self.summary, report)),
            epoch: self.summary.epoch,
            leader: self.summary.leader.map(|leader| self.pod_name(leader)),
            data_id: durable.map(|durable| durable.data_id),
            system_identifier: durable.map(|durable| durable.system_identifier),
            timeline: position.map(|position| position.timeline),
            position,
            lag: facts.and_then(|facts| lag(facts, state)),
            replication: facts.map(|facts| facts.replication.clone()).unwrap_or_default(),
            durable: self.summary.durable,
            failover_blocked: self.summary.failover_blocked.clone(),
            server_version: facts.map(|facts| facts.version),
            generation: report.map(|report| report.generation.clone()).unwrap_or_default(),
            pending_restart: report.map(|report| report.pending_restart.clone()).unwrap_or_default(),
            configuration_error: self.configuring.error().map(str::to_owned),
            disk: report.and_then(|report| report.space),
            last_takeover: self.last_takeover.clone(),
            archive: None,
            restore: None,
        }
    }

    fn member(&self, view: &View, facts: Option<&Facts>, status: &Status) -> Member {
        let seen = self.inputs.lease.borrow().answered;
        let seconds_ago = |at: BootTime| i64::try_from(view.now.since(at).as_secs()).unwrap_or_default();
        Member {
            state: status.state,
            role: status.role,
            server_version: status.server_version,
            xlog: facts.map(xlog),
            timeline: status.timeline,
            replication: status.replication.clone(),
            lag: status.lag,
            dcs_last_seen: seen
                .and_then(|at| u64::try_from(Timestamp::now().as_second() - seconds_ago(at)).ok()),
            database_system_identifier: status.system_identifier,
            pending_restart: !status.pending_restart.is_empty(),
            patroni: Scope {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                scope: self.me.database.clone(),
                name: self.me.pod.clone(),
            },
            epoch: status.epoch,
            data_id: status.data_id,
        }
    }

    /// Sets the passwords once in each epoch that this member leads, and when they change.
    pub(super) fn keep_passwords(&mut self) {
        let verifiers = self.inputs.verifiers.borrow_and_update().clone();
        let wanted = (self.summary.epoch, verifiers);
        let waits = boot_clock::now() < self.passwords_retry_at;
        if waits || self.summary.role != Role::Primary || self.passwords_set.as_ref() == Some(&wanted) {
            return;
        }
        let (epoch, verifiers) = wanted;
        let socket = std::sync::Arc::clone(&self.hands.socket_directory);
        self.spawn(Work::Passwords, async move {
            let mut result = Ok(());
            for (role, verifier) in verifiers.roles() {
                if result.is_ok() {
                    result = acts::set_password(&socket, role, verifier).await;
                }
            }
            Outcome::PasswordsSet { epoch, verifiers, result }
        });
    }

    /// Moves the other members' slots on a standby.
    pub(super) fn keep_slots_moving(&mut self, view: &View) {
        let standby = view.sql.as_ref().is_some_and(|sql| sql.in_recovery && !sql.slots.is_empty());
        if !standby || view.now.since(self.slots_advanced_at) < ADVANCE_EVERY {
            return;
        }
        self.slots_advanced_at = boot_clock::now();
        let socket = std::sync::Arc::clone(&self.hands.socket_directory);
        self.spawn(Work::AdvanceSlots, async move {
            Outcome::Sql(Work::AdvanceSlots, acts::advance_slots(&socket).await)
        });
    }
}

fn document(view: &View) -> Option<&Document> {
    match &view.lease.sighting {
        Sighting::Seen(observed) => match &observed.version.recorded {
            Recorded::Document(document) => Some(document),
            Recorded::NeverInitialised | Recorded::Unreadable(_) => None,
        },
        Sighting::NotYet | Sighting::Missing(_) => None,
    }
}

fn state(view: &View, facts: Option<&Facts>) -> State {
    let Some(report) = view.report() else { return State::Unknown };
    let creates = report.job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::Initdb | JobKind::Clone));
    if creates || report.data == Data::Empty {
        return State::Creating;
    }
    match (&report.server, facts) {
        (Server::Stopped { .. }, _) => State::Stopped,
        (Server::Stopping | Server::Dying, _) => State::Stopping,
        (Server::Starting, _) | (Server::Standby { .. } | Server::Primary { .. }, None) => State::Starting,
        (Server::Standby { following: Some(_), .. }, Some(facts)) if facts.streaming => State::Streaming,
        (Server::Standby { .. } | Server::Primary { .. }, Some(_)) => State::Running,
    }
}

fn doing(summary: &Summary, report: Option<&Report>) -> String {
    let job = report.and_then(|report| report.job.as_ref()).and_then(|job| job.progress.as_ref());
    match job {
        Some(progress) => format!("{}: {progress}", summary.doing),
        None => summary.doing.clone(),
    }
}

fn position(report: Option<&Report>, facts: &Facts) -> Option<WalPosition> {
    let timeline: Timeline = match (report.map(|report| &report.server), facts.in_recovery) {
        (Some(Server::Primary { timeline, .. }), false) => *timeline,
        (_, true) => facts.received_timeline?,
        _ => return None,
    };
    Some(WalPosition { timeline, lsn: flushed(facts) })
}

fn lag(facts: &Facts, state: State) -> Option<Lag> {
    let replayed = facts.replayed.filter(|_| facts.in_recovery)?;
    let end = facts.upstream_end.max(facts.received).unwrap_or(replayed);
    let bytes = end.bytes_since(replayed);
    // Without a stream nobody knows what else there is to replay.
    let seconds = match bytes {
        0 if state == State::Streaming => 0.0,
        _ => facts.replayed_age.unwrap_or(0.0),
    };
    Some(Lag { bytes, seconds })
}

fn xlog(facts: &Facts) -> Xlog {
    match facts.in_recovery {
        false => Xlog { location: facts.flushed.map(|lsn| lsn.0), ..Xlog::default() },
        true => Xlog {
            location: None,
            received_location: Some(flushed(facts).0),
            replayed_location: facts.replayed.map(|lsn| lsn.0),
            replayed_timestamp: facts.replayed_at,
            paused: Some(facts.paused),
        },
    }
}
