//! Leading: from the open to the last renewal (ha.md sections 3, 4.5, 4.6 and 5).

use std::time::Duration;

use super::{
    action::{Action, Event, TookOver},
    document::{Document, Opening, ReleaseReason},
    fence, handover,
    lease::Observed,
    members,
    memory::{Paced, Tenure, Told},
    promise, renewal, sync,
    turn::Turn,
    view::Verified,
    volume,
};
use crate::{
    identity::Ordinal,
    postgres::{Lsn, Timeline},
    wire::{
        config::Durability,
        http::Role,
        supervisor::{Order, Server},
    },
};

/// Other pods' stale labels are looked for this often: clearing them may fail.
const STALE_LABELS_EVERY: Duration = Duration::from_secs(30);
/// A checkpoint may take minutes; one that was lost is ordered again after this.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(10);
/// A tenure that lasted this long was no failure.
const STABLE_AFTER: Duration = Duration::from_mins(1);

/// I hold the Lease and have opened the epoch.
pub(super) fn lead(turn: &mut Turn<'_>, observed: &Observed, document: &Document, opening: Opening) {
    let tenure = renewal::tenure(turn, observed, document);
    turn.memory.contest = None;
    let tenure = extended(turn, observed, document, tenure);
    arm(turn, &tenure);
    if volume::must_end(turn.view, &tenure) {
        turn.doing("ending my server, whose volume does not answer");
        turn.order(Order::Kill);
        renewal::renew(turn, observed, &tenure, document.clone());
        return;
    }
    match turn.view.server() {
        Some(Server::Starting | Server::Standby { .. }) if turn.memory.handover.is_none() => {
            promote(turn, &tenure, opening);
            renewal::renew(turn, observed, &tenure, document.clone());
        }
        Some(Server::Primary { timeline, switch_lsn }) if *timeline == opening.timeline => {
            serve(turn, observed, &tenure, document, *switch_lsn);
        }
        Some(Server::Primary { .. }) => {
            // Another number than the reserved one: this timeline may have another writer (review S-2).
            turn.doing("ending a primary on a timeline that was not reserved");
            turn.order(Order::Kill);
        }
        Some(Server::Stopping) => {
            turn.doing("stopping");
            renewal::renew(turn, observed, &tenure, document.clone());
        }
        Some(Server::Starting | Server::Standby { .. } | Server::Stopped { .. } | Server::Dying) => {
            handover::fallen(turn, observed, &tenure, document);
        }
        None => turn.doing("waiting for my supervisor"),
    }
}

/// The tenure, extended by others' promises while there is something to keep running.
fn extended(turn: &mut Turn<'_>, observed: &Observed, document: &Document, tenure: Tenure) -> Tenure {
    let runs = matches!(
        turn.view.server(),
        Some(Server::Starting | Server::Standby { .. } | Server::Primary { .. })
    );
    match runs && turn.memory.handover.is_none() {
        true => promise::extend(turn, observed, document, tenure),
        false => tenure,
    }
}

/// L2: the fence belongs to the last renewal that landed (or to promises), and is armed before a promotion is ordered.
fn arm(turn: &mut Turn<'_>, tenure: &Tenure) {
    let wanted = fence::wanted(turn.view, tenure);
    let Some(report) = turn.view.report() else { return };
    // After a pause of the machine the supervisor moved its fence ahead, and a later renewal moves it on (L3).
    if fence::outlived_by_jump(turn.view, fence::counts_from(turn.view, tenure)) {
        return;
    }
    // A server that has ended has nothing to fence, and the next one starts closed.
    if matches!(report.server, Server::Stopped { .. } | Server::Dying) {
        return;
    }
    if report.fence != Some(wanted) && turn.view.now < wanted.kill_at {
        turn.order(Order::Arm {
            epoch: wanted.epoch,
            fast_stop_at: wanted.fast_stop_at,
            kill_at: wanted.kill_at,
        });
    }
}

fn promote(turn: &mut Turn<'_>, tenure: &Tenure, opening: Opening) {
    turn.doing("promoting");
    let armed = turn.view.report().and_then(|report| report.fence);
    let is_armed = armed.is_some_and(|fence| fence.epoch == tenure.epoch);
    // L3: the deadline is looked at immediately before the effect.
    if is_armed && fence::may_act(turn.view, tenure) {
        turn.order(Order::Promote { epoch: tenure.epoch, timeline: opening.timeline });
    }
}

/// My server is the primary of this epoch.
fn serve(
    turn: &mut Turn<'_>,
    observed: &Observed,
    tenure: &Tenure,
    document: &Document,
    switch: Option<Lsn>,
) {
    let proven = sync::apply(turn, document, tenure.epoch);
    note_caught_up(turn, document, tenure);
    sync::tell(turn, document, tenure.epoch);
    accept(turn, tenure, document);
    if handover::begin_or_continue(turn, document, tenure) {
        turn.summary.role = Role::None;
        renewal::renew(turn, observed, tenure, document.clone());
        return;
    }
    members::keep_slots(turn, document);
    let next = amended(turn, tenure, document, switch, proven.as_ref());
    renewal::renew(turn, observed, tenure, next);
}

/// What the document should say now.
fn amended(
    turn: &mut Turn<'_>,
    tenure: &Tenure,
    document: &Document,
    switch: Option<Lsn>,
    proven: Option<&Verified>,
) -> Document {
    let mut next = document.clone();
    let sql = turn.view.sql.as_ref();
    let checkpoint = sql.and_then(|sql| sql.checkpoint_timeline);
    if let Some(last) = next.history.last_mut() {
        last.switch = switch.unwrap_or(last.switch);
        last.checkpointed |= checkpoint == Some(last.timeline);
    }
    if let Some(members) = members::changed(turn, document) {
        next.members = members;
    } else if let Some(configurations) = sync::next_configurations(turn, document, tenure, proven) {
        next.configurations = configurations;
    }
    let sql = turn.view.sql.as_ref();
    next.leader_lsn = match turn.view.config.durability {
        Durability::Async => sql.map(|sql| sql.flushed).or(document.leader_lsn),
        Durability::Preferred | Durability::Required => None,
    };
    next
}

/// Accepts writes once a local one has been verified under this epoch's own names, while the lease is valid.
fn accept(turn: &mut Turn<'_>, tenure: &Tenure, document: &Document) {
    let view = turn.view;
    let verified = view.sql.as_ref().and_then(|sql| sql.verified.as_ref());
    let opened_names = verified.is_some_and(|verified| verified.epoch == tenure.epoch);
    if !opened_names || !fence::may_act(view, tenure) {
        turn.doing("making sure that commits wait for whom they must");
        return;
    }
    turn.summary.by_promise = tenure.counts_from(Duration::ZERO) > tenure.renewed_at;
    turn.doing(match turn.summary.by_promise {
        true => "leading by promise of other members: the API server cannot be reached, or refuses",
        false => "leading",
    });
    turn.summary.role = Role::Primary;
    turn.summary.leader = Some(view.me.ordinal);
    turn.summary.lease_valid_until = Some(fence::wanted(view, tenure).fast_stop_at);
    if view.now >= tenure.unbroken_since + STABLE_AFTER {
        turn.memory.failures = 0;
    }
    if turn.due(Paced::StaleLabels, STALE_LABELS_EVERY) {
        turn.actions.push(Action::ClearStaleLabels);
    }
    tell_once(turn, tenure, document);
}

fn tell_once(turn: &mut Turn<'_>, tenure: &Tenure, document: &Document) {
    let checkpointed = document.opened(tenure.epoch).is_some_and(|opening| opening.checkpointed);
    if !checkpointed && turn.due(Paced::Checkpoint, CHECKPOINT_RETRY) {
        turn.actions.push(Action::Checkpoint { epoch: tenure.epoch });
    }
    if !turn.memory.told.insert(Told::TookOver) {
        return;
    }
    // An agent that restarted beside its primary took nothing over.
    let Some(takeover) = turn.memory.takeover.take().filter(|takeover| takeover.epoch == tenure.epoch) else {
        return;
    };
    let timeline = document.history.last().map_or(Timeline::FIRST, |last| last.timeline);
    let reason = takeover.reason.map_or_else(|| format!("{:?}", takeover.vacancy), |why| format!("{why:?}"));
    turn.actions.push(Action::Emit(Event::TookOver(TookOver {
        from: takeover.from,
        to: turn.view.me.ordinal,
        planned: takeover.reason.is_some_and(is_planned),
        reason,
        duration: turn.view.now.since(takeover.gone_since),
        timeline,
        epoch: tenure.epoch,
    })));
}

fn is_planned(reason: ReleaseReason) -> bool {
    matches!(reason, ReleaseReason::Switchover | ReleaseReason::PodDeleted | ReleaseReason::ScaledDown)
}

/// Remembers who could take over, for the moment in which my server cannot be asked any more.
fn note_caught_up(turn: &mut Turn<'_>, document: &Document, tenure: &Tenure) {
    let view = turn.view;
    let Some(sql) = &view.sql else { return };
    let could_lead = |ordinal: &Ordinal| *ordinal != view.me.ordinal && ordinal.0 < view.config.replicas;
    let in_force = |id| match sync::target(document, tenure.epoch) {
        Some(target) => target.k > 0 && target.standbys.contains(id),
        None => true,
    };
    let members = document.members.iter().filter(|(ordinal, id)| could_lead(ordinal) && in_force(id));
    let caught_up = members.map(|(_, id)| *id).filter(|id| sync::is_caught_up(sql, *id)).collect();
    if let Some(tenure) = &mut turn.memory.tenure {
        tenure.caught_up = caught_up;
    }
}
