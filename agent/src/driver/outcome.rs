//! Notes what came of the work that was begun.

use std::time::Duration;

use proto::{
    clock::BootTime,
    ha::{
        lease::LeaseVersion,
        question::{Question, Relay, Reply},
        view::{RelayReply, SealedEnd, Verified},
    },
    identity::{Epoch, Ordinal, RunId},
    postgres::Lsn,
    wire::supervisor::{Answer, Order, Refusal, ServerConfig},
};
use tokio::sync::oneshot;

use super::Driver;
use crate::{
    boot_clock, chain::Chain, lease::Request, link::OrderError, passwords::Verifiers, peer::client::AskError,
    pods::PodError, sql::SqlError,
};

/// A server that could not set the passwords is busy opening, or closing.
const PASSWORDS_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Names what may be under way only once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// An order of this kind.
    Order(&'static str),
    /// A survey question to a member.
    Survey(Ordinal),
    /// A seal question to a member.
    Seal(Ordinal),
    /// A renewal to be relayed by a member.
    Relay(Ordinal),
    /// A configuration.
    Configure,
    /// A probe of synchronous commits.
    Probe,
    /// A local write.
    Verify,
    /// A checkpoint.
    Checkpoint,
    /// Making slots.
    Slots,
    /// Moving slots.
    AdvanceSlots,
    /// Dropping a slot.
    DropSlot(Ordinal),
    /// The own label.
    Label,
    /// Other pods' labels.
    StaleLabels,
    /// Passwords.
    Passwords,
}

/// How work ended.
pub(super) enum Outcome {
    /// An order of the core.
    Ordered { work: Work, order: Order, at: BootTime, result: Result<Answer, OrderError> },
    /// An order on behalf of a peer's question.
    Questioned {
        question: Question,
        at: BootTime,
        result: Result<Answer, OrderError>,
        reply: oneshot::Sender<Reply>,
    },
    /// A peer's renewal was to be relayed.
    Relayed { relay: Box<Relay>, shown: Option<LeaseVersion>, reply: oneshot::Sender<Reply> },
    /// A question to a peer.
    Asked { work: Work, member: Ordinal, question: Question, result: Result<Reply, AskError> },
    /// A configuration.
    Configured { run: RunId, config: ServerConfig, result: Result<Answer, OrderError> },
    /// Whether commits wait.
    Probed(Result<bool, SqlError>),
    /// A local write.
    Wrote { at: BootTime, epoch: Epoch, names: String, result: Result<Option<Lsn>, SqlError> },
    /// Other SQL.
    Sql(Work, Result<(), SqlError>),
    /// Passwords.
    PasswordsSet { epoch: Epoch, verifiers: Verifiers, result: Result<(), SqlError> },
    /// Labels.
    Labelled(Work, Result<(), PodError>),
}

impl Driver {
    /// Notes an outcome.
    pub(super) fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ordered { work, order, at, result } => {
                self.busy.remove(&work);
                self.note_ordered(&order, at, result.as_ref());
            }
            Outcome::Questioned { question, at, result, reply } => {
                self.note_questioned(&question, at, result, reply);
            }
            Outcome::Relayed { relay, shown, reply } => self.note_relayed(&relay, shown, reply),
            Outcome::Asked { work, member, question, result } => {
                self.busy.remove(&work);
                self.note_asked(member, &question, result);
            }
            Outcome::Configured { run, config, result } => {
                self.busy.remove(&Work::Configure);
                self.note_configured(run, config, result);
            }
            Outcome::Probed(result) => {
                self.busy.remove(&Work::Probe);
                self.note_probed(result);
            }
            Outcome::Wrote { at, epoch, names, result } => {
                self.busy.remove(&Work::Verify);
                self.note_wrote(at, epoch, names, result);
            }
            Outcome::Sql(work, result) => {
                self.busy.remove(&work);
                self.hands.hurry.notify_one();
                if let Err(error) = result {
                    tracing::warn!(error = %Chain(&error), ?work, "failed; it will be tried again");
                }
            }
            Outcome::PasswordsSet { epoch, verifiers, result } => {
                self.busy.remove(&Work::Passwords);
                match result {
                    Ok(()) => self.passwords_set = Some((epoch, verifiers)),
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), "the passwords could not be set");
                        self.passwords_retry_at = boot_clock::now() + PASSWORDS_RETRY_AFTER;
                    }
                }
            }
            Outcome::Labelled(work, result) => {
                self.busy.remove(&work);
                if let Err(error) = result {
                    tracing::warn!(error = %Chain(&error), "a label could not be set; it will be tried again");
                }
            }
        }
    }

    fn note_ordered(&mut self, order: &Order, at: BootTime, result: Result<&Answer, &OrderError>) {
        match result {
            Ok(answer) => self.note_end_of_wal(order, at, answer),
            Err(OrderError::Refused(Refusal { transient: true, message })) => {
                tracing::debug!(?order, %message, "the supervisor says: not yet");
            }
            Err(error) => tracing::warn!(?order, error = %Chain(error), "an order was not carried out"),
        }
    }

    fn note_end_of_wal(&mut self, order: &Order, at: BootTime, answer: &Answer) {
        match (order, answer) {
            (Order::Seal { epoch }, Answer::Sealed(position)) => {
                self.wal.sealed = Some(SealedEnd { epoch: *epoch, position: *position, at });
            }
            (Order::EndOfWal, Answer::EndOfWal(position)) => self.wal.end = Some((at, *position)),
            _ => {}
        }
    }

    fn note_questioned(
        &mut self,
        question: &Question,
        at: BootTime,
        result: Result<Answer, OrderError>,
        reply: oneshot::Sender<Reply>,
    ) {
        if let (Ok(answer), Question::Seal { epoch, .. }) = (&result, question) {
            self.note_end_of_wal(&Order::Seal { epoch: *epoch }, at, answer);
        }
        let result = result.map_err(|error| match error {
            OrderError::Refused(refusal) => refusal,
            error => Refusal { transient: true, message: error.to_string() },
        });
        let view = self.view(boot_clock::now());
        // The asker may have given up.
        let _ = reply.send(proto::ha::conclude(&view, question, &result));
    }

    fn note_relayed(&mut self, relay: &Relay, shown: Option<LeaseVersion>, reply: oneshot::Sender<Reply>) {
        let view = self.view(boot_clock::now());
        let (memory, answer) = proto::ha::conclude_relay(&self.memory, &view, relay, shown);
        self.memory = memory;
        self.count_relayed(relay, &answer);
        let epoch = relay.renewal.contents.epoch;
        match &answer {
            Reply::Promised { .. } => tracing::warn!(
                %epoch, span = ?relay.span,
                "neither the primary nor this member can write the Lease: promised to wait"
            ),
            answer => {
                tracing::info!(%epoch, ?answer, "the primary cannot write the Lease and asked to relay");
            }
        }
        // The asker may have given up.
        drop(reply.send(answer));
    }

    fn count_relayed(&self, relay: &Relay, answer: &Reply) {
        match answer {
            Reply::Promised { .. } => self.hands.metrics.promised(),
            Reply::Shown(version) if relay.renewal.has_landed(version) => self.hands.metrics.relayed(),
            _ => {}
        }
    }

    fn note_asked(&mut self, member: Ordinal, question: &Question, result: Result<Reply, AskError>) {
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => {
                return tracing::debug!(error = %Chain(&error), ?question, "a member did not answer");
            }
        };
        tracing::debug!(%member, ?question, ?reply, "a member answered");
        let replies = self.peers.entry(member).or_default();
        match question {
            Question::Survey { id, .. } => replies.survey = Some((*id, reply)),
            Question::Seal { epoch, .. } => replies.seal = Some((*epoch, reply)),
            Question::Relay(relay) => {
                replies.relay = Some(RelayReply::new(relay, reply.clone()));
                if let Reply::Shown(version) = reply {
                    self.hands.lease.send(Request::Shown(*version, relay.asked_at));
                }
            }
        }
    }

    fn note_probed(&mut self, result: Result<bool, SqlError>) {
        self.hands.hurry.notify_one();
        match result {
            Ok(true) => {
                self.commits_wait =
                    self.inputs.reading.borrow().facts.as_ref().map(|(_, facts)| facts.started);
            }
            Ok(false) => self.commits_wait = None,
            Err(error) => tracing::warn!(error = %Chain(&error), "cannot see whether commits wait"),
        }
    }

    fn note_wrote(
        &mut self,
        at: BootTime,
        epoch: Epoch,
        names: String,
        result: Result<Option<Lsn>, SqlError>,
    ) {
        self.hands.hurry.notify_one();
        match result {
            Ok(Some(lsn)) => self.verified = Some(Verified { epoch, names, lsn, at }),
            Ok(None) => tracing::debug!(%names, "the server does not show these synchronous names yet"),
            Err(error) => tracing::warn!(error = %Chain(&error), "the local write failed"),
        }
    }
}
