//! The twin: a second process that enforces the same fence if the supervisor itself is stopped or starved.
//!
//! It learns each deadline through its standard input, in messages that a pipe keeps whole, and reads no disk
//! afterwards. When it dies, its keeper starts another.

use std::{
    fs::File,
    io::{self, PipeWriter, Read},
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use proto::{clock::BootTime, identity::Epoch, wire::supervisor::Fence};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, dup, ioctl_fionbio},
    process::{Pid, Signal, getppid, kill_process},
};

use super::{
    fence::{Demand, Guard, demand, pause},
    processes::{Processes, SpawnError, kill_everything},
};
use crate::boot_clock;

/// How much later than the supervisor the twin acts, so that two never do the same thing at once. It must
/// fit into the half second that L1 keeps for late scheduling.
const LAG: Duration = Duration::from_millis(100);
/// Pause before a twin that could not be started is tried again: short against K - F of every profile.
const RETRY: Duration = Duration::from_millis(50);

/// What the twin must know: the fence, and whom a fast stop is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    fence: Option<(BootTime, BootTime)>,
    postmaster: Option<Pid>,
}

/// Two deadlines and a process id, eight bytes each.
const MESSAGE: usize = 24;

impl Orders {
    /// The present state of affairs.
    pub(crate) fn new(fence: Option<&Fence>, postmaster: Option<Pid>) -> Self {
        Self { fence: fence.map(|fence| (fence.fast_stop_at, fence.kill_at)), postmaster }
    }

    /// One message; all zero means no fence.
    pub(crate) fn encode(self) -> [u8; MESSAGE] {
        let (fast_stop_at, kill_at) = self.fence.unwrap_or_default();
        let pid = self.postmaster.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
        let mut message = [0; MESSAGE];
        for (bytes, value) in message.chunks_mut(8).zip([fast_stop_at.0, kill_at.0, u64::from(pid)]) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        message
    }

    fn decode(message: [u8; MESSAGE]) -> Self {
        let mut values = message
            .chunks(8)
            .map(|bytes| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)));
        let mut next = || values.next().unwrap_or_default();
        let (fast_stop_at, kill_at, pid) = (BootTime(next()), BootTime(next()), next());
        Self {
            fence: (kill_at != BootTime(0)).then_some((fast_stop_at, kill_at)),
            postmaster: i32::try_from(pid).ok().and_then(Pid::from_raw),
        }
    }

    /// The fence as the twin keeps it: later by [`LAG`].
    fn lagging_fence(self) -> Option<Fence> {
        let (fast_stop_at, kill_at) = self.fence?;
        Some(Fence { epoch: Epoch(0), fast_stop_at: fast_stop_at + LAG, kill_at: kill_at + LAG })
    }
}

/// Keeps a twin running, for ever.
pub(crate) fn keep(processes: &Arc<Processes>, guard: &Guard) {
    loop {
        let (ended, wait) = mpsc::channel();
        match start(processes, ended) {
            Ok(pipe) => {
                guard.connect_twin(pipe);
                // The sender lives in the table of processes until the twin is reaped.
                let _status = wait.recv();
            }
            Err(SpawnError::Sweeping) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no twin enforces the fence");
            }
        }
        thread::sleep(RETRY);
    }
}

fn start(processes: &Processes, ended: mpsc::Sender<ExitStatus>) -> Result<PipeWriter, SpawnError> {
    let (reader, writer) = io::pipe().map_err(pipe_error)?;
    ioctl_fionbio(&writer, true).map_err(|error| pipe_error(error.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("agent").arg("twin").stdin(Stdio::from(reader)).stdout(Stdio::null());
    processes.spawn_unlocked(&mut command, Box::new(move |status| ended.send(status).unwrap_or_default()))?;
    Ok(writer)
}

fn pipe_error(source: io::Error) -> SpawnError {
    SpawnError::Spawn { program: "the twin's pipe".to_owned(), source }
}

/// Why the twin ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TwinError {
    /// Started by somebody else.
    #[error("only a supervisor that is PID 1 of its container starts a twin")]
    Stranger,
    /// The pipe from the supervisor failed.
    #[error("cannot read the supervisor's orders")]
    Pipe(#[source] io::Error),
}

/// The twin's life: ends when the supervisor does.
pub(crate) fn run() -> Result<(), TwinError> {
    if getppid() != Some(Pid::INIT) {
        return Err(TwinError::Stranger);
    }
    let mut pipe = File::from(dup(io::stdin()).map_err(|error| TwinError::Pipe(error.into()))?);
    let mut orders = Orders::default();
    loop {
        let fence = orders.lagging_fence();
        match next_orders(&mut pipe, pause(fence.as_ref(), boot_clock::now()))? {
            Next::Nothing => {}
            Next::Orders(newer) => orders = newer,
            Next::Ended => return Ok(()),
        }
        enforce(orders);
    }
}

enum Next {
    Nothing,
    Orders(Orders),
    Ended,
}

fn next_orders(pipe: &mut File, patience: Duration) -> Result<Next, TwinError> {
    let timeout = Timespec::try_from(patience).ok();
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], timeout.as_ref()) {
        Ok(0) | Err(Errno::INTR) => return Ok(Next::Nothing),
        Ok(_) => {}
        Err(error) => return Err(TwinError::Pipe(error.into())),
    }
    let mut message = [0; MESSAGE];
    match pipe.read_exact(&mut message) {
        Ok(()) => Ok(Next::Orders(Orders::decode(message))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Next::Ended),
        Err(error) => Err(TwinError::Pipe(error)),
    }
}

fn enforce(orders: Orders) {
    let Some(fence) = orders.lagging_fence() else { return };
    match (demand(&fence, boot_clock::now()), orders.postmaster) {
        (Demand::Kill, _) => kill_everything(),
        (Demand::FastStop, Some(postmaster)) => {
            // ESRCH: it has ended already.
            let _gone = kill_process(postmaster, Signal::INT);
        }
        (Demand::FastStop, None) | (Demand::Nothing, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn orders_survive_the_pipe(fast: u64, kill in 1_u64.., pid in 0..i32::MAX) {
            let fence = Fence { epoch: Epoch(3), fast_stop_at: BootTime(fast), kill_at: BootTime(kill) };
            let orders = Orders::new(Some(&fence), Pid::from_raw(pid));
            prop_assert_eq!(Orders::decode(orders.encode()), orders);
        }
    }

    #[test]
    fn no_fence_is_all_zero() {
        assert_eq!(Orders::new(None, None).encode(), [0; MESSAGE]);
        assert_eq!(Orders::decode([0; MESSAGE]), Orders::default());
    }
}
