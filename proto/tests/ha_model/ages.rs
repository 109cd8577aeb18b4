//! Time without clocks.
//!
//! Every decision is made at the same instant [`NOW`]. Whatever the core remembers as a time is put back to one
//! of a few *ages* between decisions: long enough that no pacing and no short patience holds anything up (what
//! the model allows at once, a real agent does after a pause), young enough that nothing has run out. What may
//! run out is a choice of its own: [`Pace::Impatient`], [`Pace::Renew`], and the model's actions `Expire` and
//! `Fence`. Between times that the core compares with each other, the order is kept.

use std::time::Duration;

use proto::{
    clock::BootTime,
    ha::{fence, memory::Memory, profile::Profile},
};

use crate::world::{Node, Seen};

/// When every decision is made.
pub(crate) const NOW: BootTime = BootTime(1_000_000_000_000);
/// Older than anything that counts.
const OLD: Duration = Duration::from_mins(2);
/// Younger than a renewal interval, older than every pacing, a survey's patience and a seal's.
const RECENT: Duration = Duration::from_millis(1_500);
/// Older than the patience with a read quorum and with a shutdown record, and than a renewal interval.
const LONG: Duration = Duration::from_secs(3);
/// How much older a renewal is when the next is due.
const DUE: Duration = Duration::from_millis(1_500);
/// Younger than an end of WAL may be.
const JUST: Duration = Duration::from_millis(400);

/// How much time has passed since an agent last decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pace {
    /// No patience has run out.
    Usual,
    /// All of them have, but that with missing standbys.
    Impatient,
    /// Standbys have been missing for `syncTimeout`.
    Missing,
    /// A renewal is due.
    Renew,
    /// A renewal is so late that others are asked.
    Late,
    /// A moment after that: what they answered comes in.
    Heard,
}

/// How much later a decision is made in which a renewal of a moment ago is late.
const LATE: Duration = Duration::from_millis(3_500);

/// When a decision of this pace is made.
pub(crate) fn now(pace: Pace) -> BootTime {
    match pace {
        Pace::Late | Pace::Heard => NOW + LATE,
        _ => NOW,
    }
}

/// A moment that counts from this tick: all of them are young, and in order.
pub(crate) fn time_of(tick: u8) -> BootTime {
    NOW - RECENT + Duration::from_millis(u64::from(tick))
}

/// The other way round.
pub(crate) fn tick_of(time: BootTime) -> u8 {
    u8::try_from(time.since(NOW - RECENT).as_millis()).unwrap_or(u8::MAX)
}

/// Until when a promise binds that was given at this tick.
pub(crate) fn bound_until(tick: u8) -> BootTime {
    time_of(tick) + OLD
}

/// When that was.
pub(crate) fn given_at(until: BootTime) -> u8 {
    tick_of(until - OLD)
}

/// Whether a remembered renewal still counts.
pub(crate) fn counts(renewed_at: BootTime) -> bool {
    NOW < renewed_at + Profile::Standard.timing().fast_stop
}

/// Lets the delays of a contest pass at once; says whether any was left.
pub(crate) fn hurry(memory: &mut Memory) -> bool {
    let Some(contest) = memory.contest.as_mut().filter(|contest| contest.since > NOW - LONG) else {
        return false;
    };
    contest.since = NOW - LONG;
    contest.survey.iter_mut().for_each(|survey| survey.since = NOW - RECENT);
    true
}

/// Puts the times of a node back to their ages.
pub(crate) fn settle(node: &mut Node, tick: u8) {
    let version = match &node.agent.seen {
        Seen::Version { stored, .. } => Some(stored.version.to_string()),
        Seen::NotYet | Seen::Missing => None,
    };
    let memory = &mut node.agent.memory;
    memory.paced.clear();
    memory.told.clear();
    memory.failures = 0;
    memory.copies = 0;
    // Only promises look at it, while the version is the same; nobody has asked for one before the first tick.
    memory.electorates.take_if(|(of, _)| tick == 0 || Some(&of.0) != version.as_ref());
    memory.stand_aside_until = None;
    memory.leader_seen_at = None;
    memory.followed = false;
    memory.labelled = None;
    memory.idle_since = None;
    memory.starting_since = None;
    for write in &mut memory.writes {
        write.at = young(write.at, tick);
    }
    if let Some(tenure) = &mut memory.tenure {
        tenure.renewed_at = young(tenure.renewed_at, tick);
        tenure.promised.iter_mut().for_each(|(at, _)| *at = young(*at, tick));
        tenure.promised.take_if(|(at, _)| *at <= tenure.renewed_at);
        tenure.unbroken_since = NOW - OLD / 2;
    }
    if let Some(contest) = &mut memory.contest {
        contest.since = NOW - LONG;
        contest.gone_since = NOW - LONG;
        contest.survey.iter_mut().for_each(|survey| survey.since = NOW - RECENT);
    }
    if let Some(takeover) = &mut memory.takeover {
        takeover.since = NOW - RECENT;
        takeover.gone_since = NOW - LONG;
    }
    if let Some(handover) = &mut memory.handover {
        handover.since = NOW - RECENT;
        handover.survey.iter_mut().for_each(|survey| survey.since = NOW - RECENT);
    }
    patience(memory, RECENT);
    order(node);
}

/// A moment of the decision just made is this tick; an earlier one stays.
fn young(time: BootTime, tick: u8) -> BootTime {
    match time {
        time if !counts(time) => NOW - OLD,
        time if time >= NOW => time_of(tick),
        time if time < NOW - RECENT => time + DUE,
        time => time,
    }
}

/// What the core waits for with a limit.
fn patience(memory: &mut Memory, age: Duration) {
    if let Some(takeover) = &mut memory.takeover {
        takeover.own_sealed_at.iter_mut().for_each(|at| *at = NOW - age);
    }
    if let Some(handover) = &mut memory.handover {
        handover.stopped_at.iter_mut().for_each(|at| *at = NOW - age);
    }
    memory.missing_since.values_mut().for_each(|at| *at = NOW - age);
}

/// Ends of WAL and what must be older or younger than they are: only their order matters.
fn order(node: &mut Node) {
    let agent = &mut node.agent;
    let takeover = agent.memory.takeover.as_mut();
    let copying = takeover.as_ref().is_some_and(|takeover| takeover.catching_up.is_some());
    if !copying {
        agent.wal.end = None;
    }
    // A job that was taken note of only voids older ends.
    if agent.memory.remade_at >= node.life.last_job.as_ref().map(|job| job.at) {
        node.life.last_job = None;
    }
    if agent.wal.sealed.is_none_or(|sealed| Some(sealed.at) > agent.memory.remade_at)
        && node.life.last_job.is_none()
    {
        agent.memory.remade_at = None;
    }
    let mut times: Vec<&mut BootTime> = Vec::new();
    if let Some(takeover) = takeover {
        times.push(&mut takeover.own_after);
        times.extend(takeover.catching_up.iter_mut());
    }
    times.extend(agent.memory.remade_at.iter_mut());
    times.extend(agent.wal.sealed.iter_mut().map(|sealed| &mut sealed.at));
    times.extend(agent.wal.end.iter_mut().map(|(at, _)| at));
    times.extend(node.life.last_job.iter_mut().map(|job| &mut job.at));
    times.retain(|time| **time > BootTime::default());
    times.sort_unstable();
    let (mut last, mut rank) = (BootTime::default(), 0);
    for time in times {
        if *time > last {
            last = *time;
            rank += 1;
        }
        *time = NOW - JUST + Duration::from_millis(rank);
    }
}

/// Lets a pace's time pass before a decision.
pub(crate) fn pass(memory: &mut Memory, pace: Pace) {
    match pace {
        Pace::Usual | Pace::Late | Pace::Heard => {}
        Pace::Impatient => {
            patience(memory, LONG);
            if let Some(takeover) = &mut memory.takeover {
                takeover.catching_up.iter_mut().for_each(|at| *at = NOW - OLD);
            }
        }
        Pace::Missing => memory.missing_since.values_mut().for_each(|at| *at = NOW - OLD),
        Pace::Renew => {
            let tenure = memory.tenure.iter_mut().filter(|tenure| counts(tenure.renewed_at));
            tenure.for_each(|tenure| tenure.renewed_at = tenure.renewed_at - DUE);
        }
    }
}

/// Whether a pace would make a difference.
pub(crate) fn matters(memory: &Memory, pace: Pace) -> bool {
    match pace {
        Pace::Usual | Pace::Heard => true,
        Pace::Impatient => {
            let takeover = memory.takeover.as_ref();
            takeover.is_some_and(|t| t.own_sealed_at.is_some() || t.catching_up.is_some())
                || memory.handover.is_some_and(|handover| handover.stopped_at.is_some())
        }
        Pace::Missing => !memory.missing_since.is_empty(),
        Pace::Renew => memory.tenure.as_ref().is_some_and(|tenure| counts(tenure.renewed_at)),
        // Only a write of its own tells an agent who else may vote.
        Pace::Late => memory.tenure.as_ref().is_some_and(|tenure| {
            tenure.own && counts(tenure.promised.map_or(tenure.renewed_at, |(at, _)| at))
        }),
    }
}

/// A holder's deadline has passed: none of its renewals counts any more, landed or not.
pub(crate) fn outdate(memory: &mut Memory) {
    memory.writes.iter_mut().for_each(|write| write.at = NOW - OLD);
    if let Some(tenure) = &mut memory.tenure {
        tenure.renewed_at = NOW - OLD;
        tenure.promised = None;
    }
}

/// When the version that an agent sees was first seen, and confirmed last.
pub(crate) fn sighted(expired: bool) -> (BootTime, BootTime) {
    match expired {
        true => (NOW - OLD, NOW - RECENT),
        false => (NOW - RECENT, NOW - RECENT),
    }
}

/// The fence that was armed with this tick, as a report shows it.
pub(crate) fn fence_at(armed: u8) -> (BootTime, BootTime) {
    let timing = fence::timing_for(Profile::Standard.timing().lease);
    (time_of(armed) + timing.fast_stop, time_of(armed) + timing.kill)
}

/// The tick that a fence which ends at this time counts from.
pub(crate) fn armed_at(fast_stop_at: BootTime) -> u8 {
    tick_of(fast_stop_at - Profile::Standard.timing().fast_stop)
}
