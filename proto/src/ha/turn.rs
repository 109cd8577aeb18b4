//! One decision in the making: what is known, what has been decided so far, and the pacing of repetition.

use std::{collections::BTreeSet, time::Duration};

use super::{
    action::{Action, Summary},
    configuration::Electorate,
    lease::LeaseWrite,
    memory::{Memory, OrderKind, Paced, PendingWrite},
    question::{Question, SurveyId},
    view::View,
    volume,
};
use crate::{
    identity::{Epoch, Ordinal},
    wire::{
        http::Role,
        supervisor::{JobKind, Order},
    },
};

/// A write without an answer is tried again after this: short enough for several tries before F.
const WRITE_RETRY: Duration = Duration::from_millis(250);
/// A question without an answer is asked again after this.
const ASK_RETRY: Duration = Duration::from_millis(250);
/// An order whose effect no report shows yet is repeated after this.
const ORDER_RETRY: Duration = Duration::from_secs(1);
/// An order is not repeated within this, even if a newer report does not show its effect yet.
const ORDER_GAP: Duration = Duration::from_millis(200);
/// A job that failed is tried again after this.
const JOB_RETRY: Duration = Duration::from_secs(2);

/// One decision in the making.
pub(super) struct Turn<'a> {
    pub(super) memory: Memory,
    pub(super) view: &'a View,
    pub(super) actions: Vec<Action>,
    pub(super) summary: Summary,
}

impl<'a> Turn<'a> {
    pub(super) fn new(memory: &Memory, view: &'a View) -> Self {
        let summary = Summary {
            role: Role::None,
            epoch: view.lease_epoch(),
            leader: None,
            doing: String::new(),
            durable: None,
            failover_blocked: None,
            lease_valid_until: None,
            by_promise: false,
        };
        Self { memory: memory.clone(), view, actions: Vec::new(), summary }
    }

    /// Whether `what` was last done at least `every` ago; if so it counts as done now.
    pub(super) fn due(&mut self, what: Paced, every: Duration) -> bool {
        let now = self.view.now;
        let due = self.memory.paced.get(&what).is_none_or(|last| now >= *last + every);
        if due {
            self.memory.paced.insert(what, now);
        }
        due
    }

    /// What is under way, for people.
    pub(super) fn doing(&mut self, phrase: impl Into<String>) {
        self.summary.doing = phrase.into();
    }

    /// Reads the Lease unless that was done within `every`.
    pub(super) fn read(&mut self, every: Duration) {
        if !self.view.lease.busy && self.due(Paced::Read, every) {
            self.actions.push(Action::ReadLease);
        }
    }

    /// Writes the Lease if no request is under way; says whether it did.
    pub(super) fn write(&mut self, write: LeaseWrite) -> bool {
        if self.view.lease.busy || !self.due(Paced::Write, WRITE_RETRY) {
            return false;
        }
        self.remember(&write);
        self.actions.push(Action::WriteLease(write));
        true
    }

    /// Takes note of a write that goes out now and may land from now on.
    pub(super) fn remember(&mut self, write: &LeaseWrite) {
        let contents = write.contents();
        self.memory.writes.push(PendingWrite {
            id: contents.write_id,
            at: self.view.now,
            basis: write.basis().cloned(),
            holder: contents.holder.clone(),
        });
        let Some(basis) = write.basis() else { return };
        let electorate = Electorate::of(&contents.document);
        match &mut self.memory.electorates {
            Some((version, known)) if version == basis => drop(known.insert(electorate)),
            other => *other = Some((basis.clone(), BTreeSet::from([electorate]))),
        }
    }

    /// Asks a member for the end of its WAL, unless it was asked a moment ago.
    pub(super) fn survey(&mut self, member: Ordinal, id: SurveyId, expired: bool) {
        if self.due(Paced::Survey(member), ASK_RETRY) {
            self.actions.push(Action::Ask { member, question: Question::Survey { id, expired } });
        }
    }

    /// Asks a member to seal, unless it was asked a moment ago.
    pub(super) fn seal(&mut self, member: Ordinal, epoch: Epoch, expired: bool) {
        if self.due(Paced::Seal(member), ASK_RETRY) {
            self.actions.push(Action::Ask { member, question: Question::Seal { epoch, expired } });
        }
    }

    /// Gives the supervisor an order, unless it was given a moment ago, or is a job while another runs.
    pub(super) fn order(&mut self, order: Order) {
        let kind = kind_of(&order);
        if self.may_order(kind) {
            self.memory.paced.insert(Paced::Order(kind), self.view.now);
            self.actions.push(match order {
                Order::Initdb(_) => Action::Initdb,
                order => Action::Order(order),
            });
        }
    }

    /// Orders an initdb.
    pub(super) fn order_initdb(&mut self) {
        if self.may_order(OrderKind::Initdb) {
            self.memory.paced.insert(Paced::Order(OrderKind::Initdb), self.view.now);
            self.actions.push(Action::Initdb);
        }
    }

    fn may_order(&self, kind: OrderKind) -> bool {
        let Some(report) = self.view.report() else { return false };
        let now = self.view.now;
        let fresh =
            self.memory.paced.get(&Paced::Order(kind)).is_none_or(|last| {
                now >= *last + ORDER_RETRY || (report.at > *last && now >= *last + ORDER_GAP)
            });
        let Some(job) = job_of(kind) else { return fresh };
        // What was killed because the volume hangs must not start on it again before it answers.
        if job != JobKind::Stop && volume::hangs(self.view) {
            return false;
        }
        let failed = report
            .last_job
            .as_ref()
            .is_some_and(|last| last.kind == job && last.error.is_some() && now < last.at + JOB_RETRY);
        fresh && kind == OrderKind::Kill || fresh && report.job.is_none() && !failed
    }
}

fn kind_of(order: &Order) -> OrderKind {
    match order {
        Order::Report | Order::Configure(_) | Order::EndOfWal => OrderKind::EndOfWal,
        Order::Arm { .. } => OrderKind::Arm,
        Order::Initdb(_) => OrderKind::Initdb,
        Order::Clone { .. } => OrderKind::Clone,
        Order::Rewind { .. } => OrderKind::Rewind,
        Order::Start => OrderKind::Start,
        Order::Follow { .. } => OrderKind::Follow,
        Order::Seal { .. } => OrderKind::Seal,
        Order::Promote { .. } => OrderKind::Promote,
        Order::Stop { .. } => OrderKind::Stop,
        Order::Kill => OrderKind::Kill,
        Order::Exit => OrderKind::Exit,
    }
}

fn job_of(kind: OrderKind) -> Option<JobKind> {
    match kind {
        OrderKind::Initdb => Some(JobKind::Initdb),
        OrderKind::Clone => Some(JobKind::Clone),
        OrderKind::Rewind => Some(JobKind::Rewind),
        OrderKind::Start => Some(JobKind::Start),
        OrderKind::Promote => Some(JobKind::Promote),
        OrderKind::Stop | OrderKind::Kill => Some(JobKind::Stop),
        OrderKind::Arm | OrderKind::Follow | OrderKind::Seal | OrderKind::EndOfWal | OrderKind::Exit => None,
    }
}
