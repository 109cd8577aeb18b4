//! The fake PostgreSQL under the fake supervisor.

use proto::{
    clock::BootTime,
    ha::sync_names::SyncNames,
    identity::{DataId, Ordinal, RunId},
    pod,
    postgres::{Lsn, SystemIdentifier, Timeline},
    wire::supervisor::{
        Answer, Data, Durable, Ended, Fence, Job, JobEnd, JobKind, Order, Refusal, Report, Server, Upstream,
    },
};

use crate::{
    Rules,
    ages::{self, NOW},
    mutants::Mutant,
    walsender::released_up_to,
    world::{Disk, Life, Node, Process, Record, Violation, Walsender, World},
};

/// The cluster that all data is of.
const SYSTEM: SystemIdentifier = SystemIdentifier(7);

impl Node {
    pub(crate) fn report(&self, now: BootTime) -> Report {
        let life = &self.life;
        let server = match &life.process {
            Process::Stopped { last, shutdown } => {
                Server::Stopped { last: last.clone(), shutdown: *shutdown }
            }
            Process::Starting => Server::Starting,
            Process::Standby => {
                let following = life.following.map(|(leader, slot)| self.upstream(leader, slot));
                Server::Standby { streaming: following.is_some(), following, replayed: None }
            }
            Process::Primary { timeline, switch } => {
                Server::Primary { timeline: Timeline::new(*timeline).unwrap(), switch_lsn: Some(*switch) }
            }
            Process::Stopping { .. } => Server::Stopping,
        };
        let (fast_stop_at, kill_at) = ages::fence_at(life.armed);
        Report {
            run: RunId(format!("run{}", life.run)),
            at: now,
            data: self.disk.as_ref().map_or(Data::Empty, |disk| Data::Present(durable(disk))),
            server,
            job: life.job.as_ref().map(|job| Job { kind: kind(job), since: NOW, progress: None }),
            last_job: life.last_job.clone(),
            fence: life.fence.map(|epoch| Fence { epoch, fast_stop_at, kill_at }),
            generation: String::new(),
            pending_restart: Vec::new(),
            fence_count: 0,
            worst_lateness_us: 0,
            disk_ok_at: Some(NOW),
            space: None,
            terminating: false,
            clock_jumped_at: None,
        }
    }

    /// As the core names it ([`proto::ha::view::View::upstream`]).
    fn upstream(&self, leader: usize, slot: bool) -> Upstream {
        let leader = Ordinal(u8::try_from(leader).unwrap());
        Upstream {
            host: pod::member_host("db", leader, "test"),
            port: pod::POSTGRES_PORT,
            slot: slot.then(|| pod::member_slot(Ordinal(self.ordinal))),
        }
    }
}

fn durable(disk: &Disk) -> Durable {
    Durable {
        data_id: disk.data_id,
        sealed: disk.sealed,
        opened: disk.opened,
        system_identifier: SYSTEM,
        major_version: 16,
    }
}

fn kind(order: &Order) -> JobKind {
    match order {
        Order::Promote { .. } => JobKind::Promote,
        Order::Clone { .. } => JobKind::Clone,
        Order::Rewind { .. } => JobKind::Rewind,
        _ => JobKind::Stop,
    }
}

fn refuse(message: &str) -> Result<Answer, Refusal> {
    Err(Refusal { transient: true, message: message.to_owned() })
}

pub(crate) fn upstream_of(upstream: &Upstream) -> usize {
    usize::from(pod::pod_ordinal(upstream.host.split('.').next().unwrap()).unwrap().0)
}

impl World {
    pub(crate) fn order(&mut self, rules: &Rules, node: usize, order: &Order) -> Result<Answer, Refusal> {
        let life = &mut self.nodes[node].life;
        match order {
            Order::Arm { epoch, fast_stop_at, .. } => {
                if *fast_stop_at <= NOW {
                    return refuse("the deadline has passed");
                }
                life.fence = Some(*epoch);
                life.armed = ages::armed_at(*fast_stop_at);
            }
            Order::Seal { epoch } => return self.seal(rules, node, *epoch),
            Order::EndOfWal => {
                return match (&self.nodes[node].disk, &self.nodes[node].life.process) {
                    (Some(disk), Process::Standby) => Ok(Answer::EndOfWal(disk.end())),
                    _ => refuse("not yet"),
                };
            }
            Order::Follow { upstream, epoch } => return self.follow(node, upstream, *epoch),
            Order::Kill => life.end(Ended::Ordered, None),
            Order::Start => return self.start(node),
            Order::Stop { .. } => return self.stop(node),
            Order::Promote { .. } | Order::Clone { .. } | Order::Rewind { .. } => {
                return self.begin(rules, node, order);
            }
            _ => {}
        }
        Ok(Answer::Accepted)
    }

    fn start(&mut self, node: usize) -> Result<Answer, Refusal> {
        let Node { disk: Some(disk), life, .. } = &mut self.nodes[node] else { return refuse("no data") };
        if !matches!(life.process, Process::Stopped { .. }) {
            return refuse("runs already");
        }
        life.process =
            if disk.log.len() < disk.consistent_from { Process::Starting } else { Process::Standby };
        Ok(Answer::Accepted)
    }

    fn stop(&mut self, node: usize) -> Result<Answer, Refusal> {
        match self.nodes[node].life.process {
            Process::Primary { .. } => {
                self.append(node);
                let end = self.nodes[node].disk.as_ref().unwrap().end();
                let life = &mut self.nodes[node].life;
                life.process = Process::Stopping { shutdown: end };
                life.waiting.clear();
                life.job = Some(Order::Stop { checkpoint: true, kill_at: NOW });
                Ok(Answer::Accepted)
            }
            Process::Stopped { .. } | Process::Stopping { .. } => refuse("stops or is stopped"),
            Process::Starting | Process::Standby => {
                self.nodes[node].life.end(Ended::Ordered, None);
                Ok(Answer::Accepted)
            }
        }
    }

    fn begin(&mut self, rules: &Rules, node: usize, order: &Order) -> Result<Answer, Refusal> {
        let Node { disk, life, .. } = &mut self.nodes[node];
        let sealed = disk.as_ref().map(|disk| disk.sealed).unwrap_or_default();
        let fits = match order {
            Order::Promote { epoch, .. } => {
                let sealed_higher = *epoch < sealed && !rules.is(Mutant::PromotionBelowSeal);
                life.process == Process::Standby && life.fence == Some(*epoch) && !sealed_higher
            }
            Order::Clone { epoch, .. } | Order::Rewind { epoch, .. } => {
                matches!(life.process, Process::Stopped { .. }) && *epoch >= sealed
            }
            _ => false,
        };
        if !fits || life.job.is_some() {
            return refuse("not in this state");
        }
        life.job = Some(order.clone());
        Ok(Answer::Accepted)
    }

    fn seal(&mut self, rules: &Rules, node: usize, epoch: proto::identity::Epoch) -> Result<Answer, Refusal> {
        let Node { disk: Some(disk), life, .. } = &mut self.nodes[node] else { return refuse("no data") };
        let promoting =
            matches!(life.job, Some(Order::Promote { .. })) && !rules.is(Mutant::PromotionBelowSeal);
        if epoch < disk.sealed || life.is_primary() || promoting {
            return refuse("sealed higher, or a primary");
        }
        disk.sealed = epoch;
        if !rules.is(Mutant::SealForgotten) {
            disk.stored = epoch;
        }
        if !rules.is(Mutant::SealLeavesReceiver) {
            life.following = None;
        }
        match life.process {
            Process::Standby | Process::Stopped { .. } => Ok(Answer::Sealed(disk.end())),
            _ => refuse("not yet"),
        }
    }

    fn follow(
        &mut self,
        node: usize,
        upstream: &Upstream,
        epoch: proto::identity::Epoch,
    ) -> Result<Answer, Refusal> {
        let Node { disk: Some(disk), life, .. } = &mut self.nodes[node] else { return refuse("no data") };
        if epoch < disk.sealed || !matches!(life.process, Process::Standby | Process::Starting) {
            return refuse("sealed higher, or not a standby");
        }
        (disk.sealed, disk.stored) = (epoch, epoch);
        life.following = Some((upstream_of(upstream), upstream.slot.is_some()));
        Ok(Answer::Accepted)
    }

    /// A job ends.
    pub(crate) fn finish(&mut self, rules: &Rules, node: usize) {
        let Some(order) = self.nodes[node].life.job.take() else { return };
        let done = match &order {
            Order::Promote { epoch, timeline } => self.promoted(rules, node, *epoch, timeline.0.get()),
            Order::Clone { upstream, epoch, .. } => self.cloned(rules, node, upstream_of(upstream), *epoch),
            Order::Rewind { upstream, epoch } => self.rewound(node, upstream_of(upstream), *epoch),
            _ => {
                let life = &mut self.nodes[node].life;
                if let Process::Stopping { shutdown } = life.process {
                    life.end(Ended::Ordered, Some(shutdown));
                }
                true
            }
        };
        if done {
            let at = NOW - std::time::Duration::from_millis(200);
            self.nodes[node].life.last_job = Some(JobEnd { kind: kind(&order), at, error: None });
        }
    }

    fn promoted(&mut self, rules: &Rules, node: usize, epoch: proto::identity::Epoch, timeline: u32) -> bool {
        let Node { disk: Some(disk), life, .. } = &mut self.nodes[node] else { return false };
        let last = disk.log.last().map_or(1, |last| last.timeline);
        let timeline = if rules.is(Mutant::LocalTimeline) { last + 1 } else { timeline };
        if life.process != Process::Standby || life.fence != Some(epoch) || last >= timeline {
            return false;
        }
        life.following = None;
        life.process = Process::Primary { timeline, switch: disk.lsn() };
        disk.opened = Some(epoch);
        let id = disk.data_id;
        self.append(node);
        if self.journal.writers.insert(timeline, id).is_some() {
            self.violate(Violation::S3);
        }
        if !rules.is(Mutant::LocalTimeline) && !self.journal.opened.contains(&(epoch, id, timeline)) {
            self.violate(Violation::S4);
        }
        self.check_nothing_lost(node);
        true
    }

    /// The server at `source`, if it can be copied or rewound to.
    fn source(&self, source: usize) -> Option<&Disk> {
        let running = matches!(self.nodes[source].life.process, Process::Primary { .. } | Process::Standby);
        self.nodes[source].disk.as_ref().filter(|_| running)
    }

    fn cloned(&mut self, rules: &Rules, node: usize, from: usize, epoch: proto::identity::Epoch) -> bool {
        let Some(theirs) = self.source(from).cloned() else { return false };
        let old = self.nodes[node].disk.as_ref().map(|disk| disk.data_id);
        let used = self.nodes.iter().filter_map(|node| node.disk.as_ref()).map(|disk| disk.data_id.0 / 10);
        let next = DataId((used.max().unwrap_or_default() + 1) * 10 + node as u64);
        let kept = old.unwrap_or(DataId(10 + node as u64));
        let data_id = if rules.is(Mutant::CloneKeepsName) { kept } else { next };
        let consistent_from = theirs.log.len();
        self.nodes[node].disk =
            Some(Disk { data_id, sealed: epoch, stored: epoch, opened: None, consistent_from, ..theirs });
        true
    }

    fn rewound(&mut self, node: usize, from: usize, epoch: proto::identity::Epoch) -> bool {
        let Some(theirs) = self.source(from).map(|disk| disk.log.clone()) else { return false };
        let Some(disk) = &mut self.nodes[node].disk else { return false };
        let common = disk.log.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        disk.log.truncate(common);
        disk.sealed = disk.sealed.max(epoch);
        disk.stored = disk.sealed;
        disk.consistent_from = theirs.len();
        true
    }

    /// A primary writes a record.
    pub(crate) fn append(&mut self, node: usize) -> Option<Lsn> {
        let Node { disk: Some(disk), life, .. } = &mut self.nodes[node] else { return None };
        let Process::Primary { timeline, .. } = life.process else { return None };
        disk.log.push(Record { timeline, writer: disk.data_id });
        Some(disk.lsn())
    }

    pub(crate) fn commit(&mut self, node: usize) {
        let Some(end) = self.append(node) else { return };
        self.journal.commits += 1;
        match self.nodes[node].life.flag {
            true => {
                self.nodes[node].life.waiting.insert(end);
            }
            false => self.acknowledge(node, end),
        }
    }

    /// A standby copies a record from its upstream, and its reply sets out.
    pub(crate) fn stream(&mut self, node: usize) -> Option<()> {
        let (source, _) = self.nodes[node].life.following?;
        let runs = matches!(self.nodes[node].life.process, Process::Standby | Process::Starting);
        let serves = matches!(
            self.nodes[source].life.process,
            Process::Primary { .. } | Process::Standby | Process::Stopping { .. }
        );
        if !runs || !serves || source == node {
            return None;
        }
        let theirs = self.nodes[source].disk.as_ref()?.log.clone();
        let Node { disk: Some(disk), life, .. } = &mut self.nodes[node] else { return None };
        let length = disk.log.len();
        let last = disk.log.last()?;
        // PostgreSQL looks at timelines only; the content must then be the same.
        if length > theirs.len() || theirs[length - 1].timeline != last.timeline {
            return None;
        }
        let forked = theirs[length - 1] != *last;
        disk.log.extend(theirs.get(length));
        if life.process == Process::Starting && disk.log.len() >= disk.consistent_from {
            life.process = Process::Standby;
        }
        let (id, sent) = (disk.data_id, disk.lsn());
        if forked {
            self.violate(Violation::S3);
        }
        // Walsenders of a standby count for nobody; they are known again with the first record after a promotion.
        let upstream = &mut self.nodes[source].life;
        if !matches!(upstream.process, Process::Primary { .. } | Process::Stopping { .. }) {
            return Some(());
        }
        let names = upstream.names.clone();
        let sender = upstream.senders.entry(id).or_insert(Walsender {
            ordinal: u8::try_from(node).unwrap(),
            sent: Lsn(0),
            flushed: Lsn(0),
            names,
        });
        sender.sent = sent;
        Some(())
    }

    /// A standby's reply reaches its walsender.
    pub(crate) fn replied(&mut self, node: usize, by: DataId) {
        let life = &mut self.nodes[node].life;
        let Some(sender) = life.senders.get_mut(&by) else { return };
        sender.flushed = sender.sent;
        if !life.is_primary() {
            return;
        }
        for end in life.release(by) {
            self.acknowledge(node, end);
        }
    }

    pub(crate) fn reload(&mut self, node: usize, id: DataId) {
        let life = &mut self.nodes[node].life;
        if let Some(sender) = life.senders.get_mut(&id) {
            sender.names.clone_from(&life.names);
        }
    }

    pub(crate) fn checkpointer(&mut self, node: usize) {
        let life = &mut self.nodes[node].life;
        life.flag = life.names != SyncNames::Off;
        if !life.flag {
            for end in std::mem::take(&mut life.waiting) {
                self.acknowledge(node, end);
            }
        }
    }

    pub(crate) fn reload_all(&mut self, node: usize) {
        let ids: Vec<DataId> = self.nodes[node].life.senders.keys().copied().collect();
        for id in ids {
            self.reload(node, id);
        }
        self.checkpointer(node);
    }
}

impl Life {
    /// Which commits may be acknowledged after a reply of this standby.
    fn release(&mut self, by: DataId) -> Vec<Lsn> {
        let senders = self.senders.iter().map(|(id, sender)| (*id, &sender.names, sender.flushed));
        let Some(limit) = released_up_to(by, senders) else { return Vec::new() };
        let done: Vec<Lsn> = self.waiting.iter().copied().filter(|end| *end <= limit).collect();
        self.waiting.retain(|end| *end > limit);
        done
    }
}
