//! Requests from outside: questions of peers, and people who want another leader.

use proto::{
    ha::{
        self,
        question::{Question, Reply},
        view::SwitchoverRequest,
    },
    identity::Ordinal,
    pod::pod_ordinal,
    wire::{
        http::Role,
        peer::{Accepted, Switchover},
    },
};
use tokio::sync::oneshot;

use super::{Driver, outcome::Outcome};
use crate::{
    boot_clock,
    peer::server::{Incoming, SwitchoverRefusal},
};

type SwitchoverReply = oneshot::Sender<Result<Accepted, SwitchoverRefusal>>;

/// A switchover that the core works on.
pub(super) struct PendingSwitchover {
    pub(super) request: SwitchoverRequest,
    reply: SwitchoverReply,
}

impl Driver {
    /// Takes a request.
    pub(super) fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Question(question, reply) => self.answer(question, reply),
            Incoming::Switchover(wish, reply) => self.begin_switchover(&wish, reply),
        }
    }

    fn answer(&mut self, question: Question, reply: oneshot::Sender<Reply>) {
        let view = self.view(boot_clock::now());
        let (memory, response) = ha::answer(&self.memory, &view, &question);
        self.memory = memory;
        match response {
            // The asker may have given up.
            ha::Response::Reply(answer) => drop(reply.send(answer)),
            ha::Response::Relay(relay) => {
                let limit = ha::relay_for(&view.config.profile.timing());
                let relayer = self.hands.relayer.clone();
                self.tasks.spawn(async move {
                    let shown = relayer.relay(&relay.renewal, limit).await;
                    Outcome::Relayed { relay, shown, reply }
                });
            }
            ha::Response::Order(order) => {
                let at = boot_clock::now();
                let answer = self.hands.link.begin(order);
                self.tasks.spawn(async move {
                    Outcome::Questioned { question, at, result: answer.wait().await, reply }
                });
            }
        }
    }

    fn begin_switchover(&mut self, wish: &Switchover, reply: SwitchoverReply) {
        match self.check_switchover(wish) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(to) => {
                let id = boot_clock::now().0;
                self.switchover = Some(PendingSwitchover { request: SwitchoverRequest { id, to }, reply });
            }
        }
    }

    fn check_switchover(&self, wish: &Switchover) -> Result<Option<Ordinal>, SwitchoverRefusal> {
        let misdirected = |why: String| Err(SwitchoverRefusal::Misdirected(why));
        if self.summary.role != Role::Primary {
            let leader = self.summary.leader.map_or("nobody".to_owned(), |leader| self.pod_name(leader));
            return misdirected(format!("{} does not lead, {leader} does; ask that member", self.me.pod));
        }
        if let Some(leader) = wish.leader.as_ref().filter(|leader| **leader != self.me.pod) {
            return misdirected(format!("{leader} does not lead, {} does", self.me.pod));
        }
        if self.switchover.as_ref().is_some_and(|pending| !pending.reply.is_closed()) {
            return Err(SwitchoverRefusal::NotPossible("another switchover is under way".to_owned()));
        }
        let Some(candidate) = &wish.candidate else { return Ok(None) };
        match pod_ordinal(candidate).filter(|ordinal| self.pod_name(*ordinal) == *candidate) {
            Some(ordinal) if ordinal == self.me.ordinal => misdirected(format!("{candidate} leads already")),
            Some(ordinal) => Ok(Some(ordinal)),
            None => misdirected(format!("{candidate:?} is not a pod of Database {}", self.me.database)),
        }
    }

    /// Tells whoever asked what became of it.
    pub(super) fn switchover_ended(&mut self, id: u64, result: Result<(), String>) {
        let Some(pending) = self.switchover.take_if(|pending| pending.request.id == id) else { return };
        let message = match pending.request.to {
            Some(to) => {
                format!("{} has stopped and released; {} is preferred", self.me.pod, self.pod_name(to))
            }
            None => format!("{} has stopped and released", self.me.pod),
        };
        let answer = result.map(|()| Accepted { message }).map_err(SwitchoverRefusal::NotPossible);
        // Whoever asked may have given up.
        drop(pending.reply.send(answer));
    }

    pub(super) fn pod_name(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.me.database)
    }
}
