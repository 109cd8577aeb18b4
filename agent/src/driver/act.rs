//! Begins what the core decided. Each action is an intent: one that fails is decided again.

use std::{sync::Arc, time::Duration};

use proto::{
    ha::{
        self,
        action::{Action, Event},
        question::Question,
        sync_names::SyncNames,
    },
    identity::Ordinal,
    pod::{APP_ROLE, REPLICATION_ROLE},
    wire::{
        http::Role,
        supervisor::{Initdb, Order},
    },
};

use super::{
    Driver,
    outcome::{Outcome, Work},
};
use crate::{boot_clock, journal::Entry, lease::Request, link::Contact, pods::PodError, sql::acts};

/// A survey or seal: the other side may need to end a WAL receiver and read the end of WAL, which takes tens of
/// milliseconds; one that needs longer than this is asked again.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// A renewal to be relayed is answered when the other side has tried for its time; the way there and back takes no
/// longer than this, a handshake included. One that is lost must be asked again before the fence.
const RELAY_SLACK: Duration = Duration::from_millis(500);

impl Driver {
    /// Begins one action.
    pub(super) fn begin(&mut self, action: Action) {
        match action {
            Action::ReadLease => {
                self.hands.lease.send(Request::Refresh);
            }
            Action::WriteLease(write) => {
                let id = write.contents().write_id;
                if self.hands.lease.send(Request::Write(write)) {
                    self.writing = Some(id);
                }
            }
            Action::Ask { member, question } => self.ask(member, question),
            Action::Order(order) => self.order(order),
            Action::Initdb => self.initdb(),
            Action::SetSynchronousNames(names) => self.set_names(names),
            Action::ProbeSyncWait => {
                let socket = Arc::clone(&self.hands.socket_directory);
                self.spawn(Work::Probe, async move { Outcome::Probed(acts::commits_wait(&socket).await) });
            }
            Action::VerifyLocalWrite { epoch, names } => {
                let socket = Arc::clone(&self.hands.socket_directory);
                let at = boot_clock::now();
                self.spawn(Work::Verify, async move {
                    let result = acts::verify_local_write(&socket, epoch, &names).await;
                    Outcome::Wrote { at, epoch, names, result }
                });
            }
            Action::Checkpoint { .. } => {
                let socket = Arc::clone(&self.hands.socket_directory);
                self.spawn(Work::Checkpoint, async move {
                    Outcome::Sql(Work::Checkpoint, acts::checkpoint(&socket).await)
                });
            }
            Action::EnsureSlots(members) => {
                let socket = Arc::clone(&self.hands.socket_directory);
                self.spawn(Work::Slots, async move {
                    Outcome::Sql(Work::Slots, acts::ensure_slots(&socket, &members).await)
                });
            }
            Action::DropSlot(member) => {
                let socket = Arc::clone(&self.hands.socket_directory);
                let work = Work::DropSlot(member);
                self.spawn(work, async move { Outcome::Sql(work, acts::drop_slot(&socket, member).await) });
            }
            Action::SetRole(role) => self.set_role(role),
            Action::ClearStaleLabels => self.clear_stale_labels(),
            Action::Emit(event) => self.tell(&event),
        }
    }

    fn ask(&mut self, member: Ordinal, question: Question) {
        let timing = self.inputs.config.borrow().profile.timing();
        let (work, limit) = match question {
            Question::Survey { .. } => (Work::Survey(member), QUESTION_TIMEOUT),
            Question::Seal { .. } => (Work::Seal(member), QUESTION_TIMEOUT),
            Question::Relay(_) => (Work::Relay(member), ha::relay_for(&timing) + RELAY_SLACK),
        };
        let peers = self.hands.peers.clone();
        self.spawn(work, async move {
            let result = peers.ask(member, &question, limit).await;
            Outcome::Asked { work, member, question, result }
        });
    }

    pub(super) fn order(&mut self, order: Order) {
        let work = Work::Order(name(&order));
        if self.busy.contains(&work) {
            return;
        }
        let at = boot_clock::now();
        // Handed over here, not in the task: orders keep their order.
        let answer = self.hands.link.begin(order.clone());
        self.spawn(work, async move { Outcome::Ordered { work, order, at, result: answer.wait().await } });
    }

    fn initdb(&mut self) {
        let (superuser_verifier, app_verifier) = {
            let verifiers = self.inputs.verifiers.borrow();
            (verifiers.superuser.clone(), verifiers.app.clone())
        };
        let app_database = self.inputs.config.borrow().app_database.clone();
        self.order(Order::Initdb(Initdb {
            superuser_verifier,
            app_verifier,
            app_role: APP_ROLE.to_owned(),
            app_database,
            replication_role: REPLICATION_ROLE.to_owned(),
        }));
    }

    fn set_names(&mut self, names: SyncNames) {
        if names == SyncNames::Off {
            self.commits_wait = None;
        }
        self.configuring.set_names(names);
        let contact = self.inputs.contact.borrow().clone();
        if let Contact::Up { report } = contact {
            self.configure(&report);
        }
    }

    fn set_role(&mut self, role: Role) {
        let pods = self.hands.pods.clone();
        let until = self.summary.lease_valid_until;
        self.spawn(Work::Label, async move {
            // L3: the deadline is looked at again right before the effect.
            let late = role == Role::Primary && until.is_none_or(|until| boot_clock::now() >= until);
            let result = if late { Err(PodError::TooLate) } else { pods.set_role(role).await };
            Outcome::Labelled(Work::Label, result)
        });
    }

    fn clear_stale_labels(&mut self) {
        let pods = self.hands.pods.clone();
        let until = self.summary.lease_valid_until;
        self.spawn(Work::StaleLabels, async move {
            let late = until.is_none_or(|until| boot_clock::now() >= until);
            let result = if late { Err(PodError::TooLate) } else { pods.clear_stale_primaries().await };
            Outcome::Labelled(Work::StaleLabels, result)
        });
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::TookOver(taken) => {
                // The first primary of a Database takes over from nobody.
                if taken.from.is_some() {
                    self.hands.metrics.took_over(taken.planned, taken.duration.as_secs_f64());
                }
                self.last_takeover = Some(super::show::takeover(taken, &self.me.database));
            }
            Event::Recloning { .. } => self.hands.metrics.recloning(),
            Event::SwitchoverFailed { id, why } => self.switchover_ended(*id, Err(why.clone())),
            Event::SwitchoverReleased { id } => self.switchover_ended(*id, Ok(())),
            Event::SteppedDown { .. }
            | Event::DurabilityLost { .. }
            | Event::DurabilityRestored
            | Event::LossAccepted { .. } => {}
        }
        self.hands.journal.note(Entry::of(event, &self.me.database));
    }
}

/// The kind of an order: at most one of each kind is under way.
fn name(order: &Order) -> &'static str {
    match order {
        Order::Report => "report",
        Order::Arm { .. } => "arm",
        Order::Configure(_) => "configure",
        Order::Initdb(_) => "initdb",
        Order::Clone { .. } => "clone",
        Order::Rewind { .. } => "rewind",
        Order::Start => "start",
        Order::Follow { .. } => "follow",
        Order::Seal { .. } => "seal",
        Order::EndOfWal => "end of WAL",
        Order::Promote { .. } => "promote",
        Order::Stop { .. } => "stop",
        Order::Kill => "kill",
        Order::Exit => "exit",
    }
}
