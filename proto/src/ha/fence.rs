//! Deadlines of a holder and the proofs about its server (ha.md section 3: L1 to L5).

use std::time::Duration;

use super::{
    lease::{Quiet, Sighting},
    memory::Tenure,
    profile::{Profile, Timing},
    view::{Supervisor, View},
};
use crate::{
    clock::BootTime,
    wire::supervisor::{Fence, Server},
};

/// The slow verdict on PostgreSQL may be this old before the holder stops renewing (L5): long enough for a
/// checkpoint on a slow disk, short beside the time in which people notice.
const VERDICT_MAX_AGE: Duration = Duration::from_secs(20);

/// The longest L that anybody may be living by, as far as is known here: of the Lease or of the configuration.
/// Who has not seen the Lease since its start does not know by which L it may have promised.
pub fn longest_lease(view: &View) -> Duration {
    let configured = view.config.profile.timing().lease;
    match &view.lease.sighting {
        Sighting::Seen(observed) => configured.max(observed.version.duration),
        Sighting::NotYet => Profile::Tolerant.timing().lease,
        Sighting::Missing(_) => configured,
    }
}

/// The fence times that are safe for a Lease that states `lease` (L1): the fastest profile's share of it if no
/// profile fits.
pub fn timing_for(lease: Duration) -> Timing {
    let fits = |profile: &Profile| profile.timing().lease <= lease;
    let timing = [Profile::Tolerant, Profile::Standard, Profile::Fast]
        .iter()
        .find(|profile| fits(profile))
        .map_or_else(|| shrunk(lease), |profile| profile.timing());
    Timing { lease, ..timing }
}

/// Timing for an L below every profile's, which only a hand-edited Lease has.
fn shrunk(lease: Duration) -> Timing {
    let usable = lease.saturating_sub(Duration::from_millis(500));
    Timing { lease, renew_every: usable / 8, fast_stop: usable * 6 / 11, kill: usable * 9 / 11 }
}

/// The timing that the holder lives by: the shorter of what the Lease states and what is configured, so that K
/// grows only after the longer L has landed and shrinks before the shorter L is written (L1, review S-9).
pub fn living_by(view: &View, landed: Duration) -> Timing {
    timing_for(landed.min(view.config.profile.timing().lease))
}

/// The L that the next renewal may state: a shorter one only once the supervisor's fence has shrunk to it.
pub fn next_lease(view: &View, tenure: &Tenure) -> Duration {
    let configured = view.config.profile.timing();
    let fits = |fence: Fence| fence.kill_at <= tenure.counts_from(configured.lease) + configured.kill;
    match view.report().and_then(|report| report.fence) {
        Some(fence) if configured.lease < tenure.duration && !fits(fence) => tenure.duration,
        _ => configured.lease,
    }
}

/// The fence that belongs to the last renewal that landed, or to the last promises. Those are for L, so that K
/// after they were asked for is as safe as K after a renewal (L1).
pub fn wanted(view: &View, tenure: &Tenure) -> Fence {
    let timing = living_by(view, tenure.duration);
    let from = counts_from(view, tenure);
    Fence { epoch: tenure.epoch, fast_stop_at: from + timing.fast_stop, kill_at: from + timing.kill }
}

/// What that fence counts from.
pub fn counts_from(view: &View, tenure: &Tenure) -> BootTime {
    tenure.counts_from(living_by(view, tenure.duration).lease)
}

/// L3: whether an effect may still begin: before F of the last landed renewal or promises, and of the armed
/// fence.
pub fn may_act(view: &View, tenure: &Tenure) -> bool {
    let armed = view.report().and_then(|report| report.fence);
    view.now < wanted(view, tenure).fast_stop_at
        && armed.is_none_or(|fence| fence.epoch != tenure.epoch || view.now < fence.fast_stop_at)
}

/// L5: whether the holder may renew: its supervisor answers, and PostgreSQL, once it is a primary, works.
pub fn may_renew(view: &View, tenure: &Tenure) -> bool {
    let timing = living_by(view, tenure.duration);
    let Some(report) = view.report() else { return false };
    let answers = view.now.since(report.at) < timing.renew_every * 2;
    let serves = !matches!(report.server, Server::Primary { .. });
    let works_at = view.sql.as_ref().and_then(|sql| sql.works_at);
    // A server that was promoted a moment ago has had no verdict yet.
    let works = works_at.unwrap_or(tenure.unbroken_since) + VERDICT_MAX_AGE > view.now;
    answers && (serves || works)
}

/// Proof that nothing here can acknowledge anything under the Lease, if there is one: the lock is free, every
/// process was reaped or has SIGKILL pending, or the server is a standby and its epoch was not opened, so that
/// no promotion can have been ordered.
pub fn quiet(view: &View, opened: bool) -> Option<Quiet> {
    let silent = match (&view.supervisor, view.server()) {
        (Supervisor::Dead, _) | (_, Some(Server::Stopped { .. } | Server::Dying)) => true,
        (_, Some(Server::Starting | Server::Standby { .. })) => !opened,
        (_, Some(Server::Primary { .. } | Server::Stopping) | None) => false,
    };
    silent.then(Quiet::proven)
}

/// Whether a jump of the clock (L3) makes a renewal that was decided at `decided` worthless.
pub fn outlived_by_jump(view: &View, decided: BootTime) -> bool {
    view.report().and_then(|report| report.clock_jumped_at).is_some_and(|jumped| decided < jumped)
}
