//! Several agents with their fake servers, one fake API server, and a network that loses things.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use proto::{
    clock::BootTime,
    ha::{
        self,
        action::{Event, Summary},
        lease::{Contents, LeaseVersion, LeaseWrite, Sighting, WriteId},
        memory::Memory,
        profile::Profile,
        question::{Question, Relay, Reply},
        view::{LeaseView, LocalWal, Me, PeerReplies, Supervisor, SwitchoverRequest, Verified, View},
    },
    identity::{DataId, Epoch, Ordinal},
    postgres::{Lsn, Timeline},
    wire::{
        config::{AgentConfig, Durability},
        http::Role,
    },
};

use crate::{
    dice::Dice,
    mutants::Mutant,
    server::{Disk, Life, RECORD},
    volumes::Volume,
};

/// Length of one step, in microseconds.
pub(crate) const STEP: u64 = 20_000;
/// Agents decide this often.
pub(crate) const DECIDE_EVERY: u64 = 100_000;
/// A request without an answer is given up after this.
pub(crate) const TIMEOUT: u64 = 1_000_000;

/// One pod.
pub(crate) struct Node {
    pub(crate) disk: Option<Disk>,
    pub(crate) volume: Volume,
    /// `None` while the postgres container is down.
    pub(crate) life: Option<Life>,
    pub(crate) restart_at: u64,
    /// `None` while the agent is down.
    pub(crate) agent: Option<Agent>,
    pub(crate) agent_at: u64,
    pub(crate) pod_uid: u64,
    pub(crate) frozen_until: u64,
    /// Local clock: offset, and rate in per cent.
    pub(crate) clock: (u64, u64),
    /// How far its wall clock, which names writes, is off.
    pub(crate) wall_hours: i64,
    pub(crate) label: Option<Role>,
    pub(crate) deleted: bool,
}

/// One agent process with what its driver keeps.
pub(crate) struct Agent {
    pub(crate) memory: Memory,
    pub(crate) started: BootTime,
    pub(crate) sighting: Sighting,
    /// When it came in.
    pub(crate) sighted_at: BootTime,
    pub(crate) busy_until: u64,
    pub(crate) refused: Option<WriteId>,
    pub(crate) wal: LocalWal,
    pub(crate) peers: BTreeMap<Ordinal, PeerReplies>,
    pub(crate) sql: Sql,
    pub(crate) switchover: Option<SwitchoverRequest>,
    pub(crate) summary: Option<Summary>,
    pub(crate) next_decision: u64,
}

#[derive(Default)]
pub(crate) struct Sql {
    pub(crate) checkpoint: Option<Timeline>,
    pub(crate) verified: Option<Verified>,
    pub(crate) commits_wait: bool,
}

/// The Lease as the API server stores it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Zero: there is none.
    pub(crate) version: u64,
    /// `None`: never initialised.
    pub(crate) contents: Option<Contents>,
    /// Whether the document can be read.
    pub(crate) legible: bool,
}

pub(crate) enum Message {
    GetArrives {
        node: usize,
        sent: BootTime,
        deadline: u64,
    },
    PutArrives {
        node: usize,
        sent: BootTime,
        deadline: u64,
        write: LeaseWrite,
    },
    LeaseAnswer {
        node: usize,
        started: BootTime,
        sighting: Option<Sighting>,
        refused: Option<WriteId>,
        sent: BootTime,
    },
    Question {
        from: usize,
        to: usize,
        question: Question,
    },
    Reply {
        from: usize,
        to: usize,
        question: Question,
        reply: Reply,
    },
    RelayArrives {
        member: usize,
        asker: usize,
        agent: BootTime,
        relay: Box<Relay>,
        deadline: u64,
    },
    RelayDone {
        member: usize,
        asker: usize,
        agent: BootTime,
        relay: Box<Relay>,
        shown: Option<LeaseVersion>,
    },
    Flushed {
        primary: usize,
        run: u64,
        data_id: DataId,
        lsn: Lsn,
    },
    Walsender {
        primary: usize,
        run: u64,
        data_id: DataId,
    },
    Checkpointer {
        primary: usize,
        run: u64,
    },
}

/// What happened, for the checks and for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// Acknowledged records with the epoch of the primary that did.
    pub(crate) acknowledged: BTreeMap<u64, Epoch>,
    /// Who promoted to which timeline.
    pub(crate) writers: BTreeMap<u32, DataId>,
    /// Whose data opened each epoch.
    pub(crate) opened: BTreeMap<Epoch, DataId>,
    pub(crate) events: Vec<(u64, usize, Event)>,
    /// What the Lease said last, whoever wrote it.
    pub(crate) last_epoch: Epoch,
    /// What an agent wrote last.
    pub(crate) agents_epoch: Epoch,
    pub(crate) last_timeline: u32,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) dice: Dice,
    pub(crate) nodes: Vec<Node>,
    pub(crate) lease: Stored,
    pub(crate) api_up: bool,
    pub(crate) api_read_only: bool,
    pub(crate) api_cut: BTreeSet<usize>,
    pub(crate) writes_lost: u64,
    pub(crate) cut: BTreeSet<(usize, usize)>,
    pub(crate) queue: BTreeMap<(u64, u64), Message>,
    pub(crate) counter: u64,
    pub(crate) config: AgentConfig,
    pub(crate) journal: Journal,
    /// Clients write this often per primary.
    pub(crate) write_every: u64,
    /// Servers end by their deadline also when nothing is frozen (honest clocks): S1 is checked.
    pub(crate) honest: bool,
    /// Whether agents learn of changes by a watch, or only by polling.
    pub(crate) watched: bool,
    /// What is wrong with this world, if anything.
    pub(crate) mutant: Option<Mutant>,
    pub(crate) trace: bool,
}

pub(crate) fn config(replicas: u8, durability: Durability) -> AgentConfig {
    AgentConfig {
        database_uid: "uid".to_owned(),
        replicas,
        durability,
        min_sync_replicas: 1,
        profile: Profile::Standard,
        sync_timeout_ms: 10_000,
        io_timeout_ms: 6_000,
        max_lag_bytes: 100 * RECORD,
        system_identifier: None,
        parameters: BTreeMap::new(),
        hba: Vec::new(),
        app_database: "app".to_owned(),
        volume_bytes: 1 << 30,
        accept_loss: None,
        generation: String::new(),
        archive: None,
    }
}

impl World {
    pub(crate) fn new(seed: u64, pods: usize, config: AgentConfig) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = (0..pods)
            .map(|node| Node {
                disk: None,
                volume: Volume::default(),
                life: None,
                restart_at: dice.below(500_000),
                agent: None,
                agent_at: dice.below(500_000),
                pod_uid: dice.next(),
                frozen_until: 0,
                clock: (1_000_000 + dice.below(1 << 40), 97 + dice.below(7)),
                wall_hours: (i64::try_from(node).unwrap() * 7) % 5 - 2,
                label: None,
                deleted: false,
            })
            .collect();
        Self {
            now: 0,
            dice,
            nodes,
            lease: Stored { version: 1, contents: None, legible: true },
            api_up: true,
            api_read_only: false,
            api_cut: BTreeSet::new(),
            writes_lost: 0,
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            counter: 0,
            config,
            journal: Journal::default(),
            write_every: 200_000,
            honest: true,
            watched: !seed.is_multiple_of(4),
            mutant: None,
            trace: std::env::var_os("HA_TRACE").is_some(),
        }
    }

    pub(crate) fn local(&self, node: usize) -> BootTime {
        let (offset, rate) = self.nodes[node].clock;
        BootTime(offset + self.now / 100 * rate)
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(crate) fn send(&mut self, delay: u64, message: Message) {
        let key = (self.now + delay, self.fresh());
        self.queue.insert(key, message);
    }

    pub(crate) fn latency(&mut self) -> u64 {
        2_000 + self.dice.below(30_000)
    }

    pub(crate) fn reaches_api(&self, node: usize) -> bool {
        self.api_up && !self.api_cut.contains(&node)
    }

    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub(crate) fn awake(&self, node: usize) -> bool {
        self.nodes[node].frozen_until <= self.now
    }

    /// One step of the world; panics when a safety property is violated.
    pub(crate) fn step(&mut self) {
        self.now += STEP;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let message = entry.remove();
            self.deliver(message);
        }
        for node in 0..self.nodes.len() {
            if self.awake(node) {
                self.kubelet(node);
                self.supervise(node);
                self.serve(node);
                self.stream(node);
                self.think(node);
            }
        }
        self.check();
    }

    pub(crate) fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        while self.now < end {
            self.step();
        }
    }

    /// Clocks that run at a third or at three times the speed: time proves nothing any more, and S2 and S3 must
    /// hold all the same.
    pub(crate) fn break_clocks(&mut self) {
        self.honest = false;
        self.set_rates(&[33, 60, 100, 170, 300]);
    }

    /// From now on each clock runs at one of these rates, in per cent.
    pub(crate) fn set_rates(&mut self, rates: &[u64]) {
        for node in 0..self.nodes.len() {
            let draw = self.dice.below(rates.len() as u64);
            let (now, rate) = (self.local(node), rates[usize::try_from(draw).unwrap()]);
            // Continues from where it is.
            self.nodes[node].clock = (now.0.saturating_sub(self.now / 100 * rate), rate);
        }
    }

    /// Runs until `done`, and says how long it took.
    pub(crate) fn until(&mut self, limit: u64, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let begin = self.now;
        while !done(self) {
            assert!(self.now < begin + limit, "not within {limit} us: {what}\n{}", self.describe());
            self.step();
        }
        self.now - begin
    }

    pub(crate) fn think(&mut self, node: usize) {
        let due = self.nodes[node].agent.as_ref().is_some_and(|agent| agent.next_decision <= self.now);
        if !due {
            return;
        }
        let view = self.view(node);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        agent.next_decision = self.now + DECIDE_EVERY;
        let decision = ha::decide(&agent.memory, &view);
        agent.memory = decision.memory;
        agent.summary = Some(decision.summary);
        for action in decision.actions {
            if self.trace {
                eprintln!("{:>9} [{node}] {action:?}", self.now / 1000);
            }
            self.act(node, action);
        }
    }

    pub(crate) fn view(&mut self, node: usize) -> View {
        let wall = self.nodes[node].wall_hours * 3_600_000_000;
        let next_write = WriteId(i64::try_from(self.fresh()).unwrap() + wall);
        let local = self.local(node);
        let sql = self.sql(node);
        let this = &self.nodes[node];
        let agent = this.agent.as_ref().unwrap();
        View {
            now: local,
            started_at: match self.is(Mutant::PromiseForgotten) {
                true => BootTime::default(),
                false => agent.started,
            },
            me: Me {
                ordinal: Ordinal(u8::try_from(node).unwrap()),
                pod: format!("db-{node}"),
                pod_uid: format!("uid{}", this.pod_uid),
                database: "db".to_owned(),
                namespace: "test".to_owned(),
            },
            config: self.config.clone(),
            lease: LeaseView {
                sighting: agent.sighting.clone(),
                busy: agent.busy_until > self.now,
                refused: agent.refused,
                next_write,
            },
            supervisor: match &this.life {
                Some(life) => {
                    let mut report = life.report(this.disk.as_ref(), local);
                    report.disk_ok_at = this.volume.hung_since.or(report.disk_ok_at);
                    report.space = Some(this.volume.space());
                    Supervisor::Reported(Box::new(report))
                }
                None => Supervisor::Dead,
            },
            wal: agent.wal.clone(),
            sql,
            peers: agent.peers.clone(),
            label: this.label,
            deletion_requested: false,
            switchover: agent.switchover,
        }
    }

    /// S1: at most one server is a primary, if clocks are honest and nothing is frozen.
    pub(crate) fn check(&self) {
        let primaries =
            self.nodes.iter().filter(|node| node.life.as_ref().is_some_and(Life::is_primary)).count();
        assert!(!self.honest || primaries <= 1, "S1: {primaries} primaries\n{}", self.describe());
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = format!("at {} ms; lease {:?}\n", self.now / 1000, self.lease.contents);
        for (index, node) in self.nodes.iter().enumerate() {
            let disk =
                node.disk.as_ref().map(|disk| (disk.data_id, disk.sealed, disk.opened, disk.position()));
            let life =
                node.life.as_ref().map(|life| (&life.process, &life.following, life.streaming, &life.names));
            let doing =
                node.agent.as_ref().and_then(|agent| agent.summary.as_ref()).map(|s| (&s.doing, s.role));
            let _ = writeln!(text, "[{index}] {disk:?} {life:?} {doing:?} label {:?}", node.label);
        }
        text
    }
}
