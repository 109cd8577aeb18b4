//! The servers of the world: kubelet, supervisor, clients, replication.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    clock::BootTime,
    ha::{
        lease::Sighting,
        memory::Memory,
        sync_names::SyncNames,
        view::{LocalWal, SealedEnd, SqlFacts, Standby, Verified},
    },
    identity::{DataId, Epoch, Ordinal},
    postgres::Lsn,
    wire::{
        config::Durability,
        supervisor::{Answer, Ended, JobEnd, JobKind, Order},
    },
};

use crate::{
    mutants::Mutant,
    server::{Disk, Life, Process, Record, Walsender, Work},
    world::{Agent, Message, STEP, Sql, World},
};

impl World {
    pub(crate) fn kubelet(&mut self, node: usize) {
        let (now, run) = (self.now, self.dice.next());
        let local = self.local(node);
        let mutant = self.mutant;
        let this = &mut self.nodes[node];
        if this.deleted {
            return;
        }
        if this.life.is_none() && now >= this.restart_at {
            this.life = Some(Life { mutant, ..Life::new(run) });
        }
        if this.agent.is_none() && now >= this.agent_at {
            this.agent = Some(Agent {
                memory: Memory::default(),
                started: local,
                sighting: Sighting::NotYet,
                sighted_at: BootTime::default(),
                busy_until: 0,
                refused: None,
                wal: LocalWal::default(),
                peers: BTreeMap::new(),
                sql: Sql::default(),
                switchover: None,
                summary: None,
                next_decision: 0,
            });
        }
    }

    /// The supervisor: the fence, and the end of jobs.
    pub(crate) fn supervise(&mut self, node: usize) {
        let local = self.local(node);
        let now = self.now;
        let unfenced = self.is(Mutant::NoFence);
        let volume = self.nodes[node].volume;
        let Some(life) = &mut self.nodes[node].life else { return };
        if let Some(fence) = life.fence
            && !unfenced
            && (life.is_primary() || matches!(life.process, Process::Stopping { .. }))
            && local >= fence.fast_stop_at
        {
            life.fences += 1;
            life.kill(volume, Ended::Fenced);
        }
        if volume.hung_since.is_none()
            && life.work.as_ref().is_some_and(|work| work.ends <= now)
            && let Some(work) = life.work.take()
        {
            let error = self.finish(node, &work);
            let local = self.local(node);
            if let Some(life) = &mut self.nodes[node].life {
                life.last_job = Some(JobEnd { kind: work.kind, at: local, error });
            }
        }
        let node = &mut self.nodes[node];
        if let (Some(life), Some(disk)) = (&mut node.life, &node.disk)
            && life.process == Process::Starting
            && life.work.is_none()
            && disk.log.len() >= disk.consistent_from
        {
            life.process = Process::Standby;
        }
    }

    pub(crate) fn finish(&mut self, node: usize, work: &Work) -> Option<String> {
        match &work.order {
            Order::Stop { .. } => {
                let life = self.nodes[node].life.as_mut()?;
                if let Process::Stopping { shutdown } = life.process {
                    life.end(Ended::Ordered, Some(shutdown));
                }
                None
            }
            Order::Initdb(_) => {
                let (id, system, record) = (self.dice.next(), self.dice.next(), self.fresh());
                self.nodes[node].disk = Some(Disk {
                    data_id: DataId(id),
                    system,
                    sealed: Epoch(0),
                    opened: None,
                    log: vec![Record { timeline: 1, id: record }],
                    consistent_from: 0,
                });
                None
            }
            Order::Promote { epoch, timeline } => self.promoted(node, *epoch, timeline.0.get()),
            Order::Clone { upstream, epoch, .. } => self.cloned(node, &upstream.host, *epoch),
            Order::Rewind { upstream, epoch } => self.rewound(node, &upstream.host, *epoch),
            _ => None,
        }
    }

    pub(crate) fn promoted(&mut self, node: usize, epoch: Epoch, timeline: u32) -> Option<String> {
        let id = self.fresh();
        let local = self.local(node);
        let chosen_here = self.is(Mutant::LocalTimeline);
        if !self.writes_wal(node) {
            return Some("no space left on device".to_owned());
        }
        let this = &mut self.nodes[node];
        let (life, disk) = (this.life.as_mut()?, this.disk.as_mut()?);
        if life.process != Process::Standby || life.fence.is_none_or(|fence| fence.fast_stop_at <= local) {
            return Some("not promoted".to_owned());
        }
        if disk.log.last().is_some_and(|last| last.timeline >= timeline) {
            // It would get a number that nobody reserved: the supervisor ends it (review S-2).
            let reason = "promoted to another timeline, hence killed".to_owned();
            life.end(Ended::Crashed(reason.clone()), None);
            return Some(reason);
        }
        let last = disk.log.last().map_or(1, |last| last.timeline);
        let timeline = if chosen_here { last + 1 } else { timeline };
        let switch = disk.position().lsn;
        disk.log.push(Record { timeline, id });
        disk.opened = Some(epoch);
        life.following = None;
        life.process = Process::Primary { timeline, switch };
        let disk = disk.clone();
        let data_id = disk.data_id;
        // S3: a timeline has one writer.
        let writer = self.journal.writers.insert(timeline, data_id);
        assert!(writer.is_none(), "S3: timeline {timeline} has two writers");
        self.check_nothing_lost(&disk.log, epoch, "promotes");
        None
    }

    /// S2: what was acknowledged in an earlier epoch is in the log of a later primary.
    pub(crate) fn check_nothing_lost(&self, log: &[Record], epoch: Epoch, does: &str) {
        if self.config.durability == Durability::Async {
            return;
        }
        let has: BTreeSet<u64> = log.iter().map(|record| record.id).collect();
        for (record, acknowledged_in) in &self.journal.acknowledged {
            assert!(
                *acknowledged_in >= epoch || has.contains(record),
                "S2: a primary of epoch {epoch} {does} without record {record}, acknowledged in epoch {acknowledged_in}\n{}",
                self.describe()
            );
        }
    }

    pub(crate) fn source(&self, node: usize, host: &str) -> Option<usize> {
        let ordinal = proto::pod::pod_ordinal(host.split('.').next()?)?;
        let source = usize::from(ordinal.0);
        let life = self.nodes[source].life.as_ref()?;
        let running = matches!(life.process, Process::Primary { .. } | Process::Standby);
        (running && self.connected(node, source) && self.awake(source)).then_some(source)
    }

    pub(crate) fn cloned(&mut self, node: usize, host: &str, epoch: Epoch) -> Option<String> {
        let Some(source) = self.source(node, host) else { return Some("no source".to_owned()) };
        let id = self.dice.next();
        let disk = self.nodes[source].disk.clone()?;
        let length = disk.log.len();
        self.nodes[node].disk =
            Some(Disk { data_id: DataId(id), sealed: epoch, opened: None, consistent_from: length, ..disk });
        None
    }

    pub(crate) fn rewound(&mut self, node: usize, host: &str, epoch: Epoch) -> Option<String> {
        let Some(source) = self.source(node, host) else { return Some("no source".to_owned()) };
        let theirs = self.nodes[source].disk.as_ref()?.log.clone();
        let disk = self.nodes[node].disk.as_mut()?;
        let common = disk.log.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        disk.log.truncate(common);
        disk.sealed = disk.sealed.max(epoch);
        disk.consistent_from = theirs.len();
        None
    }

    /// Clients of this node's server, if it accepts.
    pub(crate) fn serve(&mut self, node: usize) {
        if self.now % self.write_every >= STEP || !self.writable(node) {
            return;
        }
        self.commit(node, true);
    }

    pub(crate) fn writable(&self, node: usize) -> bool {
        self.nodes[node].life.as_ref().is_some_and(Life::is_primary)
    }

    /// Commits a record; it is acknowledged at once if commits do not wait.
    pub(crate) fn commit(&mut self, node: usize, waits: bool) -> Option<Lsn> {
        let id = self.fresh();
        if !self.writable(node) || !self.writes_wal(node) {
            return None;
        }
        let this = &mut self.nodes[node];
        let (life, disk) = (this.life.as_mut()?, this.disk.as_mut()?);
        let Process::Primary { timeline, .. } = life.process else { return None };
        disk.log.push(Record { timeline, id });
        let end = disk.position().lsn;
        let epoch = disk.opened.unwrap_or_default();
        if !waits {
            return Some(end);
        }
        if life.flag {
            life.waiting.push((id, end));
        } else {
            self.acknowledge(id, epoch);
        }
        Some(end)
    }

    pub(crate) fn acknowledge(&mut self, record: u64, epoch: Epoch) {
        self.journal.acknowledged.insert(record, epoch);
        let later: Vec<(Vec<Record>, Epoch)> = self
            .nodes
            .iter()
            .filter(|node| node.life.as_ref().is_some_and(Life::is_primary))
            .filter_map(|node| node.disk.as_ref())
            .filter(|disk| disk.opened.unwrap_or_default() > epoch)
            .map(|disk| (disk.log.clone(), disk.opened.unwrap_or_default()))
            .collect();
        for (log, later) in later {
            self.check_nothing_lost(&log, later, "goes on");
        }
    }

    /// A standby copies from its upstream.
    pub(crate) fn stream(&mut self, node: usize) {
        let upstream = self.nodes[node].life.as_ref().and_then(|life| {
            let runs = matches!(life.process, Process::Standby | Process::Starting)
                && life.work.as_ref().is_none_or(|work| work.kind != JobKind::Start);
            if runs { life.upstream() } else { None }
        });
        let source = upstream.and_then(|(ordinal, slot)| {
            let source = usize::from(ordinal.0);
            let life = self.nodes.get(source)?.life.as_ref()?;
            let running =
                matches!(life.process, Process::Primary { .. } | Process::Standby | Process::Stopping { .. });
            let has_slot = !slot || life.slots.contains(&u8::try_from(node).unwrap());
            (running && has_slot && self.connected(node, source) && self.awake(source)).then_some(source)
        });
        let copied = source.and_then(|source| self.copy(node, source));
        let Some(life) = &mut self.nodes[node].life else { return };
        life.streaming = copied.is_some();
        if let (Some(source), Some((data_id, lsn))) = (source, copied) {
            self.report_flush(node, source, data_id, lsn);
        }
    }

    pub(crate) fn copy(&mut self, node: usize, source: usize) -> Option<(DataId, Lsn)> {
        let theirs = self.nodes[source].disk.as_ref()?.log.clone();
        if self.nodes[node].disk.as_ref()?.log.len() < theirs.len() && !self.writes_wal(node) {
            return None;
        }
        let most = 1 + usize::try_from(self.dice.below(4)).unwrap();
        let disk = self.nodes[node].disk.as_mut()?;
        let length = disk.log.len();
        if length > theirs.len() {
            return None;
        }
        // PostgreSQL looks at timelines only; the content must then be the same.
        if let Some(last) = disk.log.last() {
            if theirs[length - 1].timeline != last.timeline {
                return None;
            }
            assert_eq!(theirs[length - 1], *last, "S3: member {node} streams another fork of its timeline");
        }
        disk.log.extend(theirs[length..].iter().take(most).copied());
        Some((disk.data_id, disk.position().lsn))
    }

    pub(crate) fn report_flush(&mut self, node: usize, source: usize, data_id: DataId, lsn: Lsn) {
        let Some(life) = &mut self.nodes[source].life else { return };
        let run = life.run;
        let names = life.names.clone();
        life.senders.entry(data_id).or_insert_with(|| Walsender {
            ordinal: u8::try_from(node).unwrap(),
            flushed: Lsn(0),
            names,
            seen: 0,
        });
        let delay = self.latency();
        self.send(delay, Message::Flushed { primary: source, run, data_id, lsn });
    }

    pub(crate) fn sql(&self, node: usize) -> Option<SqlFacts> {
        let this = &self.nodes[node];
        let (life, disk, agent) = (this.life.as_ref()?, this.disk.as_ref()?, this.agent.as_ref()?);
        let in_recovery = match life.process {
            Process::Primary { .. } => false,
            Process::Standby => true,
            _ => return None,
        };
        let local = self.local(node);
        Some(SqlFacts {
            at: local,
            in_recovery,
            flushed: disk.position().lsn,
            names: life.names.to_string(),
            commits_wait: agent.sql.commits_wait || self.is(Mutant::WaitNotProven),
            verified: agent.sql.verified.clone(),
            checkpoint_timeline: agent.sql.checkpoint,
            standbys: life
                .senders
                .iter()
                .map(|(id, sender)| {
                    let streaming = sender.seen + 500_000 > self.now;
                    let ordinal = Some(Ordinal(sender.ordinal));
                    (*id, Standby { ordinal, streaming, flushed: sender.flushed })
                })
                .collect(),
            slots: life.slots.iter().copied().map(Ordinal).collect(),
            works_at: Some(local),
        })
    }

    pub(crate) fn order(&mut self, node: usize, order: &Order) -> Option<Answer> {
        let duration = match order {
            Order::Start => 300_000,
            Order::Promote { .. } => 150_000,
            Order::Stop { .. } => 250_000,
            Order::Rewind { .. } => 800_000,
            _ => 1_500_000,
        };
        let duration = duration + self.dice.below(duration);
        let (local, now) = (self.local(node), self.now);
        // The fence is armed in memory; all else waits.
        if self.hangs(node) && !matches!(order, Order::Arm { .. }) {
            let volume = self.nodes[node].volume;
            if let (Order::Kill, Some(life)) = (order, &mut self.nodes[node].life) {
                life.kill(volume, Ended::Ordered);
            }
            return None;
        }
        let this = &mut self.nodes[node];
        let answer = this.life.as_mut()?.order(&mut this.disk, order.clone(), local, now, duration);
        let agent = this.agent.as_mut()?;
        match (order, answer.as_ref().ok()?) {
            (Order::Seal { epoch }, Answer::Sealed(position)) => {
                agent.wal.sealed = Some(SealedEnd { epoch: *epoch, position: *position, at: local });
            }
            (Order::EndOfWal, Answer::EndOfWal(position)) => agent.wal.end = Some((local, *position)),
            _ => {}
        }
        answer.ok()
    }

    pub(crate) fn set_names(&mut self, node: usize, names: SyncNames) {
        let Some(life) = &mut self.nodes[node].life else { return };
        if !life.is_primary() {
            return;
        }
        if names == SyncNames::Off
            && let Some(agent) = &mut self.nodes[node].agent
        {
            agent.sql.commits_wait = false;
        }
        let life = self.nodes[node].life.as_mut().unwrap();
        life.names = names;
        let (run, senders) = (life.run, life.senders.keys().copied().collect::<Vec<_>>());
        // A checkpoint under way keeps the checkpointer from it for seconds.
        let delay = if self.dice.percent(25) { self.dice.below(5_000_000) } else { self.dice.below(300_000) };
        self.send(delay, Message::Checkpointer { primary: node, run });
        for data_id in senders {
            let delay = self.dice.below(400_000);
            self.send(delay, Message::Walsender { primary: node, run, data_id });
        }
    }

    pub(crate) fn verify(&mut self, node: usize, epoch: Epoch, names: String) {
        let shown = self.nodes[node].life.as_ref().map(|life| life.names.to_string());
        if shown.as_ref() != Some(&names) {
            return;
        }
        let at = self.local(node);
        if let Some(lsn) = self.commit(node, false)
            && let Some(agent) = &mut self.nodes[node].agent
        {
            agent.sql.verified = Some(Verified { epoch, names, lsn, at });
        }
    }

    pub(crate) fn checkpointer(&mut self, primary: usize, run: u64) {
        let node = &mut self.nodes[primary];
        let Some(life) = node.life.as_mut().filter(|life| life.run == run && life.is_primary()) else {
            return;
        };
        life.flag = life.names != SyncNames::Off;
        let epoch = node.disk.as_ref().and_then(|disk| disk.opened).unwrap_or_default();
        if !life.flag {
            for (record, _) in std::mem::take(&mut life.waiting) {
                self.acknowledge(record, epoch);
            }
        }
    }

    /// A standby's flush reaches its walsender. A frozen server acknowledges when it wakes.
    pub(crate) fn flushed(&mut self, primary: usize, run: u64, data_id: DataId, lsn: Lsn) {
        if !self.awake(primary) {
            let delay = self.nodes[primary].frozen_until - self.now;
            self.send(delay, Message::Flushed { primary, run, data_id, lsn });
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[primary];
        let Some(life) = node.life.as_mut().filter(|life| life.run == run) else { return };
        let Some(sender) = life.senders.get_mut(&data_id) else { return };
        sender.flushed = sender.flushed.max(lsn);
        sender.seen = now;
        if !life.is_primary() {
            return;
        }
        let released = life.release(data_id);
        let epoch = node.disk.as_ref().and_then(|disk| disk.opened).unwrap_or_default();
        for record in released {
            self.acknowledge(record, epoch);
        }
    }
}
