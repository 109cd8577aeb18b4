//! What the supervisor knows, in memory: reports are made from here and wait for nothing.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::{
    clock::BootTime,
    identity::{Epoch, RunId},
    postgres::{Lsn, Timeline, WalPosition},
    wire::supervisor::{Data, Ended, Job, JobEnd, JobKind, Report, Server, Upstream},
};

use super::{
    fence::Guard,
    local::Observed,
    probe::Probe,
    processes::{Postmaster, Processes},
};
use crate::boot_clock;

/// How long SIGKILL may take before the remains count as stuck in the kernel. Freeing the memory of a large
/// server takes some tenths of a second.
const DYING_AFTER: Duration = Duration::from_secs(1);

/// A finished promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promoted {
    /// The timeline obtained.
    pub(crate) timeline: Timeline,
    /// Where it began.
    pub(crate) switch_lsn: Option<Lsn>,
}

/// All of it.
pub(crate) struct Known {
    pub(crate) data: Data,
    pub(crate) following: Option<Upstream>,
    /// `None` until the server has answered once.
    pub(crate) observed: Option<Observed>,
    /// The promotion that has been ordered: leaving recovery is no surprise.
    pub(crate) promoting: Option<(Epoch, Timeline)>,
    pub(crate) promoted: Option<Promoted>,
    /// A stop has been ordered.
    pub(crate) stopping: bool,
    /// Why the supervisor itself ended the server, if it did.
    pub(crate) cause: Option<Ended>,
    /// The end of the last server has been looked into.
    pub(crate) settled: bool,
    pub(crate) last: Option<Ended>,
    pub(crate) shutdown: Option<WalPosition>,
    pub(crate) job: Option<Job>,
    pub(crate) last_job: Option<JobEnd>,
    pub(crate) generation: String,
    pub(crate) pending_restart: Vec<String>,
    pub(crate) terminating: bool,
}

/// The shared memory of all tasks and threads. Its lock is never held over anything that waits.
pub(crate) struct Facts {
    run: RunId,
    known: Mutex<Known>,
}

impl Facts {
    /// Nothing is known yet.
    pub(crate) fn new(run: RunId) -> Self {
        let known = Known {
            data: Data::Unread,
            following: None,
            observed: None,
            promoting: None,
            promoted: None,
            stopping: false,
            cause: None,
            settled: true,
            last: None,
            shutdown: None,
            job: None,
            last_job: None,
            generation: String::new(),
            pending_restart: Vec::new(),
            terminating: false,
        };
        Self { run, known: Mutex::new(known) }
    }

    /// Access for a moment.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, now.
    pub(crate) fn report(&self, processes: &Processes, guard: &Guard, probe: &Probe) -> Report {
        let at = boot_clock::now();
        let seen = guard.seen();
        let fence = guard.fence();
        let server = self.server(processes, seen.firing, at);
        let known = self.lock();
        Report {
            run: self.run.clone(),
            at,
            data: known.data.clone(),
            server,
            job: known.job.clone(),
            last_job: known.last_job.clone(),
            fence,
            generation: known.generation.clone(),
            pending_restart: known.pending_restart.clone(),
            fence_count: seen.fired,
            worst_lateness_us: u64::try_from(seen.worst_lateness.as_micros()).unwrap_or(u64::MAX),
            disk_ok_at: probe.ok_at(),
            space: probe.space(),
            terminating: known.terminating,
            clock_jumped_at: seen.jumped_at,
        }
    }

    fn server(&self, processes: &Processes, firing: bool, now: BootTime) -> Server {
        let postmaster = *processes.postmaster().borrow();
        let known = self.lock();
        match (processes.sweeping_since(), postmaster) {
            (Some(since), _) if now.since(since) > DYING_AFTER => Server::Dying,
            (None, Postmaster::Gone { .. }) if known.settled => {
                Server::Stopped { last: known.last.clone(), shutdown: known.shutdown }
            }
            (None, Postmaster::Runs(_)) if !known.stopping && !firing => known.running(),
            _ => Server::Stopping,
        }
    }
}

impl Known {
    /// Highest epoch that must not be undercut, as far as it is known.
    pub(crate) fn sealed(&self) -> Epoch {
        match &self.data {
            Data::Unread | Data::Empty => Epoch::default(),
            Data::Unusable { sealed, .. } => *sealed,
            Data::Present(durable) => durable.sealed,
        }
    }

    fn running(&self) -> Server {
        match (self.promoted, self.observed) {
            (Some(Promoted { timeline, switch_lsn, .. }), _) => Server::Primary { timeline, switch_lsn },
            (None, None) => Server::Starting,
            (None, Some(observed)) => Server::Standby {
                following: self.following.clone(),
                streaming: observed.streaming,
                replayed: observed.replayed,
            },
        }
    }

    /// Forgets the last server: another is about to start.
    pub(crate) fn server_starts(&mut self) {
        self.following = None;
        self.observed = None;
        self.promoting = None;
        self.promoted = None;
        self.stopping = false;
        self.cause = None;
        self.settled = false;
        self.last = None;
        self.shutdown = None;
    }

    /// The server has provably ended.
    pub(crate) fn server_ended(&mut self, last: Ended, shutdown: Option<WalPosition>) {
        self.following = None;
        self.observed = None;
        self.promoting = None;
        self.promoted = None;
        self.stopping = false;
        self.settled = true;
        self.last = Some(last);
        self.shutdown = shutdown;
    }

    /// Notes how the job under way ended, unless another has taken its place.
    pub(crate) fn end_job(&mut self, kind: JobKind, error: Option<String>) {
        if self.job.as_ref().is_some_and(|job| job.kind == kind) {
            self.job = None;
            self.last_job = Some(JobEnd { kind, at: boot_clock::now(), error });
        }
    }
}
