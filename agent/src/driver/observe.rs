//! Assembles the view: plain data from what the tasks know. Nothing is judged here.

use jiff::Timestamp;
use proto::{
    clock::BootTime,
    ha::{
        lease::WriteId,
        view::{LeaseView, SqlFacts, Standby, Supervisor, View},
    },
    pod::slot_member,
    postgres::Lsn,
    wire::supervisor::Server,
};

use super::Driver;
use crate::{
    lease::Outcome,
    link::Contact,
    sql::{Reading, facts::Facts},
};

impl Driver {
    /// Everything known at `now`.
    pub(super) fn view(&mut self, now: BootTime) -> View {
        let supervisor = match &*self.inputs.contact.borrow_and_update() {
            Contact::NotYet | Contact::Broken { dead: None, .. } => Supervisor::Unknown,
            Contact::Broken { dead: Some(_), .. } => Supervisor::Dead,
            Contact::Up { report } => Supervisor::Reported(report.clone()),
        };
        let pod = *self.inputs.pod.borrow_and_update();
        let config = self.inputs.config.borrow_and_update().clone();
        View {
            now,
            started_at: self.started_at,
            me: (*self.me).clone(),
            config,
            lease: self.lease_view(),
            sql: self.sql_facts(&supervisor),
            supervisor,
            wal: self.wal.clone(),
            peers: self.peers.clone(),
            label: pod.role,
            deletion_requested: pod.deleting,
            switchover: self.switchover.as_ref().map(|pending| pending.request),
        }
    }

    /// Notes how the write under way ended, if it did.
    pub(super) fn note_lease(&mut self) {
        let state = self.inputs.lease.borrow_and_update();
        if let Some(end) = &state.last_write
            && self.writing == Some(end.id)
            && end.outcome != Outcome::Doubtful
        {
            self.writing = None;
            if end.outcome == Outcome::Landed {
                self.hands.metrics.lease_written(state.latency.as_secs_f64());
            }
        }
    }

    fn lease_view(&mut self) -> LeaseView {
        // Wall-clock time only names the write; nobody reads it as a time (W2).
        let next = WriteId(Timestamp::now().as_microsecond().max(self.last_write_id.0 + 1));
        self.last_write_id = next;
        let state = self.inputs.lease.borrow();
        let refused = state.last_write.as_ref().filter(|end| end.outcome == Outcome::Refused);
        LeaseView {
            sighting: state.sighting.clone(),
            busy: self.writing.is_some(),
            refused: refused.map(|end| end.id),
            next_write: next,
        }
    }

    fn sql_facts(&mut self, supervisor: &Supervisor) -> Option<SqlFacts> {
        let serves = match supervisor {
            Supervisor::Dead => false,
            Supervisor::Unknown => true,
            Supervisor::Reported(report) => !matches!(report.server, Server::Stopped { .. } | Server::Dying),
        };
        let reading = self.inputs.reading.borrow_and_update();
        let (asked, facts) = reading.facts.as_ref().filter(|_| serves)?;
        if facts.in_recovery || facts.synchronous_standby_names.is_empty() {
            self.commits_wait = None;
        }
        let waits = self.commits_wait == Some(facts.started);
        Some(translate(&reading, *asked, facts, waits, self.verified.clone()))
    }
}

fn translate(
    reading: &Reading,
    asked: BootTime,
    facts: &Facts,
    commits_wait: bool,
    verified: Option<proto::ha::view::Verified>,
) -> SqlFacts {
    let standbys = facts.replication.iter().filter_map(|row| {
        let standby = Standby {
            ordinal: facts.users.get(&row.application_name).and_then(|slot| slot_member(slot)),
            streaming: row.state == "streaming",
            flushed: row.flush_lsn.unwrap_or_default(),
        };
        Some((row.application_name.parse().ok()?, standby))
    });
    SqlFacts {
        at: asked,
        in_recovery: facts.in_recovery,
        flushed: flushed(facts),
        names: facts.synchronous_standby_names.clone(),
        commits_wait,
        verified,
        checkpoint_timeline: facts.checkpoint_timeline,
        standbys: standbys.collect(),
        // One that has lost its WAL serves nobody; it is made anew.
        slots: facts
            .slots
            .iter()
            .filter(|slot| !slot.lost)
            .filter_map(|slot| slot_member(&slot.name))
            .collect(),
        works_at: reading.works_at,
    }
}

/// A standby that has not streamed since it started knows no received position, but what it has replayed lies on
/// its disk.
pub(super) fn flushed(facts: &Facts) -> Lsn {
    match facts.in_recovery {
        false => facts.flushed.unwrap_or_default(),
        true => facts.received.max(facts.replayed).unwrap_or_default(),
    }
}
