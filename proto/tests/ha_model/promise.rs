//! The API server away: renewals that others write, and promises (docs/ha.md section 6).
//!
//! What counts is the order of a few moments, in *ticks*: when a fence's renewal or promises were decided or asked
//! for, when a version was first seen, when a promise was given, when an agent started. With honest clocks L after a
//! moment comes after K after any earlier one; [`World::elapse`] is that.

use std::time::Duration;

use proto::{
    ha::{
        self,
        memory::Memory,
        question::{Question, Relay, Reply},
        view::{RelayReply, Supervisor, View},
    },
    identity::{Epoch, Ordinal},
    wire::supervisor::Data,
};

use crate::{
    Rules,
    agent::version,
    ages::{self, Pace},
    mutants::Mutant,
    world::{Api, InFlight, Node, Seen, World},
};

impl World {
    /// A primary whose renewals do not land asks the others.
    pub(crate) fn ask_to_relay(&mut self, rules: &Rules, node: usize) {
        self.asks += 1;
        self.tick += 1;
        self.think(rules, node, Pace::Late);
    }

    /// A member tries to write another's renewal, and says what came of it.
    pub(crate) fn relay(&mut self, rules: &Rules, member: usize, relay: &Relay) -> Reply {
        let api = self.nodes[member].api;
        let exists = self.lease.version > 0 && api != Api::Away;
        let write = relay.renewal.judge(&version(rules, &self.lease));
        if let Some(write) = write.filter(|_| exists && api == Api::Answers) {
            let basis = write.basis().map(|version| version.0.parse().unwrap());
            self.land(rules, InFlight { basis, contents: write.contents().clone() });
            self.journal.relayed = true;
        }
        let shown = exists.then(|| version(rules, &self.lease));
        let (memory, view) = self.as_shown(rules, member, relay.renewal.contents.epoch);
        let (concluded, reply) = ha::conclude_relay(&memory, &view, relay, shown);
        if let (Reply::Promised { .. }, Some(promise)) = (&reply, concluded.promise) {
            let until = ages::bound_until(self.tick);
            self.nodes[member].agent.memory.promise = Some(ha::memory::Promise { until, ..promise });
            self.journal.promised = true;
            // A renewal from now on is younger than this promise.
            self.tick += 1;
        }
        reply
    }

    /// What a member that is asked to relay knows, or is made to believe.
    pub(crate) fn as_shown(&self, rules: &Rules, member: usize, epoch: Epoch) -> (Memory, View) {
        let (mut memory, mut view) = (self.nodes[member].agent.memory.clone(), self.view(rules, member));
        if rules.is(Mutant::SealedPromises)
            && let Supervisor::Reported(report) = &mut view.supervisor
            && let Data::Present(durable) = &mut report.data
        {
            durable.sealed = durable.sealed.min(epoch);
            memory.seal_ordered = memory.seal_ordered.min(epoch);
        }
        (memory, view)
    }

    /// The reply reaches the primary.
    pub(crate) fn note_relay(
        &mut self,
        rules: &Rules,
        asker: usize,
        member: usize,
        relay: &Relay,
        reply: Reply,
    ) {
        if matches!(reply, Reply::Shown(_)) && !self.is_current(&self.nodes[asker].agent.seen) {
            let stored = self.lease.clone();
            self.nodes[asker].agent.seen = Seen::Version { stored, expired: false, since: self.tick };
        }
        let ids: Vec<_> = self.nodes.iter().map(|node| node.disk.as_ref().map(|disk| disk.data_id)).collect();
        let forges = rules.is(Mutant::PromiseOfOne) && matches!(reply, Reply::Promised { .. });
        let peers = &mut self.nodes[asker].agent.peers;
        let mut note = |member: usize, reply| {
            let peer = peers.entry(Ordinal(u8::try_from(member).unwrap())).or_default();
            peer.relay = Some(RelayReply::new(relay, reply));
        };
        note(member, reply);
        for (other, id) in ids.into_iter().enumerate().filter(|(other, _)| forges && *other != asker) {
            if let Some(data_id) = id {
                note(other, Reply::Promised { data_id });
            }
        }
    }

    /// L has passed since this moment. With honest clocks K has, for every fence that counts from it or before.
    pub(crate) fn elapse(&mut self, rules: &Rules, since: u8) {
        for node in 0..self.nodes.len() {
            if rules.honest && self.counts_from(node).is_some_and(|from| from <= since) {
                self.fence(rules, node);
            }
        }
    }

    /// The tick that a member's deadlines count from, if it has any.
    fn counts_from(&self, node: usize) -> Option<u8> {
        let Node { life, agent, .. } = &self.nodes[node];
        let held =
            agent.memory.tenure.as_ref().map(|tenure| ages::tick_of(tenure.counts_from(Duration::ZERO)));
        life.fence.map(|_| life.armed).or(held)
    }

    /// A promise is over.
    pub(crate) fn promise_ends(&mut self, rules: &Rules, node: usize) -> Option<()> {
        let promise = self.nodes[node].agent.memory.promise.take()?;
        if !rules.is(Mutant::PromiseTooShort) {
            self.elapse(rules, ages::given_at(promise.until));
        }
        self.think(rules, node, Pace::Usual);
        Some(())
    }

    /// An agent started longer ago than any promise lasts (L4).
    pub(crate) fn mature(&mut self, rules: &Rules, node: usize) -> Option<()> {
        let started = self.nodes[node].agent.young.take()?;
        self.elapse(rules, started);
        self.think(rules, node, Pace::Usual);
        Some(())
    }
}

/// The name of the write in a question, if there is one.
pub(crate) fn write_in(question: &Question) -> Option<ha::lease::WriteId> {
    match question {
        Question::Relay(relay) => Some(relay.renewal.contents.write_id),
        Question::Survey { .. } | Question::Seal { .. } => None,
    }
}
