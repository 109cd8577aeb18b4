//! A fake PostgreSQL under a fake supervisor: a log of records instead of WAL, walsenders that reload their
//! synchronous names one by one, and a checkpointer that sets the shared flag in its own time (ha.md section 10).

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    clock::BootTime,
    ha::sync_names::SyncNames,
    identity::{DataId, Epoch, Ordinal, RunId},
    postgres::{Lsn, SystemIdentifier, Timeline, WalPosition},
    wire::supervisor::{
        Answer, Data, Durable, Ended, Fence, Job, JobEnd, JobKind, Order, Refusal, Report, Server, Upstream,
    },
};

/// Bytes that a record takes.
pub(crate) const RECORD: u64 = 100;

use crate::{mutants::Mutant, walsender::released_up_to};

/// Numbers of shutdown records begin here; at most one server stops at one instant under one timeline.
const SHUTDOWN: u64 = 1 << 60;

/// One record: which timeline it was written on, and a number that no other record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) timeline: u32,
    pub(crate) id: u64,
}

/// What survives a crash.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) data_id: DataId,
    pub(crate) system: u64,
    pub(crate) sealed: Epoch,
    pub(crate) opened: Option<Epoch>,
    pub(crate) log: Vec<Record>,
    /// The data is not consistent before the log is this long (after a rewind or clone).
    pub(crate) consistent_from: usize,
}

impl Disk {
    pub(crate) fn position(&self) -> WalPosition {
        let timeline = self.log.last().map_or(1, |record| record.timeline);
        WalPosition { timeline: Timeline::new(timeline).unwrap(), lsn: Lsn(self.log.len() as u64 * RECORD) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Process {
    Stopped {
        last: Option<Ended>,
        shutdown: Option<WalPosition>,
    },
    Starting,
    Standby,
    Primary {
        timeline: u32,
        switch: Lsn,
    },
    Stopping {
        shutdown: WalPosition,
    },
    /// SIGKILL is pending on what waits for a hung volume.
    Dying,
}

/// What a primary knows of an attached standby.
#[derive(Clone, Debug)]
pub(crate) struct Walsender {
    pub(crate) ordinal: u8,
    pub(crate) flushed: Lsn,
    /// Its own copy of the names; reloaded at its own time.
    pub(crate) names: SyncNames,
    pub(crate) seen: u64,
}

/// A job under way, with what it will do.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) kind: JobKind,
    pub(crate) order: Order,
    pub(crate) since: BootTime,
    pub(crate) ends: u64,
}

/// One life of the container.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) run: u64,
    pub(crate) process: Process,
    pub(crate) work: Option<Work>,
    pub(crate) last_job: Option<JobEnd>,
    pub(crate) fence: Option<Fence>,
    pub(crate) following: Option<Upstream>,
    pub(crate) streaming: bool,
    /// As a new session shows it.
    pub(crate) names: SyncNames,
    /// Whether commits wait: set by the checkpointer.
    pub(crate) flag: bool,
    pub(crate) senders: BTreeMap<DataId, Walsender>,
    pub(crate) slots: BTreeSet<u8>,
    /// Commits that wait: record and end.
    pub(crate) waiting: Vec<(u64, Lsn)>,
    pub(crate) terminating: bool,
    pub(crate) fences: u64,
    /// What is wrong with this supervisor, if anything.
    pub(crate) mutant: Option<Mutant>,
}

impl Life {
    pub(crate) fn new(run: u64) -> Self {
        Self {
            run,
            process: Process::Stopped { last: None, shutdown: None },
            work: None,
            last_job: None,
            fence: None,
            following: None,
            streaming: false,
            names: SyncNames::Closed,
            flag: true,
            senders: BTreeMap::new(),
            slots: BTreeSet::new(),
            waiting: Vec::new(),
            terminating: false,
            fences: 0,
            mutant: None,
        }
    }

    pub(crate) fn report(&self, disk: Option<&Disk>, now: BootTime) -> Report {
        let server = match &self.process {
            Process::Stopped { last, shutdown } => {
                Server::Stopped { last: last.clone(), shutdown: *shutdown }
            }
            Process::Starting => Server::Starting,
            Process::Standby => Server::Standby {
                following: self.following.clone(),
                streaming: self.streaming,
                replayed: None,
            },
            Process::Primary { timeline, switch } => {
                Server::Primary { timeline: Timeline::new(*timeline).unwrap(), switch_lsn: Some(*switch) }
            }
            Process::Stopping { .. } => Server::Stopping,
            Process::Dying => Server::Dying,
        };
        Report {
            run: RunId(format!("run{}", self.run)),
            at: now,
            data: disk.map_or(Data::Empty, |disk| {
                Data::Present(Durable {
                    data_id: disk.data_id,
                    sealed: disk.sealed,
                    opened: disk.opened,
                    system_identifier: SystemIdentifier(disk.system),
                    major_version: 16,
                })
            }),
            server,
            job: self.work.as_ref().map(|work| Job { kind: work.kind, since: work.since, progress: None }),
            last_job: self.last_job.clone(),
            fence: self.fence,
            generation: String::new(),
            pending_restart: Vec::new(),
            fence_count: self.fences,
            worst_lateness_us: 0,
            disk_ok_at: Some(now),
            space: None,
            terminating: self.terminating,
            clock_jumped_at: None,
        }
    }

    pub(crate) fn is_primary(&self) -> bool {
        matches!(self.process, Process::Primary { .. })
    }

    pub(crate) fn end(&mut self, last: Ended, shutdown: Option<WalPosition>) {
        self.process = Process::Stopped { last: Some(last), shutdown };
        self.following = None;
        self.streaming = false;
        self.names = SyncNames::Closed;
        self.flag = true;
        self.senders.clear();
        self.waiting.clear();
    }

    fn refuse(message: &str) -> Result<Answer, Refusal> {
        Err(Refusal { transient: true, message: message.to_owned() })
    }

    /// Carries out an order; jobs begin, and end after `duration`.
    pub(crate) fn order(
        &mut self,
        disk: &mut Option<Disk>,
        order: Order,
        local: BootTime,
        now: u64,
        duration: u64,
    ) -> Result<Answer, Refusal> {
        let kind = match &order {
            Order::Arm { epoch, fast_stop_at, kill_at } => {
                if *kill_at <= local {
                    return Self::refuse("the deadline has passed");
                }
                self.fence = Some(Fence { epoch: *epoch, fast_stop_at: *fast_stop_at, kill_at: *kill_at });
                return Ok(Answer::Accepted);
            }
            Order::Seal { epoch } => return self.seal(disk, *epoch),
            Order::EndOfWal => {
                // Read from files, whatever runs; an unfinished copy has no end yet.
                return match disk {
                    Some(disk) if disk.log.len() >= disk.consistent_from => {
                        Ok(Answer::EndOfWal(self.end_of(disk)))
                    }
                    Some(_) => Self::refuse("not consistent yet"),
                    None => Self::refuse("no data"),
                };
            }
            Order::Follow { upstream, epoch } => return self.follow(disk, upstream, *epoch),
            Order::Kill => {
                self.work = None;
                self.end(Ended::Ordered, None);
                return Ok(Answer::Accepted);
            }
            Order::Start => JobKind::Start,
            Order::Promote { epoch, .. } => {
                if self.fence.is_none_or(|fence| fence.epoch != *epoch || fence.fast_stop_at <= local) {
                    return Self::refuse("no armed fence");
                }
                JobKind::Promote
            }
            Order::Stop { .. } => JobKind::Stop,
            Order::Clone { epoch, .. } | Order::Rewind { epoch, .. } => {
                if disk.as_ref().is_some_and(|disk| *epoch < disk.sealed) {
                    return Self::refuse("sealed higher");
                }
                match &order {
                    Order::Clone { .. } => JobKind::Clone,
                    _ => JobKind::Rewind,
                }
            }
            Order::Initdb(_) => JobKind::Initdb,
            Order::Exit | Order::Report | Order::Configure(_) => return Ok(Answer::Accepted),
        };
        if self.work.is_some() {
            return Self::refuse("another job runs");
        }
        self.begin(disk, kind, order, local, now + duration)
    }

    fn begin(
        &mut self,
        disk: &mut Option<Disk>,
        kind: JobKind,
        order: Order,
        since: BootTime,
        ends: u64,
    ) -> Result<Answer, Refusal> {
        let stopped = matches!(self.process, Process::Stopped { .. });
        let fits = match kind {
            JobKind::Start => stopped && disk.is_some(),
            JobKind::Initdb => stopped && disk.is_none(),
            JobKind::Clone | JobKind::Rewind => stopped,
            JobKind::Promote => self.process == Process::Standby,
            JobKind::Stop => !stopped,
        };
        if !fits {
            return Self::refuse("not in this state");
        }
        if kind == JobKind::Stop {
            let disk = disk.as_mut().unwrap();
            if let Process::Primary { timeline, .. } = self.process {
                disk.log.push(Record { timeline, id: SHUTDOWN + ends });
            }
            self.process = Process::Stopping { shutdown: disk.position() };
            self.waiting.clear();
        }
        if kind == JobKind::Start {
            self.process = Process::Starting;
        }
        self.work = Some(Work { kind, order, since, ends });
        Ok(Answer::Accepted)
    }

    fn seal(&mut self, disk: &mut Option<Disk>, epoch: Epoch) -> Result<Answer, Refusal> {
        let Some(disk) = disk else { return Self::refuse("no data") };
        if epoch < disk.sealed || self.is_primary() {
            return Self::refuse("sealed higher, or a primary");
        }
        if self.work.as_ref().is_some_and(|work| work.kind == JobKind::Promote) {
            return Self::refuse("promoting");
        }
        disk.sealed = epoch;
        if self.mutant != Some(Mutant::SealLeavesReceiver) {
            self.following = None;
            self.streaming = false;
        }
        match self.process {
            Process::Standby => Ok(Answer::Sealed(self.end_of(disk))),
            _ => Self::refuse("not yet"),
        }
    }

    fn end_of(&self, disk: &Disk) -> WalPosition {
        let mut end = disk.position();
        if self.mutant == Some(Mutant::UnderReportedEnd) {
            end.lsn = Lsn(end.lsn.0 - end.lsn.0 % (8 * RECORD));
        }
        end
    }

    fn follow(
        &mut self,
        disk: &mut Option<Disk>,
        upstream: &Upstream,
        epoch: Epoch,
    ) -> Result<Answer, Refusal> {
        let Some(disk) = disk else { return Self::refuse("no data") };
        if epoch < disk.sealed || !matches!(self.process, Process::Standby | Process::Starting) {
            return Self::refuse("sealed higher, or not a standby");
        }
        disk.sealed = epoch;
        if self.following.as_ref() != Some(upstream) {
            self.streaming = false;
        }
        self.following = Some(upstream.clone());
        Ok(Answer::Accepted)
    }

    /// Whom this server streams from.
    pub(crate) fn upstream(&self) -> Option<(Ordinal, bool)> {
        let upstream = self.following.as_ref()?;
        let name = upstream.host.split('.').next()?;
        Some((proto::pod::pod_ordinal(name)?, upstream.slot.is_some()))
    }

    /// A walsender got a reply: which commits may be acknowledged.
    pub(crate) fn release(&mut self, by: DataId) -> Vec<u64> {
        let senders = self.senders.iter().map(|(id, sender)| (*id, &sender.names, sender.flushed));
        let Some(limit) = released_up_to(by, senders) else { return Vec::new() };
        let (done, waiting) = self.waiting.iter().partition(|(_, end)| *end <= limit);
        self.waiting = waiting;
        let done: Vec<(u64, Lsn)> = done;
        done.into_iter().map(|(id, _)| id).collect()
    }
}
