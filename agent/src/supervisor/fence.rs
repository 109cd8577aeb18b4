//! The fence (ha.md section 3, L2): when the agent goes silent, sessions end at F and everything is killed at K.
//!
//! A thread of its own, which shares nothing with the socket, the runtime or any disk but one short lock.
//! The twin process ([`super::twin`]) runs the same decision a little later, in case this process is stopped.

use std::{
    io::{PipeWriter, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use proto::{clock::BootTime, identity::Epoch, wire::supervisor::Fence};
use rustix::{process::Signal, time::ClockId};

use super::{processes::Processes, twin::Orders};
use crate::boot_clock;

/// Longest sleep of the fence's thread: bounds how late it sees a deadline that moved ahead, and how well the
/// lateness of PID 1 is known. Ten wake-ups a second cost nothing measurable.
const TICK: Duration = Duration::from_millis(100);
/// A jump of `REALTIME` against `BOOTTIME` from which on the machine must have been paused (L3).
const JUMP: Duration = Duration::from_millis(500);

/// What the fence demands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Nothing yet.
    Nothing,
    /// End the sessions.
    FastStop,
    /// Kill whatever is left.
    Kill,
}

/// What `fence` demands at `now`.
pub(crate) fn demand(fence: &Fence, now: BootTime) -> Demand {
    match (now >= fence.kill_at, now >= fence.fast_stop_at) {
        (true, _) => Demand::Kill,
        (false, true) => Demand::FastStop,
        (false, false) => Demand::Nothing,
    }
}

/// How long to sleep from `now` so as not to miss a deadline of `fence`.
pub(crate) fn pause(fence: Option<&Fence>, now: BootTime) -> Duration {
    let deadlines = fence.into_iter().flat_map(|fence| [fence.fast_stop_at, fence.kill_at]);
    deadlines
        .filter(|deadline| *deadline > now)
        .map(|deadline| deadline.remaining(now))
        .fold(TICK, Duration::min)
}

/// The fence with both deadlines earlier by `span`.
fn advanced(fence: Fence, span: Duration) -> Fence {
    Fence { fast_stop_at: fence.fast_stop_at - span, kill_at: fence.kill_at - span, ..fence }
}

/// Why a fence was not armed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArmError {
    /// It would act at once.
    #[error("the fence's deadline has passed already")]
    Passed,
    /// SIGKILL before the fast stop.
    #[error("the fence would kill before it stops")]
    Order,
}

/// Why nothing may be promoted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoFence {
    /// None in force.
    #[error("no fence is armed")]
    Unarmed,
    /// It belongs to another claim.
    #[error("the armed fence is of another epoch, {0}")]
    OtherEpoch(Epoch),
    /// Too late.
    #[error("the fence has passed")]
    Passed,
}

/// What the fence has seen and done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// How often it ended a server.
    pub(crate) fired: u64,
    /// Whether it was the fence that ended, or is ending, the present server.
    pub(crate) firing: bool,
    /// Largest delay of the thread's own wake-ups.
    pub(crate) worst_lateness: Duration,
    /// When the machine was last paused.
    pub(crate) jumped_at: Option<BootTime>,
}

/// The armed fence, shared by the socket, the fence's thread and the twin's keeper.
pub(crate) struct Guard {
    processes: Arc<Processes>,
    state: Mutex<State>,
    /// Separate from the lock so that the thread never waits for a reader.
    worst_lateness_us: AtomicU64,
}

#[derive(Default)]
struct State {
    fence: Option<Fence>,
    /// From before a promotion until the end of the server is proven. A closed standby needs no fence.
    may_write: bool,
    seen: Seen,
    twin: Option<PipeWriter>,
}

impl Guard {
    /// No fence yet; [`Guard::watch`] must run in a thread of its own.
    pub(crate) fn new(processes: Arc<Processes>) -> Self {
        Self { processes, state: Mutex::default(), worst_lateness_us: AtomicU64::new(0) }
    }

    /// Sets or moves the fence.
    pub(crate) fn arm(&self, fence: Fence) -> Result<(), ArmError> {
        if fence.kill_at <= boot_clock::now() {
            return Err(ArmError::Passed);
        }
        if fence.kill_at < fence.fast_stop_at {
            return Err(ArmError::Order);
        }
        let mut state = self.state();
        state.fence = Some(fence);
        self.tell_twin(&mut state);
        Ok(())
    }

    /// Permission to promote: from now on the fence fires when it passes, whatever comes of the promotion.
    pub(crate) fn permit_promotion(&self, epoch: Epoch) -> Result<(), NoFence> {
        let mut state = self.state();
        match &state.fence {
            Some(fence) if fence.epoch != epoch => Err(NoFence::OtherEpoch(fence.epoch)),
            Some(fence) if demand(fence, boot_clock::now()) != Demand::Nothing => Err(NoFence::Passed),
            Some(_) => {
                state.may_write = true;
                Ok(())
            }
            None => Err(NoFence::Unarmed),
        }
    }

    /// Takes the fence away, since the server has provably ended; says whether the fence ended it. The twin
    /// may have done that while this process was stopped.
    pub(crate) fn server_ended(&self) -> bool {
        self.enforce(boot_clock::now());
        let mut state = self.state();
        let fired = state.seen.firing;
        state.may_write = false;
        state.fence = None;
        state.seen.firing = false;
        self.tell_twin(&mut state);
        fired
    }

    /// The fence in force.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.state().fence
    }

    /// What the fence has seen and done.
    pub(crate) fn seen(&self) -> Seen {
        let worst_lateness = Duration::from_micros(self.worst_lateness_us.load(Ordering::Relaxed));
        Seen { worst_lateness, ..self.state().seen }
    }

    /// Gives the twin's keeper's newest pipe; the twin learns the present fence at once.
    pub(crate) fn connect_twin(&self, pipe: PipeWriter) {
        let mut state = self.state();
        state.twin = Some(pipe);
        self.tell_twin(&mut state);
    }

    /// Tells the twin which postmaster runs now.
    pub(crate) fn postmaster_changed(&self) {
        self.tell_twin(&mut self.state());
    }

    /// Enforces the fence, for ever.
    pub(crate) fn watch(&self) {
        let mut offset = wall_clock_offset();
        loop {
            let now = boot_clock::now();
            let pause = pause(self.fence().as_ref(), now);
            thread::sleep(pause);
            let woken = boot_clock::now();
            self.note_lateness(woken.since(now + pause));
            offset = self.note_jump(offset, woken);
            self.enforce(woken);
        }
    }

    fn enforce(&self, now: BootTime) {
        let Some(demand) = self.note_demand(now) else { return };
        match demand {
            Demand::Nothing => {}
            Demand::FastStop => self.processes.signal_postmaster(Signal::INT),
            Demand::Kill => self.processes.begin_sweep(),
        }
    }

    fn note_demand(&self, now: BootTime) -> Option<Demand> {
        let mut state = self.state();
        let demand = demand(&state.fence?, now);
        if demand == Demand::Nothing {
            return None;
        }
        if !state.may_write {
            // Firing would only kill tools, or a standby that writes nothing.
            state.fence = None;
            self.tell_twin(&mut state);
            return None;
        }
        if !state.seen.firing {
            state.seen.firing = true;
            state.seen.fired += 1;
        }
        Some(demand)
    }

    fn note_lateness(&self, lateness: Duration) {
        let micros = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
        self.worst_lateness_us.fetch_max(micros, Ordering::Relaxed);
    }

    /// After a pause of the machine both deadlines come earlier by what `BOOTTIME` missed.
    fn note_jump(&self, before: i128, now: BootTime) -> i128 {
        let offset = wall_clock_offset();
        if let Some(missed) = missed(before, offset) {
            let mut state = self.state();
            state.seen.jumped_at = Some(now);
            state.fence = state.fence.map(|fence| advanced(fence, missed));
            self.tell_twin(&mut state);
        }
        offset
    }

    fn tell_twin(&self, state: &mut State) {
        let orders = Orders::new(state.fence.as_ref(), self.processes.postmaster_pid());
        let Some(pipe) = &mut state.twin else { return };
        // A full pipe means that the twin hangs with an older, earlier deadline, which errs on the safe side;
        // a broken one that its keeper is about to start another.
        let _refused = pipe.write(&orders.encode());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `REALTIME` minus `BOOTTIME` in microseconds.
fn wall_clock_offset() -> i128 {
    let wall = rustix::time::clock_gettime(ClockId::Realtime);
    let wall = i128::from(wall.tv_sec) * 1_000_000 + i128::from(wall.tv_nsec) / 1_000;
    wall - i128::from(boot_clock::now().0)
}

/// How much time `BOOTTIME` missed, if it is more than clock discipline explains.
fn missed(before: i128, after: i128) -> Option<Duration> {
    let micros = u64::try_from(after - before).ok()?;
    Some(Duration::from_micros(micros)).filter(|missed| *missed > JUMP)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fence(fast_stop_at: u64, kill_at: u64) -> Fence {
        Fence { epoch: Epoch(1), fast_stop_at: BootTime(fast_stop_at), kill_at: BootTime(kill_at) }
    }

    #[test]
    fn demands_at_the_very_deadline() {
        let fence = fence(100, 200);
        assert_eq!(demand(&fence, BootTime(99)), Demand::Nothing);
        assert_eq!(demand(&fence, BootTime(100)), Demand::FastStop);
        assert_eq!(demand(&fence, BootTime(199)), Demand::FastStop);
        assert_eq!(demand(&fence, BootTime(200)), Demand::Kill);
    }

    #[test]
    fn only_a_forward_jump_counts() {
        assert_eq!(missed(0, 400_000), None);
        assert_eq!(missed(0, 600_000), Some(Duration::from_millis(600)));
        assert_eq!(missed(0, -3_600_000_000), None);
    }

    #[test]
    fn a_jump_moves_both_deadlines_ahead() {
        let fence = advanced(fence(7_000_000, 8_500_000), Duration::from_secs(2));
        assert_eq!((fence.fast_stop_at, fence.kill_at), (BootTime(5_000_000), BootTime(6_500_000)));
    }

    proptest! {
        #[test]
        fn never_sleeps_past_a_deadline(now: u32, fast: u32, span: u16) {
            let now = BootTime(now.into());
            let fence = fence(fast.into(), u64::from(fast) + u64::from(span));
            let woken = now + pause(Some(&fence), now);
            prop_assert!(woken > now);
            for deadline in [fence.fast_stop_at, fence.kill_at] {
                prop_assert!(deadline <= now || woken <= deadline);
            }
            prop_assert!(pause(Some(&fence), now) <= TICK);
        }
    }
}
