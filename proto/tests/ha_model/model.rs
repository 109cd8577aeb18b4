//! The model: which steps there are, and what must hold.

use proto::{
    ha::{
        configuration::Configuration,
        document::{Document, Opening},
        lease::{Contents, WriteId},
        profile::Profile,
        view::SwitchoverRequest,
    },
    identity::{DataId, Epoch, Holder, Ordinal, RunId},
    postgres::{Lsn, SystemIdentifier, Timeline},
    wire::supervisor::{Ended, Order},
};
use stateright::{Model, Property};

use crate::{
    Fault, Rules,
    ages::{self, Pace},
    mutants::Mutant,
    world::{
        Agent, Api, Disk, InFlight, Journal, Life, Node, Process, Record, Seen, Stored, Violation, Walsender,
        World,
    },
};

/// One step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// An agent decides again.
    Think(usize, Pace),
    /// A read of the Lease is answered.
    Read(usize),
    /// A read is answered by an API server that lags behind.
    ReadBack(usize),
    /// The version that an agent sees has been seen for L, and a read confirms it.
    Expire(usize),
    /// The write that is under way reaches the API server, and its answer the agent.
    Land(usize),
    /// It lands, and the answer is lost.
    LandUnanswered(usize),
    /// The agent gives it up; it may land later.
    GiveUp(usize),
    /// A write that was given up lands.
    LandLate(usize),
    /// A seal's question reaches a member, and its answer comes back.
    Answer { asker: usize, member: usize },
    /// A job of the supervisor ends.
    Finish(usize),
    /// A client commits.
    Commit(usize),
    /// A standby copies a record.
    Stream(usize),
    /// A standby's reply reaches its walsender.
    Reply(usize, DataId),
    /// A walsender ends: its standby is gone, or the connection broke.
    Disconnect(usize, DataId),
    /// A walsender reloads its names.
    Reload(usize, DataId),
    /// The checkpointer sets the flag.
    Checkpointer(usize),
    /// A primary whose renewals are late asks the others.
    Ask(usize),
    /// What a member promised is over.
    PromiseEnds(usize),
    /// An agent has run for longer than a promise lasts.
    Mature(usize),
    /// The API server answers a member again.
    Reach(usize),
    /// A fault.
    Fault(usize, Fault),
}

pub(crate) fn holder(node: usize, uid: u8, run: u8) -> Holder {
    Holder { pod: format!("db-{node}"), pod_uid: format!("uid{node}-{uid}"), run: RunId(format!("run{run}")) }
}

fn id(node: usize) -> DataId {
    DataId(10 + node as u64)
}

/// Member 0 leads epoch 1, the others stream from it and have everything.
pub(crate) fn formed(rules: &Rules) -> World {
    let members = usize::from(rules.members);
    let (first, second) = (Record { timeline: 1, writer: id(0) }, Record { timeline: 2, writer: id(0) });
    let timeline = Timeline::new(2).unwrap();
    let document = Document {
        timeline,
        members: (0..members).map(|node| (Ordinal(u8::try_from(node).unwrap()), id(node))).collect(),
        configurations: vec![Configuration {
            epoch: Epoch(1),
            primary: id(0),
            k: rules.k,
            standbys: (1..members).map(id).collect(),
        }],
        history: vec![Opening {
            epoch: Epoch(1),
            primary: id(0),
            timeline,
            switch: Lsn(100),
            checkpointed: true,
        }],
        system_identifier: SystemIdentifier(7),
        leader_lsn: None,
        release: None,
        presumed: false,
    };
    let names = document.configurations[0].names();
    let contents = Contents {
        holder: Some(holder(0, 0, 0)),
        epoch: Epoch(1),
        write_id: WriteId::default(),
        duration: Profile::Standard.timing().lease,
        document,
    };
    let lease = Stored { version: 1, contents };
    let node = |node: usize| {
        let mut life = Life::new(0);
        let mut agent = Agent::new();
        agent.seen = Seen::Version { stored: lease.clone(), expired: false, since: 0 };
        if node == 0 {
            life.process = Process::Primary { timeline: 2, switch: Lsn(100) };
            life.fence = Some(Epoch(1));
            life.names = names.clone();
            agent.checkpoint = Some(timeline);
            agent.commits_wait = true;
            let sender = |other| Walsender {
                ordinal: u8::try_from(other).unwrap(),
                sent: Lsn(200),
                flushed: Lsn(200),
                names: names.clone(),
            };
            life.senders = (1..members).map(|other| (id(other), sender(other))).collect();
        } else {
            life.process = Process::Standby;
            life.following = Some((0, true));
        }
        let opened = (node == 0).then_some(Epoch(1));
        let log = vec![first, second];
        let (sealed, stored) = (Epoch(1), Epoch(1));
        let disk = Disk { data_id: id(node), sealed, stored, opened, log, consistent_from: 0 };
        let ordinal = u8::try_from(node).unwrap();
        Node { ordinal, uid: 0, disk: Some(disk), life, agent, api: Api::Answers }
    };
    let nodes: Vec<Node> = (0..members).map(node).collect();
    let journal =
        Journal { writers: [(2, id(0))].into(), opened: [(Epoch(1), id(0), 2)].into(), ..Journal::default() };
    let before = None;
    let mut world = World {
        nodes,
        lease,
        before,
        late: Vec::new(),
        journal,
        faults: 0,
        wiped: 0,
        deleted: 0,
        tick: 0,
        asks: 0,
    };
    // Everybody at rest: the first verification is written and has reached everybody.
    world.think(rules, 0, Pace::Usual);
    for standby in 1..members {
        while world.nodes[standby].disk.as_ref().map(Disk::lsn) < world.nodes[0].disk.as_ref().map(Disk::lsn)
        {
            world.stream(standby).unwrap();
        }
        world.replied(0, id(standby));
        world.think(rules, standby, Pace::Usual);
    }
    world.think(rules, 0, Pace::Usual);
    // It has renewed before.
    world.nodes[0].agent.memory.tenure.iter_mut().for_each(|tenure| tenure.own = rules.asks > 0);
    world
}

impl World {
    fn current(&self) -> Seen {
        match self.lease.version {
            0 => Seen::Missing,
            _ => Seen::Version { stored: self.lease.clone(), expired: false, since: self.tick },
        }
    }

    pub(crate) fn is_current(&self, seen: &Seen) -> bool {
        match seen {
            Seen::NotYet => false,
            Seen::Missing => self.lease.version == 0,
            Seen::Version { stored, .. } => stored.version == self.lease.version,
        }
    }

    /// Carries a write out if nobody was faster.
    pub(crate) fn land(&mut self, rules: &Rules, write: InFlight) -> bool {
        let current = (self.lease.version > 0).then_some(self.lease.version);
        if write.basis != current && !rules.is(Mutant::AnyVersion) {
            return false;
        }
        let old = &self.lease.contents;
        let (epoch, timeline) = (write.contents.epoch, write.contents.document.timeline);
        let goes_back = epoch < old.epoch || timeline < old.document.timeline;
        // An epoch has one holder.
        let stolen = epoch == old.epoch
            && write
                .contents
                .holder
                .as_ref()
                .is_some_and(|new| old.holder.as_ref().is_none_or(|old| old.pod_uid != new.pod_uid));
        if goes_back || stolen {
            self.violate(Violation::S3);
        }
        if let Some(opening) = write.contents.document.opened(epoch) {
            self.journal.opened.insert((epoch, opening.primary, opening.timeline.0.get()));
        }
        let release = write.contents.document.release.as_ref().map(|release| release.reason);
        self.journal.released_for_switchover |=
            release == Some(proto::ha::document::ReleaseReason::Switchover);
        self.journal.fell_back |= write.contents.document.configurations.iter().any(|c| c.k == 0);
        let next = Stored { version: self.lease.version.max(self.deleted) + 1, contents: write.contents };
        let before = std::mem::replace(&mut self.lease, next);
        if rules.allows(Fault::ReadBack) && before.contents.epoch < self.lease.contents.epoch {
            self.before = Some(before);
        }
        let version = self.lease.version;
        self.late.retain(|late| late.basis == Some(version) || rules.is(Mutant::AnyVersion));
        true
    }

    /// The holder's deadline has passed.
    pub(crate) fn fence(&mut self, rules: &Rules, node: usize) {
        let this = &mut self.nodes[node];
        ages::outdate(&mut this.agent.memory);
        this.agent.peers.values_mut().for_each(|peer| peer.relay = None);
        if rules.is(Mutant::NoFence) {
            return;
        }
        this.life.fence = None;
        let promoting = matches!(this.life.job, Some(Order::Promote { .. }));
        if promoting || matches!(this.life.process, Process::Primary { .. } | Process::Stopping { .. }) {
            this.life.end(Ended::Fenced, None);
        }
    }

    fn expire(&mut self, rules: &Rules, node: usize) {
        if let Seen::Version { expired, since, .. } = &mut self.nodes[node].agent.seen {
            *expired = true;
            let since = *since;
            self.elapse(rules, since);
        }
    }

    fn fault(&mut self, rules: &Rules, node: usize, fault: Fault) {
        self.faults += 1;
        let this = &mut self.nodes[node];
        match fault {
            Fault::CrashPostgres => {
                this.life.end(Ended::Crashed("killed".to_owned()), None);
                self.think(rules, node, Pace::Usual);
            }
            Fault::KillContainer => {
                this.restart_container();
                self.think(rules, node, Pace::Usual);
            }
            Fault::RestartAgent => self.lose_agent(rules, node),
            Fault::LosePod => {
                this.restart_container();
                this.uid += 1;
                self.lose_agent(rules, node);
            }
            Fault::LoseVolume => {
                self.fault(rules, node, Fault::LosePod);
                self.nodes[node].disk = None;
                self.faults -= 1;
                self.wiped += 1;
            }
            Fault::Fence => {
                self.fence(rules, node);
                self.think(rules, node, Pace::Usual);
            }
            Fault::Switchover => {
                self.nodes[node].agent.switchover = Some(SwitchoverRequest { id: 1, to: None });
                self.think(rules, node, Pace::Usual);
            }
            Fault::DeleteLease => self.deleted = std::mem::take(&mut self.lease.version),
            Fault::CutApi => this.api = Api::Away,
            Fault::ReadOnlyApi => this.api = Api::ReadsOnly,
            Fault::LoseAnswer | Fault::ReadBack | Fault::Disconnect => {}
        }
    }

    fn lose_agent(&mut self, rules: &Rules, node: usize) {
        let remembers = rules.asks == 0 || rules.is(Mutant::PromiseForgotten);
        let young = (!remembers).then_some(self.tick);
        self.tick += u8::from(!remembers);
        let agent = std::mem::replace(&mut self.nodes[node].agent, Agent { young, ..Agent::new() });
        self.late.extend(agent.in_flight);
    }
}

impl Node {
    fn restart_container(&mut self) {
        self.life = Life::new(self.life.run + 1);
        self.agent.verified = None;
        self.agent.commits_wait = false;
        self.agent.checkpoint = None;
        if let Some(disk) = &mut self.disk {
            disk.sealed = disk.stored;
        }
    }
}

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![formed(self)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (index, node) in world.nodes.iter().enumerate() {
            self.agent_steps(world, index, node, steps);
            self.server_steps(world, index, node, steps);
            self.outage_steps(world, index, node, steps);
            self.faults(world, index, node, steps);
        }
        steps.extend((0..world.late.len()).map(Step::LandLate));
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        self.take(&mut world, step)?;
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("S1: one primary, with honest clocks", |rules: &Self, world: &World| {
                let primaries = world.nodes.iter().filter(|node| node.life.is_primary()).count();
                !rules.honest || primaries <= 1
            }),
            Property::always("S2: nothing acknowledged is lost", |_, world: &World| {
                world.journal.violated != Some(Violation::S2)
            }),
            Property::always("S3: epochs, timelines and their writers", |_, world: &World| {
                world.journal.violated != Some(Violation::S3)
            }),
            Property::always("S4: writable only through an open", |_, world: &World| {
                world.journal.violated != Some(Violation::S4)
            }),
        ];
        all.extend(self.goals.iter().map(|goal| goal.property()));
        all
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.lease.contents.epoch <= Epoch(self.epochs) || world.journal.violated.is_some()
    }
}

impl Rules {
    fn agent_steps(&self, world: &World, index: usize, node: &Node, steps: &mut Vec<Step>) {
        let agent = &node.agent;
        // Every event is followed by a decision; only these wait for what others do.
        if agent.memory.contest.is_some() || agent.memory.handover.is_some() {
            steps.push(Step::Think(index, Pace::Usual));
        }
        if ages::matters(&agent.memory, Pace::Impatient) {
            steps.push(Step::Think(index, Pace::Impatient));
        }
        if self.timeouts && ages::matters(&agent.memory, Pace::Missing) {
            steps.push(Step::Think(index, Pace::Missing));
        }
        if self.renewals && agent.in_flight.is_none() && ages::matters(&agent.memory, Pace::Renew) {
            steps.push(Step::Think(index, Pace::Renew));
        }
        if node.api != Api::Away && !world.is_current(&agent.seen) {
            steps.push(Step::Read(index));
        }
        if let Seen::Version { stored, expired: false, .. } = &agent.seen
            && node.api != Api::Away
            && stored.version == world.lease.version
            && stored.contents.epoch < Epoch(self.epochs)
            && stored.contents.holder.as_ref().is_some_and(|holder| holder.pod != format!("db-{index}"))
        {
            steps.push(Step::Expire(index));
        }
        if agent.in_flight.is_some() && node.api == Api::Answers {
            steps.push(Step::Land(index));
        }
        steps.extend(agent.asked.keys().map(|member| Step::Answer { asker: index, member: *member }));
    }

    fn outage_steps(&self, world: &World, index: usize, node: &Node, steps: &mut Vec<Step>) {
        let agent = &node.agent;
        if node.api != Api::Answers {
            steps.push(Step::Reach(index));
            let late = node.life.is_primary() && ages::matters(&agent.memory, Pace::Late);
            if late && world.asks < self.asks {
                steps.push(Step::Ask(index));
            }
        }
        if agent.memory.promise.is_some() {
            steps.push(Step::PromiseEnds(index));
        }
        if agent.young.is_some() {
            steps.push(Step::Mature(index));
        }
    }

    fn server_steps(&self, world: &World, index: usize, node: &Node, steps: &mut Vec<Step>) {
        let life = &node.life;
        if life.job.is_some() {
            steps.push(Step::Finish(index));
        }
        if life.is_primary() && world.journal.commits < self.commits {
            steps.push(Step::Commit(index));
        }
        if life.following.is_some() {
            steps.push(Step::Stream(index));
        }
        for (id, sender) in &life.senders {
            if sender.sent > sender.flushed {
                steps.push(Step::Reply(index, *id));
            }
            if sender.names != life.names {
                steps.push(Step::Reload(index, *id));
            }
            let standby = &world.nodes[usize::from(sender.ordinal)];
            let attached = standby.life.following.is_some_and(|(leader, _)| leader == index)
                && standby.disk.as_ref().is_some_and(|disk| disk.data_id == *id);
            if !attached || (self.allows(Fault::Disconnect) && world.faults < self.faults) {
                steps.push(Step::Disconnect(index, *id));
            }
        }
        if life.is_primary() && life.flag == (life.names == proto::ha::sync_names::SyncNames::Off) {
            steps.push(Step::Checkpointer(index));
        }
    }

    fn faults(&self, world: &World, index: usize, node: &Node, steps: &mut Vec<Step>) {
        if world.faults >= self.faults {
            return;
        }
        let runs = !matches!(node.life.process, Process::Stopped { .. });
        let holds = node.life.is_primary() || node.life.fence.is_some();
        for fault in self.kinds {
            let applies = match fault {
                Fault::CrashPostgres => runs,
                Fault::KillContainer | Fault::LosePod => true,
                Fault::RestartAgent => node.agent.seen != Seen::NotYet,
                Fault::LoseVolume => world.wiped == 0,
                Fault::Fence => holds,
                Fault::Switchover => node.life.is_primary() && node.agent.switchover.is_none(),
                // Whether the holder may make it again is a matter of clocks.
                Fault::DeleteLease => self.honest && index == 0 && world.lease.version > 0,
                Fault::LoseAnswer => {
                    if node.agent.in_flight.is_some() && node.api == Api::Answers {
                        steps.extend([Step::LandUnanswered(index), Step::GiveUp(index)]);
                    }
                    false
                }
                Fault::ReadBack => {
                    if world.before.is_some() && node.api != Api::Away {
                        steps.push(Step::ReadBack(index));
                    }
                    false
                }
                Fault::CutApi | Fault::ReadOnlyApi => node.api == Api::Answers,
                Fault::Disconnect => false,
            };
            if applies {
                steps.push(Step::Fault(index, *fault));
            }
        }
    }

    fn take(&self, world: &mut World, step: Step) -> Option<()> {
        match step {
            Step::Think(node, pace) => world.think(self, node, pace),
            Step::Read(node) => {
                world.nodes[node].agent.seen = world.current();
                world.think(self, node, Pace::Usual);
            }
            Step::ReadBack(node) => {
                world.faults += 1;
                let stored = world.before.clone()?;
                let since = world.tick;
                world.nodes[node].agent.seen = Seen::Version { stored, expired: false, since };
                world.think(self, node, Pace::Usual);
            }
            Step::Expire(node) => {
                world.expire(self, node);
                world.think(self, node, Pace::Usual);
            }
            Step::Land(node) => {
                let write = world.nodes[node].agent.in_flight.take()?;
                let id = write.contents.write_id;
                match world.land(self, write) {
                    true => world.nodes[node].agent.seen = world.current(),
                    false => world.nodes[node].agent.refused = Some(id),
                }
                world.think(self, node, Pace::Usual);
            }
            Step::LandUnanswered(node) => {
                world.faults += 1;
                world.journal.write_unanswered = true;
                let write = world.nodes[node].agent.in_flight.take()?;
                world.land(self, write);
            }
            Step::GiveUp(node) => {
                world.faults += 1;
                world.journal.write_unanswered = true;
                let write = world.nodes[node].agent.in_flight.take()?;
                world.late.push(write);
            }
            Step::LandLate(index) => {
                let write = world.late.remove(index);
                world.land(self, write);
            }
            Step::Answer { asker, member } => world.answer(self, asker, member),
            Step::Finish(node) => {
                world.finish(self, node);
                world.think(self, node, Pace::Usual);
            }
            Step::Commit(node) => world.commit(node),
            Step::Stream(node) => {
                world.stream(node)?;
                world.think(self, node, Pace::Usual);
            }
            Step::Reply(node, id) => {
                world.replied(node, id);
                world.think(self, node, Pace::Usual);
            }
            Step::Disconnect(node, id) => {
                let sender = world.nodes[node].life.senders.remove(&id)?;
                let standby = &world.nodes[usize::from(sender.ordinal)].life;
                if standby.following.is_some_and(|(leader, _)| leader == node) {
                    world.faults += 1;
                }
                world.think(self, node, Pace::Usual);
            }
            Step::Reload(node, id) => world.reload(node, id),
            Step::Checkpointer(node) => {
                world.checkpointer(node);
                world.think(self, node, Pace::Usual);
            }
            Step::Ask(node) => world.ask_to_relay(self, node),
            Step::PromiseEnds(node) => world.promise_ends(self, node)?,
            Step::Mature(node) => world.mature(self, node)?,
            Step::Reach(node) => {
                world.nodes[node].api = Api::Answers;
                world.think(self, node, Pace::Usual);
            }
            Step::Fault(node, fault) => world.fault(self, node, fault),
        }
        Some(())
    }
}
