//! What the driver of an agent does: makes the view, asks the shipped core, carries its actions out.

use std::collections::BTreeMap;

use proto::{
    clock::BootTime,
    ha::{
        self, Response,
        action::{Action, Event},
        configuration::Configuration,
        lease::{HolderField, LeaseVersion, LeaseWrite, Observed, Recorded, ResourceVersion, Sighting},
        memory::Paced,
        profile::Profile,
        question::{Question, Relay},
        sync_names::SyncNames,
        view::{LeaseView, Me, PeerReplies, SealedEnd, SqlFacts, Standby, Supervisor, Verified, View},
    },
    identity::Ordinal,
    wire::{
        config::{AgentConfig, Durability},
        supervisor::{Answer, Order},
    },
};

use crate::{
    Rules,
    ages::{self, NOW, Pace},
    mutants::{self, Mutant},
    world::{InFlight, Process, Seen, Stored, World},
};

/// A decision whose orders have taken effect is followed by the next; more than this many would be a loop.
const DECISIONS: usize = 24;

pub(crate) fn config(rules: &Rules) -> AgentConfig {
    AgentConfig {
        database_uid: "uid".to_owned(),
        replicas: rules.members,
        durability: Durability::Preferred,
        min_sync_replicas: rules.k,
        profile: Profile::Standard,
        sync_timeout_ms: 10_000,
        io_timeout_ms: 6_000,
        max_lag_bytes: 0,
        system_identifier: None,
        parameters: BTreeMap::new(),
        hba: Vec::new(),
        app_database: "app".to_owned(),
        volume_bytes: 1 << 30,
        generation: String::new(),
        accept_loss: None,
        archive: None,
    }
}

impl World {
    /// An agent decides until nothing changes any more but by others.
    pub(crate) fn think(&mut self, rules: &Rules, node: usize, pace: Pace) {
        ages::pass(&mut self.nodes[node].agent.memory, pace);
        for decision in 0.. {
            assert!(decision < DECISIONS, "member {node} never comes to rest: {:?}", self.nodes[node]);
            let view = self.view_at(rules, node, pace);
            let agent = &mut self.nodes[node].agent;
            if pace == Pace::Heard {
                // The next questions are a step of their own.
                agent.memory.paced.insert(Paced::Relay, view.now);
            }
            let decision = ha::decide(&agent.memory, &view);
            agent.refused = None;
            agent.memory = decision.memory;
            agent.memory.paced.clear();
            let hurried = ages::hurry(&mut agent.memory);
            let acted = decision.actions.into_iter().map(|action| self.act(rules, node, action));
            if acted.filter(|changed| *changed).count() == 0 && !hurried {
                break;
            }
        }
        self.nodes[node].agent.forget();
        ages::settle(&mut self.nodes[node], self.tick);
    }

    /// Carries an action out; says whether the next decision may be another for it.
    fn act(&mut self, rules: &Rules, node: usize, action: Action) -> bool {
        match action {
            Action::WriteLease(write) => self.begin_write(rules, node, &write),
            Action::Ask { member, question } => self.ask(rules, node, usize::from(member.0), question),
            Action::Order(order) => self.ordered(rules, node, &order),
            Action::SetSynchronousNames(names) => self.set_names(rules, node, names),
            Action::ProbeSyncWait => {
                let sees = self.nodes[node].life.flag || rules.is(Mutant::WaitNotProven);
                let agent = &mut self.nodes[node].agent;
                let news = sees && !agent.commits_wait;
                agent.commits_wait |= sees;
                news
            }
            Action::VerifyLocalWrite { epoch, names } => self.verify(node, epoch, names),
            Action::Checkpoint { .. } => {
                let timeline = self.nodes[node].disk.as_ref().map(|disk| disk.end().timeline);
                std::mem::replace(&mut self.nodes[node].agent.checkpoint, timeline) != timeline
            }
            Action::Emit(Event::SwitchoverFailed { .. } | Event::SwitchoverReleased { .. }) => {
                self.nodes[node].agent.switchover.take().is_some()
            }
            // Reads are the model's own action; slots and labels are not modelled; nobody listens to events.
            _ => false,
        }
    }

    /// A question is a step of its own. But a survey has no effect on who answers it, and is answered at once where
    /// no promise can come between the answers.
    fn ask(&mut self, rules: &Rules, node: usize, member: usize, question: Question) -> bool {
        let known = self.nodes[node].agent.peers.get(&Ordinal(u8::try_from(member).unwrap())).cloned();
        match question {
            Question::Seal { epoch, .. } => {
                self.nodes[node].agent.asked.insert(member, question);
                return known.is_some_and(|known| known.seal.is_some_and(|(asked, _)| asked > epoch));
            }
            Question::Survey { .. } if rules.asks > 0 => {
                self.nodes[node].agent.asked.insert(member, question);
                return false;
            }
            Question::Survey { .. } => self.question(rules, node, member, &question),
            Question::Relay(mut relay) => {
                relay.asked_at = ages::time_of(self.tick);
                self.nodes[node].agent.asked.insert(member, Question::Relay(relay));
                return false;
            }
        }
        let now = self.nodes[node].agent.peers.get(&Ordinal(u8::try_from(member).unwrap()));
        let said = |replies: Option<&PeerReplies>| replies?.survey.as_ref().map(|(_, reply)| reply.clone());
        said(known.as_ref()) != said(now)
    }

    fn begin_write(&mut self, rules: &Rules, node: usize, write: &LeaseWrite) -> bool {
        let basis = write.basis().map(|version| version.0.parse().unwrap());
        let contents = mutants::written(rules, &self.lease, write.contents());
        if rules.is(Mutant::NamesBeforeLease) {
            let last = contents.document.configurations.last().filter(|last| last.epoch == contents.epoch);
            if let Some(names) = last.map(Configuration::names) {
                self.set_names(rules, node, names);
            }
        }
        self.nodes[node].agent.in_flight = Some(InFlight { basis, contents });
        false
    }

    fn verify(&mut self, node: usize, epoch: proto::identity::Epoch, names: String) -> bool {
        if self.nodes[node].life.names.to_string() != names || self.nodes[node].agent.verified.is_some() {
            return false;
        }
        let Some(lsn) = self.append(node) else { return false };
        self.nodes[node].agent.verified = Some(Verified { epoch, names, lsn, at: NOW });
        true
    }

    fn set_names(&mut self, rules: &Rules, node: usize, names: SyncNames) -> bool {
        let this = &mut self.nodes[node];
        if !this.life.is_primary() || this.life.names == names {
            return false;
        }
        if names == SyncNames::Off {
            this.agent.commits_wait = false;
        }
        // A write under other names proves nothing about these.
        this.agent.verified = None;
        this.life.names = names;
        if !rules.slow_reloads {
            self.reload_all(node);
        }
        true
    }

    fn ordered(&mut self, rules: &Rules, node: usize, order: &Order) -> bool {
        let before = (self.nodes[node].disk.clone(), self.nodes[node].life.clone());
        let wal = self.nodes[node].agent.wal.clone();
        let stored = self.nodes[node].disk.as_ref().map(|disk| (disk.sealed, disk.stored));
        let answer = self.order(rules, node, order);
        // Also the seal that finds the end of WAL before a leader is followed would store its epoch.
        if rules.is(Mutant::FollowNotStored)
            && matches!(order, Order::Seal { .. } | Order::Follow { .. } | Order::Rewind { .. })
            && self.nodes[node].agent.memory.takeover.is_none()
            && let (Some(disk), Some((sealed, stored))) = (&mut self.nodes[node].disk, stored)
        {
            (disk.sealed, disk.stored) = (sealed, stored);
        }
        self.note_end(rules, node, order, answer.as_ref().ok());
        let this = &self.nodes[node];
        before != (this.disk.clone(), this.life.clone()) || wal != this.agent.wal
    }

    fn note_end(&mut self, rules: &Rules, node: usize, order: &Order, answer: Option<&Answer>) {
        let behind = mutants::highest_answer(rules, &self.nodes[node].agent);
        let told = |end: proto::postgres::WalPosition| behind.map_or(end, |highest| highest.max(end));
        let wal = &mut self.nodes[node].agent.wal;
        match (order, answer) {
            (Order::Seal { epoch }, Some(Answer::Sealed(end))) => {
                wal.sealed = Some(SealedEnd { epoch: *epoch, position: told(*end), at: NOW });
            }
            (Order::EndOfWal, Some(Answer::EndOfWal(end))) => wal.end = Some((NOW, told(*end))),
            _ => {}
        }
    }

    /// A question reaches `member`, and its answer comes back.
    pub(crate) fn answer(&mut self, rules: &Rules, asker: usize, member: usize) {
        if let Some(question) = self.nodes[asker].agent.asked.remove(&member) {
            self.question(rules, asker, member, &question);
            self.think(rules, member, Pace::Usual);
            let heard = if matches!(question, Question::Relay(_)) { Pace::Heard } else { Pace::Usual };
            self.think(rules, asker, heard);
        }
    }

    fn question(&mut self, rules: &Rules, asker: usize, member: usize, question: &Question) {
        if let Question::Relay(relay) = question {
            return self.question_relay(rules, asker, member, relay);
        }
        let view = self.view(rules, member);
        let (mut memory, response) = ha::answer(&self.nodes[member].agent.memory, &view, question);
        memory.paced.clear();
        self.nodes[member].agent.memory = memory;
        let reply = match response {
            Response::Reply(reply) => reply,
            Response::Relay(_) => unreachable!("only renewals are relayed"),
            Response::Order(order) => {
                let result = self.order(rules, member, &order);
                if matches!(order, Order::Seal { .. }) {
                    self.note_end(rules, member, &order, result.as_ref().ok());
                }
                ha::conclude(&self.view(rules, member), question, &result)
            }
        };
        let peer = self.nodes[asker].agent.peers.entry(Ordinal(u8::try_from(member).unwrap())).or_default();
        match question {
            Question::Seal { epoch, .. } => peer.seal = Some((*epoch, reply)),
            Question::Survey { id, .. } => peer.survey = Some((*id, reply)),
            Question::Relay(_) => {}
        }
    }

    /// A renewal to be relayed reaches `member`, and what came of it comes back.
    fn question_relay(&mut self, rules: &Rules, asker: usize, member: usize, relay: &Relay) {
        let (memory, view) = self.as_shown(rules, member, relay.renewal.contents.epoch);
        let question = Question::Relay(Box::new(relay.clone()));
        let reply = match ha::answer(&memory, &view, &question).1 {
            Response::Reply(reply) => reply,
            Response::Relay(relay) => self.relay(rules, member, &relay),
            Response::Order(_) => unreachable!("a renewal costs no order"),
        };
        self.note_relay(rules, asker, member, relay, reply);
    }

    pub(crate) fn view(&self, rules: &Rules, node: usize) -> View {
        self.view_at(rules, node, Pace::Usual)
    }

    fn view_at(&self, rules: &Rules, node: usize, pace: Pace) -> View {
        let this = &self.nodes[node];
        let agent = &this.agent;
        let now = ages::now(pace);
        View {
            now,
            started_at: agent.young.map_or(BootTime::default(), |_| ages::time_of(0)),
            me: Me {
                ordinal: Ordinal(u8::try_from(node).unwrap()),
                pod: format!("db-{node}"),
                pod_uid: format!("uid{node}-{}", this.uid),
                database: "db".to_owned(),
                namespace: "test".to_owned(),
            },
            config: config(rules),
            lease: LeaseView {
                sighting: sighting(rules, &agent.seen),
                busy: agent.in_flight.is_some(),
                refused: agent.refused,
                next_write: self.next_write(node),
            },
            supervisor: Supervisor::Reported(Box::new(this.report(now))),
            wal: agent.wal.clone(),
            sql: self.sql(rules, node),
            peers: agent.peers.clone(),
            label: None,
            deletion_requested: false,
            switchover: agent.switchover,
        }
    }

    fn sql(&self, rules: &Rules, node: usize) -> Option<SqlFacts> {
        let this = &self.nodes[node];
        let in_recovery = match this.life.process {
            Process::Primary { .. } => false,
            Process::Standby => true,
            _ => return None,
        };
        let flushed =
            |lsn| if rules.is(Mutant::NobodyWaitedFor) { this.disk.as_ref().unwrap().lsn() } else { lsn };
        let standbys = this.life.senders.iter().map(|(id, sender)| {
            let ordinal = Some(Ordinal(sender.ordinal));
            (*id, Standby { ordinal, streaming: true, flushed: flushed(sender.flushed) })
        });
        Some(SqlFacts {
            at: NOW,
            in_recovery,
            flushed: this.disk.as_ref()?.lsn(),
            names: this.life.names.to_string(),
            commits_wait: this.agent.commits_wait || rules.is(Mutant::WaitNotProven),
            verified: this.agent.verified.clone(),
            checkpoint_timeline: this.agent.checkpoint,
            standbys: standbys.collect(),
            slots: (0..rules.members).map(Ordinal).collect(),
            works_at: Some(NOW),
        })
    }
}

fn sighting(rules: &Rules, seen: &Seen) -> Sighting {
    let (stored, expired): (&Stored, bool) = match seen {
        Seen::NotYet => return Sighting::NotYet,
        Seen::Missing => return Sighting::Missing(NOW),
        Seen::Version { stored, expired, .. } => (stored, *expired),
    };
    let (first_seen, confirmed) = ages::sighted(expired);
    Sighting::Seen(Observed { version: version(rules, stored), first_seen, confirmed })
}

/// A version as an agent reads it.
pub(crate) fn version(rules: &Rules, stored: &Stored) -> LeaseVersion {
    let contents = &stored.contents;
    LeaseVersion {
        resource_version: ResourceVersion(stored.version.to_string()),
        holder: contents.holder.clone().map_or(HolderField::Nobody, HolderField::Run),
        epoch: contents.epoch,
        write_id: Some(contents.write_id),
        duration: contents.duration,
        recorded: Recorded::Document(Box::new(mutants::shown(rules, &contents.document))),
    }
}
