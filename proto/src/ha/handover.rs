//! Giving the Lease back: planned stops, a dead server, a failed claim (ha.md section 7).
//!
//! Stop first, then choose. A release is written only on proof that nothing here can acknowledge ([`Quiet`]).

use std::{collections::BTreeSet, time::Duration};

use super::{
    action::{Action, Event},
    contest::{self, Highest},
    document::{Document, Release, ReleaseReason},
    fence,
    lease::{Claimable, Contents, Observed, Quiet},
    memory::{Handover, Survey, Tenure},
    question::{Reply, SurveyId},
    renewal, sync,
    turn::Turn,
    view::View,
    volume,
};
use crate::{
    identity::Ordinal,
    postgres::WalPosition,
    wire::supervisor::{Ended, Order, Server},
};

/// A fast stop that takes longer is ended by SIGKILL: longer than a checkpoint's worth of dirty buffers should
/// take after one was just made, shorter than a pod's grace period.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait until enough members say that they have the shutdown record. Sealing makes sure of what was
/// acknowledged either way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// How long the one that gave the Lease back leaves it to others.
const STAND_ASIDE: Duration = Duration::from_secs(5);
/// First pause after a failed attempt; doubles with each further one.
const BACK_OFF: Duration = Duration::from_millis(500);
/// Longest pause: a repaired disk must not wait for ever.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);
/// A tenure that lasted less counts as a failed attempt.
const SHORT_TENURE: Duration = Duration::from_mins(1);

/// Whether leadership is being handed over on purpose; begins it if somebody wants it. My server still runs.
pub(super) fn begin_or_continue(turn: &mut Turn<'_>, document: &Document, tenure: &Tenure) -> bool {
    if turn.memory.handover.is_none() {
        turn.memory.handover = wanted(turn, document, tenure);
    }
    let Some(handover) = turn.memory.handover else { return false };
    turn.doing(format!("handing over: {:?}", handover.reason));
    turn.order(Order::Stop { checkpoint: true, kill_at: handover.since + STOP_LIMIT });
    true
}

fn wanted(turn: &mut Turn<'_>, document: &Document, tenure: &Tenure) -> Option<Handover> {
    let view = turn.view;
    let because = |reason, prefer, request| {
        Some(Handover { reason, prefer, request, since: view.now, stopped_at: None, survey: None })
    };
    if view.leaving() {
        return because(ReleaseReason::PodDeleted, None, None);
    }
    // Who stops now could not release, and nobody could claim: what can wait does.
    if renewal::is_broken(view, tenure) {
        return None;
    }
    let somebody = candidates(view, document).next().is_some();
    if view.me.ordinal.0 >= view.config.replicas && somebody {
        return because(ReleaseReason::ScaledDown, None, None);
    }
    if let Some(to) = volume::relief(turn, document) {
        let epoch = turn.summary.epoch;
        let why = format!("its volume is full: leaving the lead to member {to}, which has room");
        turn.actions.push(Action::Emit(Event::SteppedDown { epoch, why }));
        return because(ReleaseReason::DiskFull, Some(to), None);
    }
    let request = view.switchover.filter(|request| turn.memory.switchover_done != Some(request.id))?;
    let possible = match request.to {
        Some(to) if to == view.me.ordinal => Err(format!("member {to} leads already")),
        Some(to) if candidates(view, document).any(|candidate| candidate == to) => Ok(()),
        Some(to) => Err(format!("member {to} does not stream from this leader, so it could not take over")),
        None if somebody => Ok(()),
        None => Err("no member streams from this leader, so none could take over".to_owned()),
    };
    match possible {
        Ok(()) => because(ReleaseReason::Switchover, request.to, Some(request.id)),
        Err(why) => {
            turn.memory.switchover_done = Some(request.id);
            turn.actions.push(Action::Emit(Event::SwitchoverFailed { id: request.id, why }));
            None
        }
    }
}

/// Members that could lead next: listed, wanted, streaming, nearly caught up.
pub(super) fn candidates<'a>(view: &'a View, document: &'a Document) -> impl Iterator<Item = Ordinal> + 'a {
    let members = document
        .members
        .iter()
        .filter(|(ordinal, _)| **ordinal != view.me.ordinal && ordinal.0 < view.config.replicas);
    members.filter_map(|(ordinal, id)| {
        view.sql.as_ref().is_some_and(|sql| sync::is_caught_up(sql, *id)).then_some(*ordinal)
    })
}

/// I opened the epoch, and my server is no primary (any more).
pub(super) fn fallen(turn: &mut Turn<'_>, observed: &Observed, tenure: &Tenure, document: &Document) {
    let Some(quiet) = fence::quiet(turn.view, true) else {
        turn.doing("waiting for my server to end");
        return;
    };
    if let Some(handover) = turn.memory.handover {
        finish(turn, observed, tenure, document, handover, &quiet);
        return;
    }
    let unfit = volume::unfit(turn.view);
    let reason = match (unfit, turn.view.server()) {
        (Some((_, reason)), _) => reason,
        (None, Some(Server::Stopped { last: Some(Ended::Fenced), .. })) => ReleaseReason::Fenced,
        (None, Some(Server::Stopped { last: Some(Ended::Ordered), .. })) if turn.view.leaving() => {
            ReleaseReason::PodDeleted
        }
        (None, _) => ReleaseReason::PostgresDied,
    };
    count_failure(turn, tenure, unfit.map_or("PostgreSQL ended", |(why, _)| why));
    if turn.view.leaving() || !tenure.caught_up.is_empty() || unfit.is_some() {
        turn.doing("my server ended: leaving the lead to others");
        release(turn, observed, document, &quiet, reason, None);
    } else {
        turn.doing("my server died and no standby could lead: starting it again");
        reclaim(turn, observed, document, &quiet);
    }
}

/// An earlier run of my supervisor holds the Lease. It is dead: this one answers, or the lock is free.
pub(super) fn former_run(turn: &mut Turn<'_>, observed: &Observed, document: &Document) {
    let could_follow = turn.memory.tenure.as_ref().is_some_and(|tenure| !tenure.caught_up.is_empty());
    let unfit = volume::unfit(turn.view).is_some();
    if turn.view.report().is_none() || could_follow || unfit || turn.view.leaving() {
        leave_container(turn, observed, document);
        return;
    }
    if let Some(quiet) = fence::quiet(turn.view, false) {
        turn.doing("claiming anew what an earlier run of my supervisor held");
        reclaim(turn, observed, document, &quiet);
    }
}

/// Releases on the proof of death that there is.
fn leave_container(turn: &mut Turn<'_>, observed: &Observed, document: &Document) {
    match fence::quiet(turn.view, false) {
        Some(quiet) => {
            turn.doing("the container ended: leaving the lead to others");
            release(turn, observed, document, &quiet, ReleaseReason::ContainerDied, None);
        }
        None => turn.doing("waiting for my supervisor"),
    }
}

/// A claim that cannot become an open goes back, with a pause before the next.
pub(super) fn give_up(
    turn: &mut Turn<'_>,
    observed: &Observed,
    document: &Document,
    prefer: Option<Ordinal>,
) {
    let Some(quiet) = fence::quiet(turn.view, false) else { return };
    if release(turn, observed, document, &quiet, ReleaseReason::ClaimFailed, prefer) {
        turn.memory.failures = turn.memory.failures.saturating_add(1);
        turn.memory.stand_aside_until = Some(turn.view.now + back_off(turn.memory.failures));
    }
}

fn back_off(failures: u32) -> Duration {
    BACK_OFF.saturating_mul(1 << failures.min(16)).min(MAX_BACK_OFF)
}

/// Counts the end of a short tenure, once.
fn count_failure(turn: &mut Turn<'_>, tenure: &Tenure, why: &str) {
    if turn.memory.failure_counted == Some(tenure.epoch) {
        return;
    }
    turn.memory.failure_counted = Some(tenure.epoch);
    let short = turn.view.now < tenure.unbroken_since + SHORT_TENURE;
    turn.memory.failures = if short { turn.memory.failures.saturating_add(1) } else { 0 };
    let pause = match turn.memory.failures {
        0 | 1 => Duration::ZERO,
        failures => back_off(failures),
    };
    turn.memory.stand_aside_until = Some(turn.view.now + pause);
    turn.actions.push(Action::Emit(Event::SteppedDown { epoch: tenure.epoch, why: why.to_owned() }));
}

/// Claims a new epoch for what my own pod holds: nobody resumes in place, so that a timeline has one writer.
fn reclaim(turn: &mut Turn<'_>, observed: &Observed, document: &Document, quiet: &Quiet) {
    let view = turn.view;
    if turn.memory.stand_aside_until.is_some_and(|until| view.now < until) {
        turn.doing("pausing before another start");
        return;
    }
    let claimable = view.holder().and_then(|me| Claimable::own(observed, &me, quiet));
    if let (Some(claimable), Some(durable)) = (claimable, view.durable())
        && document.lists(view.me.ordinal, durable.data_id)
    {
        let high = Highest { epoch: durable.sealed, timeline: document.timeline };
        contest::take(turn, observed, claimable, document, high, BTreeSet::new());
    }
}

/// The planned stop is done: wait until enough members have its last record, then release.
fn finish(
    turn: &mut Turn<'_>,
    observed: &Observed,
    tenure: &Tenure,
    document: &Document,
    handover: Handover,
    quiet: &Quiet,
) {
    let now = turn.view.now;
    let new = Survey { id: SurveyId(turn.view.lease.next_write), since: now };
    let handover = Handover {
        stopped_at: handover.stopped_at.or(Some(now)),
        survey: handover.survey.or(Some(new)),
        ..handover
    };
    turn.memory.handover = Some(handover);
    let survey = handover.survey.unwrap_or(new);
    let shutdown = match turn.view.server() {
        Some(Server::Stopped { shutdown, .. }) => *shutdown,
        _ => None,
    };
    let waited = now.since(handover.stopped_at.unwrap_or(now));
    if let Some(shutdown) = shutdown
        && waited < SHUTDOWN_PATIENCE
        && !have_it(turn.view, document, tenure, handover, survey, shutdown)
    {
        turn.doing("waiting until the others have the last record");
        let survey = refreshed(turn, handover, survey, shutdown);
        contest::ask_all(turn, survey, false, document.members.keys().copied());
        renewal::renew(turn, observed, tenure, document.clone());
        return;
    }
    turn.doing("releasing the Lease");
    release(turn, observed, document, quiet, handover.reason, handover.prefer);
}

/// A member that answered too low an end is asked again, under a new name.
fn refreshed(turn: &mut Turn<'_>, handover: Handover, survey: Survey, shutdown: WalPosition) -> Survey {
    let low = |reply: &Reply| matches!(reply, Reply::Surveyed(other) if other.position < shutdown);
    let behind =
        turn.view.peers.keys().any(|member| contest::reply(turn.view, *member, survey).is_some_and(low));
    if !behind {
        return survey;
    }
    let again = Survey { id: SurveyId(turn.view.lease.next_write), since: turn.view.now };
    turn.memory.handover = Some(Handover { survey: Some(again), ..handover });
    again
}

fn have_it(
    view: &View,
    document: &Document,
    tenure: &Tenure,
    handover: Handover,
    survey: Survey,
    shutdown: WalPosition,
) -> bool {
    let has = |ordinal: &Ordinal| match contest::reply(view, *ordinal, survey) {
        Some(Reply::Surveyed(other)) => other.position >= shutdown,
        _ => false,
    };
    let having: BTreeSet<_> =
        document.members.iter().filter(|(ordinal, _)| has(ordinal)).map(|(_, id)| *id).collect();
    let enough = match sync::target(document, tenure.epoch) {
        Some(target) => target.has_write_quorum(&having),
        None => true,
    };
    let named = handover.prefer.is_none_or(|prefer| has(&prefer));
    enough && named && !having.is_empty()
}

/// Writes the release. What follows from it is decided when it is seen to have landed.
fn release(
    turn: &mut Turn<'_>,
    observed: &Observed,
    document: &Document,
    quiet: &Quiet,
    reason: ReleaseReason,
    prefer: Option<Ordinal>,
) -> bool {
    let view = turn.view;
    let release = Release { reason, from: view.me.ordinal, prefer };
    let contents = Contents {
        holder: None,
        epoch: observed.version.epoch,
        write_id: view.lease.next_write,
        duration: observed.version.duration,
        document: Document { release: Some(release), ..document.clone() },
    };
    let Some(write) = quiet.release(observed, &view.me.pod_uid, contents) else { return false };
    let written = turn.write(write);
    if written && reason != ReleaseReason::ClaimFailed {
        let until = view.now + STAND_ASIDE;
        turn.memory.stand_aside_until = turn.memory.stand_aside_until.max(Some(until));
    }
    written
}

/// The Lease is not mine: what was being handed over has been.
pub(super) fn conclude(turn: &mut Turn<'_>) {
    if let Some(Handover { request: Some(id), .. }) = turn.memory.handover.take() {
        turn.memory.switchover_done = Some(id);
        turn.actions.push(Action::Emit(Event::SwitchoverReleased { id }));
    }
}
