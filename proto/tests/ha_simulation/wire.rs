//! What the drivers do, the fake API server, and the network.

use proto::{
    clock::BootTime,
    ha::{
        self, Response,
        action::{Action, Event},
        configuration::Configuration,
        document::Document,
        lease::{
            Contents, HolderField, LeaseVersion, LeaseWrite, Observed, Recorded, ResourceVersion, Sighting,
            WriteId,
        },
        question::Question,
        view::SealedEnd,
    },
    identity::{Epoch, Ordinal},
    wire::supervisor::{Answer, Order},
};

use crate::mutants::Mutant;
use crate::world::{Message, STEP, TIMEOUT, World};

/// `leaseTransitions` has 31 bits: a number beyond them is left out, and read as none.
pub(crate) fn stated(epoch: Epoch) -> Epoch {
    if i32::try_from(epoch.0).is_ok() { epoch } else { Epoch::default() }
}

impl World {
    pub(crate) fn act(&mut self, node: usize, action: Action) {
        // Whatever comes of it is an event, and so a new decision.
        let now = self.now;
        if !matches!(action, Action::ReadLease | Action::Ask { .. })
            && let Some(agent) = &mut self.nodes[node].agent
        {
            agent.next_decision = agent.next_decision.min(now + STEP);
        }
        match action {
            Action::ReadLease => self.request(node, None),
            Action::WriteLease(write) => self.request(node, Some(write)),
            Action::Ask { member, question } => {
                let to = usize::from(member.0);
                let delay = self.latency();
                self.send(delay, Message::Question { from: node, to, question });
            }
            Action::Order(order) => {
                self.order(node, &order);
            }
            Action::Initdb => {
                self.order(
                    node,
                    &Order::Initdb(proto::wire::supervisor::Initdb {
                        superuser_verifier: String::new(),
                        app_verifier: String::new(),
                        app_role: String::new(),
                        app_database: String::new(),
                        replication_role: String::new(),
                    }),
                );
            }
            Action::SetSynchronousNames(names) => self.set_names(node, names),
            Action::ProbeSyncWait => {
                if self.writable(node) && self.commit(node, false).is_some() {
                    let flag = self.nodes[node].life.as_ref().is_some_and(|life| life.flag);
                    if let Some(agent) = &mut self.nodes[node].agent {
                        agent.sql.commits_wait |= flag;
                    }
                }
            }
            Action::VerifyLocalWrite { epoch, names } => self.verify(node, epoch, names),
            Action::EnsureSlots(members) => {
                if let Some(life) = &mut self.nodes[node].life {
                    life.slots.extend(members.iter().map(|member| member.0));
                }
            }
            Action::DropSlot(member) => {
                if let Some(life) = &mut self.nodes[node].life {
                    life.slots.remove(&member.0);
                }
            }
            Action::SetRole(role) => {
                if self.reaches_api(node) {
                    self.nodes[node].label = Some(role);
                }
            }
            Action::ClearStaleLabels => {}
            Action::Checkpoint { .. } => {
                let timeline = self.nodes[node].disk.as_ref().map(|disk| disk.position().timeline);
                if let Some(agent) = &mut self.nodes[node].agent {
                    agent.sql.checkpoint = timeline;
                }
            }
            Action::Emit(event) => {
                if let (Event::SwitchoverFailed { .. } | Event::SwitchoverReleased { .. }, Some(agent)) =
                    (&event, &mut self.nodes[node].agent)
                {
                    agent.switchover = None;
                }
                self.journal.events.push((self.now, node, event));
            }
        }
    }

    pub(crate) fn request(&mut self, node: usize, write: Option<LeaseWrite>) {
        let sent = self.local(node);
        let deadline = self.now + TIMEOUT;
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.busy_until = deadline;
        }
        if !self.reaches_api(node) {
            return;
        }
        let delay = self.latency();
        self.send(
            delay,
            match write {
                Some(write) => Message::PutArrives { node, sent, deadline, write },
                None => Message::GetArrives { node, sent, deadline },
            },
        );
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        match message {
            Message::GetArrives { node, sent, deadline } => {
                if self.reaches_api(node) {
                    let sighting = self.sighting(sent);
                    self.answer_request(node, sent, deadline, Some(sighting), None);
                }
            }
            Message::PutArrives { node, sent, deadline, write } => self.put(node, sent, deadline, &write),
            Message::LeaseAnswer { node, started, sighting, refused, sent } => {
                self.lease_answer(node, started, sighting, refused, sent);
            }
            Message::Question { from, to, question } => self.question(from, to, question),
            Message::Reply { from, to, question, reply } => {
                if let Question::Relay(relay) = &question {
                    self.note_relay(from, to, relay, reply.clone());
                }
                if let Some(agent) = &mut self.nodes[to].agent {
                    let peer = agent.peers.entry(Ordinal(u8::try_from(from).unwrap())).or_default();
                    match question {
                        Question::Survey { id, .. } => peer.survey = Some((id, reply)),
                        Question::Seal { epoch, .. } => peer.seal = Some((epoch, reply)),
                        Question::Relay(_) => {}
                    }
                    agent.next_decision = 0;
                }
            }
            Message::RelayArrives { member, asker, agent, relay, deadline } => {
                self.relay_arrives(member, asker, agent, relay, deadline);
            }
            Message::RelayDone { member, asker, agent, relay, shown } => {
                self.relay_done(member, asker, agent, &relay, shown);
            }
            Message::Flushed { primary, run, data_id, lsn } => self.flushed(primary, run, data_id, lsn),
            Message::Walsender { primary, run, data_id } => {
                if let Some(life) = self.nodes[primary].life.as_mut().filter(|life| life.run == run) {
                    let names = life.names.clone();
                    if let Some(sender) = life.senders.get_mut(&data_id) {
                        sender.names = names;
                    }
                }
            }
            Message::Checkpointer { primary, run } => self.checkpointer(primary, run),
        }
    }

    pub(crate) fn sighting(&self, sent: BootTime) -> Sighting {
        if self.lease.version == 0 {
            return Sighting::Missing(sent);
        }
        let version = ResourceVersion(self.lease.version.to_string());
        let version = match &self.lease.contents {
            None => LeaseVersion {
                resource_version: version,
                holder: HolderField::Nobody,
                epoch: Epoch(0),
                write_id: None,
                duration: self.config.profile.timing().lease,
                recorded: Recorded::NeverInitialised,
            },
            Some(contents) => LeaseVersion {
                resource_version: version,
                holder: contents.holder.clone().map_or(HolderField::Nobody, HolderField::Run),
                epoch: contents.document.epoch(stated(contents.epoch)),
                write_id: Some(contents.write_id),
                duration: contents.duration,
                recorded: self.recorded(&contents.document),
            },
        };
        Sighting::Seen(Observed { version, first_seen: BootTime(0), confirmed: sent })
    }

    /// The document through its text, as the driver reads it.
    fn recorded(&self, document: &Document) -> Recorded {
        let text = if self.lease.legible { document.to_json() } else { "{}".to_owned() };
        Document::parse(&text).map_or_else(
            |error| Recorded::Unreadable(error.to_string()),
            |document| Recorded::Document(Box::new(document)),
        )
    }

    pub(crate) fn put(&mut self, node: usize, sent: BootTime, deadline: u64, write: &LeaseWrite) {
        if !self.reaches_api(node) {
            return;
        }
        let exists = self.lease.version > 0;
        let basis = write.basis().map(|version| version.0.clone());
        let current = exists.then(|| self.lease.version.to_string());
        if basis != current && !self.is(Mutant::AnyVersion) {
            let refused = Some(write.contents().write_id);
            self.answer_request(node, sent, deadline, None, refused);
            return;
        }
        if self.api_read_only {
            self.answer_request(node, sent, deadline, None, None);
            return;
        }
        self.store(write.contents());
        let sighting = self.sighting(sent);
        let lost = self.writes_lost;
        if !self.dice.percent(lost) {
            self.answer_request(node, sent, deadline, Some(sighting), None);
        }
    }

    /// The API server takes a write.
    pub(crate) fn store(&mut self, contents: &Contents) {
        self.check_write(contents);
        self.lease.version = self.fresh();
        self.lease.contents = Some(contents.clone());
        self.lease.legible = true;
        self.notify();
    }

    /// The watch: a hint to read.
    pub(crate) fn notify(&mut self) {
        for node in 0..self.nodes.len() {
            if self.watched && self.reaches_api(node) && self.nodes[node].agent.is_some() {
                let (sent, deadline) = (self.local(node), self.now + TIMEOUT);
                let delay = self.latency();
                self.send(delay, Message::GetArrives { node, sent, deadline });
            }
        }
    }

    /// S3: epochs and reserved timelines only grow, and an epoch is opened once.
    pub(crate) fn check_write(&mut self, contents: &Contents) {
        let timeline = contents.document.timeline.0.get();
        assert!(contents.epoch >= self.journal.last_epoch, "S3: epoch goes back to {}", contents.epoch);
        assert!(timeline >= self.journal.last_timeline, "S3: timeline goes back to {timeline}");
        self.journal.last_epoch = contents.epoch;
        self.journal.agents_epoch = contents.epoch;
        self.journal.last_timeline = timeline;
        if let Some(opening) = contents.document.opened(contents.epoch) {
            let first = *self.journal.opened.entry(opening.epoch).or_insert(opening.primary);
            assert_eq!(first, opening.primary, "S3: epoch {} is opened twice", opening.epoch);
        }
        if self.trace {
            let show = |c: &Configuration| format!("(e{} k{} {:?})", c.epoch, c.k, c.standbys);
            let list: Vec<_> = contents.document.configurations.iter().map(show).collect();
            eprintln!(
                "{:>9} LEASE e{} {:?} {list:?} {:?}",
                self.now / 1000,
                contents.epoch,
                contents.holder.as_ref().map(|holder| &holder.pod),
                contents.document.release
            );
        }
    }

    pub(crate) fn answer_request(
        &mut self,
        node: usize,
        sent: BootTime,
        deadline: u64,
        sighting: Option<Sighting>,
        refused: Option<WriteId>,
    ) {
        let delay = self.latency();
        let Some(agent) = &self.nodes[node].agent else { return };
        let started = agent.started;
        if self.now + delay < deadline {
            self.send(delay, Message::LeaseAnswer { node, started, sighting, refused, sent });
        }
    }

    pub(crate) fn lease_answer(
        &mut self,
        node: usize,
        started: BootTime,
        sighting: Option<Sighting>,
        refused: Option<WriteId>,
        sent: BootTime,
    ) {
        if !self.awake(node) {
            return;
        }
        let local = self.local(node);
        let Some(agent) = self.nodes[node].agent.as_mut().filter(|agent| agent.started == started) else {
            return;
        };
        agent.busy_until = 0;
        agent.next_decision = 0;
        agent.refused = refused.or(agent.refused);
        match sighting {
            Some(Sighting::Seen(mut new)) => {
                new.first_seen = local;
                if let Sighting::Seen(old) = &agent.sighting
                    && old.version.resource_version == new.version.resource_version
                {
                    new.first_seen = old.first_seen;
                    new.confirmed = old.confirmed.max(sent);
                }
                agent.sighting = Sighting::Seen(new);
                agent.sighted_at = local;
            }
            Some(other) => (agent.sighting, agent.sighted_at) = (other, local),
            None => {}
        }
    }

    pub(crate) fn question(&mut self, from: usize, to: usize, question: Question) {
        if !self.connected(from, to) || !self.awake(to) || self.nodes[to].agent.is_none() {
            return;
        }
        let view = self.view(to);
        let agent = self.nodes[to].agent.as_mut().unwrap();
        let (memory, response) = ha::answer(&agent.memory, &view, &question);
        agent.memory = memory;
        let reply = match response {
            Response::Reply(reply) => reply,
            Response::Relay(relay) => return self.relay(to, from, relay),
            Response::Order(order) => {
                let (local, now) = (self.local(to), self.now);
                if self.hangs(to) {
                    return;
                }
                let this = &mut self.nodes[to];
                let Some(life) = &mut this.life else { return };
                let result = life.order(&mut this.disk, order, local, now, 0);
                if let (Question::Seal { epoch, .. }, Ok(Answer::Sealed(position)), Some(agent)) =
                    (&question, &result, &mut this.agent)
                {
                    agent.wal.sealed = Some(SealedEnd { epoch: *epoch, position: *position, at: local });
                }
                let view = self.view(to);
                ha::conclude(&view, &question, &result)
            }
        };
        let delay = self.latency();
        self.send(delay, Message::Reply { from: to, to: from, question, reply });
    }
}
