//! Every process below PID 1: spawning, reaping, and the proof that none is left.
//!
//! One thread reaps. When the postmaster ends, for whatever reason, it *sweeps*: SIGKILL to everything in the
//! PID namespace, repeated, until `wait` says `ECHILD`. PID 1 inherits every orphan, so that is the proof of
//! death (ha.md section 1). A sweep may be begun from any thread without a lock, because a thread that spawns
//! holds the table's lock while the kernel reads the program from a disk that may hang.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use proto::clock::BootTime;
use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, FdFlags, fcntl_setfd},
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, wait, waitid,
    },
};
use tokio::sync::watch;

use crate::boot_clock;

/// How often a sweep repeats SIGKILL: catches what was being spawned meanwhile, and costs nothing.
const SWEEP_INTERVAL: Duration = Duration::from_millis(5);
/// How often the reaper looks for a first child when there is none; the twin nearly always is one.
const CHILDLESS_INTERVAL: Duration = Duration::from_millis(50);

/// Told once about the end of a process, on the reaper's thread: must not wait.
pub(crate) type OnExit = Box<dyn FnOnce(ExitStatus) + Send>;

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// A sweep is under way.
    #[error("processes are being killed; nothing is started meanwhile")]
    Sweeping,
    /// The lock that processes inherit could not be taken.
    #[error("cannot lock {}", .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// Which.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Life of the postmaster, as proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Postmaster {
    /// Nothing is left of it. `last` is `None` if none ran in this run.
    Gone {
        /// How it ended.
        last: Option<ExitStatus>,
    },
    /// It runs.
    Runs(Pid),
}

/// All processes of the container but PID 1.
pub(crate) struct Processes {
    lock_file: PathBuf,
    table: Mutex<Table>,
    /// Boot time at which the sweep under way began, or 0.
    sweeping_since: AtomicU64,
    postmaster: watch::Sender<Postmaster>,
}

#[derive(Default)]
struct Table {
    watched: BTreeMap<i32, OnExit>,
    /// How the postmaster ended, while its remains are swept.
    ended: Option<ExitStatus>,
}

impl Processes {
    /// A table without processes; [`Processes::reap`] must run in a thread of its own.
    pub(crate) fn new(lock_file: PathBuf) -> Self {
        Self {
            lock_file,
            table: Mutex::default(),
            sweeping_since: AtomicU64::new(0),
            postmaster: watch::Sender::new(Postmaster::Gone { last: None }),
        }
    }

    /// Starts a program that may touch the data; it inherits the lock.
    pub(crate) fn spawn(&self, command: &mut Command, on_exit: OnExit) -> Result<Pid, SpawnError> {
        let mut table = self.table();
        let lock = self.inheritable_lock()?;
        let pid = self.spawn_watched(&mut table, command, on_exit)?;
        drop(lock); // the last inherited copy must be the last one (review K-1)
        Ok(pid)
    }

    /// Starts a program that never touches the data and does not hold the lock.
    pub(crate) fn spawn_unlocked(&self, command: &mut Command, on_exit: OnExit) -> Result<Pid, SpawnError> {
        self.spawn_watched(&mut self.table(), command, on_exit)
    }

    /// Starts the postmaster; its end is told by [`Processes::postmaster`].
    pub(crate) fn spawn_postmaster(&self, command: &mut Command) -> Result<Pid, SpawnError> {
        let mut table = self.table();
        let lock = self.inheritable_lock()?;
        let pid = self.spawn_watched(&mut table, command, Box::new(|_| ()))?;
        drop(lock);
        self.postmaster.send_replace(Postmaster::Runs(pid));
        Ok(pid)
    }

    /// Follows the postmaster's life.
    pub(crate) fn postmaster(&self) -> watch::Receiver<Postmaster> {
        self.postmaster.subscribe()
    }

    /// The postmaster, if it runs.
    pub(crate) fn postmaster_pid(&self) -> Option<Pid> {
        match *self.postmaster.borrow() {
            Postmaster::Runs(pid) => Some(pid),
            Postmaster::Gone { .. } => None,
        }
    }

    /// Signals the postmaster, if it runs.
    pub(crate) fn signal_postmaster(&self, signal: Signal) {
        if let Some(pid) = self.postmaster_pid() {
            // It may have died and not been reaped yet: nothing to signal then.
            let _gone = kill_process(pid, signal);
        }
    }

    /// SIGKILL to everything, from any thread, without a lock; the reaper goes on until nothing is left.
    pub(crate) fn begin_sweep(&self) {
        let now = boot_clock::now().0.max(1);
        // Keeps the first beginning: its age says that something hangs.
        let _already = self.sweeping_since.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        kill_everything();
    }

    /// Since when a sweep has been under way.
    pub(crate) fn sweeping_since(&self) -> Option<BootTime> {
        Some(self.sweeping_since.load(Ordering::SeqCst)).filter(|since| *since != 0).map(BootTime)
    }

    /// Reaps for ever.
    pub(crate) fn reap(&self) {
        loop {
            if self.sweeping_since().is_some() {
                self.sweep();
            }
            // Looks without reaping, so that nobody's exit is taken before its start is in the table.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => drop(self.reap_one()),
                Err(Errno::CHILD) => thread::sleep(CHILDLESS_INTERVAL),
                Err(_interrupted) => {}
            }
        }
    }

    fn sweep(&self) {
        loop {
            kill_everything();
            match self.reap_one() {
                Ok(true) => {}
                Ok(false) => thread::sleep(SWEEP_INTERVAL),
                Err(Errno::CHILD) => break,
                Err(_interrupted) => {}
            }
        }
        let mut table = self.table();
        self.sweeping_since.store(0, Ordering::SeqCst);
        if let Some(status) = table.ended.take() {
            self.postmaster.send_replace(Postmaster::Gone { last: Some(status) });
        }
    }

    /// Takes one exit if there is one.
    fn reap_one(&self) -> Result<bool, Errno> {
        let mut table = self.table();
        let Some((pid, status)) = wait(WaitOptions::NOHANG)? else { return Ok(false) };
        let status = ExitStatus::from_raw(status.as_raw());
        if self.postmaster_pid() == Some(pid) {
            table.ended = Some(status);
            self.begin_sweep();
        }
        if let Some(on_exit) = table.watched.remove(&pid.as_raw_nonzero().get()) {
            on_exit(status);
        }
        Ok(true)
    }

    fn spawn_watched(
        &self,
        table: &mut Table,
        command: &mut Command,
        on_exit: OnExit,
    ) -> Result<Pid, SpawnError> {
        if self.sweeping_since().is_some() {
            return Err(SpawnError::Sweeping);
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|source| SpawnError::Spawn { program, source })?;
        let pid = Pid::from_child(&child);
        table.watched.insert(pid.as_raw_nonzero().get(), on_exit);
        Ok(pid)
    }

    fn inheritable_lock(&self) -> Result<File, SpawnError> {
        let locked = || {
            let file = open_lock(&self.lock_file)?;
            flock(&file, FlockOperation::NonBlockingLockShared)?;
            fcntl_setfd(&file, FdFlags::empty())?;
            Ok(file)
        };
        locked().map_err(|source| SpawnError::Lock { path: self.lock_file.clone(), source })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no process of an earlier run holds the lock any more. An earlier container's process that
    /// hangs in a disk write may still touch the data.
    pub(crate) fn earlier_run_is_gone(&self) -> bool {
        open_lock(&self.lock_file)
            .and_then(|file| Ok(flock(&file, FlockOperation::NonBlockingLockExclusive)?))
            .is_ok()
    }
}

fn open_lock(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// `kill(-1, SIGKILL)`: spares PID 1 and the caller, atomic against fork. Only ever called by PID 1 of a PID
/// namespace and its twin, which both check that at their start.
pub(crate) fn kill_everything() {
    // ESRCH: nothing to kill.
    let _nothing = kill_process_group(Pid::INIT, Signal::KILL);
}
