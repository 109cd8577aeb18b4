//! Where I stand towards the Lease, and so which rules apply now.

use std::{collections::BTreeSet, time::Duration};

use super::{
    action::{Action, Event},
    bootstrap, contest,
    document::Document,
    fence, follow, handover, lead,
    lease::{Claimable, HolderField, Lost, NotClaimable, Observed, Recorded, Sighting, Tenant, tenant},
    memory::{Paced, Tenure},
    promise, renewal, takeover,
    turn::Turn,
};
use crate::{
    pod,
    wire::{
        http::Role,
        supervisor::{Data, Order, Server},
    },
};

/// An expired version is read again this often until a read sent after L confirms it.
const CONFIRM_EVERY: Duration = Duration::from_millis(200);
/// A vacant Lease is read this often: somebody may have claimed.
const VACANT_EVERY: Duration = Duration::from_millis(500);
/// The label is set again if it is still wrong after this.
const LABEL_RETRY: Duration = Duration::from_secs(1);
/// A standby stays ready for this many L after it lost its leader, so that no probe delays a failover.
const READY_WITHOUT_LEADER: u32 = 2;
/// An ordered stop of a server that leaves takes no longer.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Decides by the Lease as seen.
pub(super) fn act(turn: &mut Turn<'_>) {
    match &turn.view.lease.sighting {
        Sighting::NotYet => {
            turn.doing("reading the Lease");
            turn.read(CONFIRM_EVERY);
        }
        Sighting::Missing(_) => missing(turn),
        Sighting::Seen(observed) => seen(turn, observed),
    }
}

/// The Lease object is gone. Only the valid holder makes it again, with the same document (W4).
fn missing(turn: &mut Turn<'_>) {
    turn.doing("the Lease does not exist");
    turn.read(VACANT_EVERY);
    let view = turn.view;
    let (Some(tenure), Some(me)) = (turn.memory.tenure.clone(), view.holder()) else { return };
    if !still_holds(turn, &tenure) {
        return;
    }
    let deadline = fence::wanted(view, &tenure).fast_stop_at;
    if let Some(lost) = Lost::judge(&view.lease.sighting, &me, tenure.epoch, deadline, view.now) {
        turn.write(lost.recreate(view.lease.next_write, tenure.duration, tenure.document));
    }
}

/// Whether nothing that I wrote can have ended this tenure before the Lease vanished: a release or a higher claim
/// may have landed without an answer, and another may have led since. Both are written only for a server that
/// is no primary.
fn still_holds(turn: &Turn<'_>, tenure: &Tenure) -> bool {
    let memory = &turn.memory;
    match turn.view.server() {
        Some(Server::Primary { .. }) => true,
        Some(Server::Standby { .. }) => {
            let released = memory.writes.iter().any(|write| write.holder.is_none());
            !released && memory.takeover.as_ref().is_some_and(|takeover| takeover.epoch == tenure.epoch)
        }
        _ => false,
    }
}

fn seen(turn: &mut Turn<'_>, observed: &Observed) {
    let view = turn.view;
    let run = view.report().map(|report| &report.run);
    let tenant = tenant(&observed.version, &view.me.pod_uid, run);
    if !matches!(tenant, Tenant::Me) {
        not_mine(turn, &tenant);
    }
    match (&observed.version.recorded, tenant) {
        (Recorded::Document(document), Tenant::Me) => mine(turn, observed, document),
        (Recorded::Document(document), Tenant::MyFormerRun) => {
            turn.read(VACANT_EVERY);
            handover::former_run(turn, observed, document);
        }
        (Recorded::Document(document), Tenant::Nobody | Tenant::Another) => {
            theirs(turn, observed, document);
        }
        (Recorded::NeverInitialised, Tenant::Nobody) => {
            turn.read(VACANT_EVERY);
            bootstrap::bootstrap(turn, observed);
        }
        (Recorded::NeverInitialised | Recorded::Unreadable(_), _) => unreadable(turn, observed),
    }
}

/// W3: only another holder seen (or none) is a loss, and then my server must not be a primary.
fn not_mine(turn: &mut Turn<'_>, tenant: &Tenant) {
    if matches!(turn.view.server(), Some(Server::Primary { .. })) {
        turn.order(Order::Kill);
    }
    if matches!(tenant, Tenant::MyFormerRun) {
        return;
    }
    if let Some(tenure) = turn.memory.tenure.take()
        && turn.memory.handover.is_none()
        && turn.memory.failure_counted != Some(tenure.epoch)
    {
        let why = "somebody else holds the Lease".to_owned();
        turn.actions.push(Action::Emit(Event::SteppedDown { epoch: tenure.epoch, why }));
    }
    turn.memory.told.clear();
    turn.memory.missing_since.clear();
    handover::conclude(turn);
}

fn mine(turn: &mut Turn<'_>, observed: &Observed, document: &Document) {
    turn.memory.bootstrap = None;
    let me = turn.view.durable().map(|durable| durable.data_id);
    match document.opened(observed.version.epoch) {
        // Another's opening is nobody's own: then somebody edited the Lease.
        Some(opening) if me.is_none_or(|me| me == opening.primary) => {
            lead::lead(turn, observed, document, *opening);
        }
        _ => takeover::advance(turn, observed, document),
    }
}

/// W4: nobody may lead by this, but its valid holder restores it.
fn unreadable(turn: &mut Turn<'_>, observed: &Observed) {
    turn.doing("the Lease has no usable HA document: nobody may lead until it is restored");
    turn.read(VACANT_EVERY);
    let Some(tenure) = turn.memory.tenure.clone() else { return };
    if fence::may_act(turn.view, &tenure) {
        let document = tenure.document.clone();
        renewal::renew(turn, observed, &tenure, document);
    }
}

/// Another holds it, or nobody does.
fn theirs(turn: &mut Turn<'_>, observed: &Observed, document: &Document) {
    turn.memory.bootstrap = None;
    if promise::vouches(turn, &observed.version) {
        return led(turn, observed, document);
    }
    match Claimable::judge(observed, turn.view.now) {
        Err(NotClaimable::Alive { .. }) => led(turn, observed, document),
        Err(NotClaimable::Unconfirmed) => {
            turn.doing("the leader has been silent for L: reading the Lease again");
            turn.read(CONFIRM_EVERY);
        }
        Ok(claimable) => {
            turn.read(VACANT_EVERY);
            leave_if_asked(turn);
            contest::contend(turn, observed, claimable, document);
        }
    }
}

/// Somebody's Lease counts as alive.
fn led(turn: &mut Turn<'_>, observed: &Observed, document: &Document) {
    let version = &observed.version;
    turn.memory.contest = None;
    turn.memory.leader_seen_at = Some(turn.view.now);
    turn.read(fence::timing_for(version.duration).renew_every / 2);
    let me = turn.view.durable().map(|durable| durable.data_id);
    turn.summary.failover_blocked = document
        .configurations
        .iter()
        .find(|c| c.k == 0 && Some(c.primary) != me)
        .map(|c| contest::lacks(document, c, &BTreeSet::new()));
    if leave_if_asked(turn) || unwanted(turn, document) {
        return;
    }
    let holder = match &version.holder {
        HolderField::Run(holder) => pod::pod_ordinal(&holder.pod),
        HolderField::Nobody | HolderField::Nonsense(_) => None,
    };
    if let (Some(opening), Some(leader)) = (document.opened(version.epoch), holder) {
        turn.summary.leader = Some(leader);
        turn.memory.stand_aside_until = None;
        follow::follow(turn, document, *opening, leader);
    } else {
        start_closed(turn);
        turn.doing("waiting for the claim to be opened");
    }
}

/// A server that was never started since its container began must run to be sealed.
fn start_closed(turn: &mut Turn<'_>) {
    let present = turn.view.report().is_some_and(|report| matches!(report.data, Data::Present(_)));
    if present && matches!(turn.view.server(), Some(Server::Stopped { .. })) {
        turn.order(Order::Start);
    }
}

/// My pod is ending: stop, and let the container end.
fn leave_if_asked(turn: &mut Turn<'_>) -> bool {
    let Some(report) = turn.view.report().filter(|report| report.terminating) else { return false };
    turn.doing("leaving");
    match report.server {
        Server::Stopped { .. } => turn.order(Order::Exit),
        _ => turn.order(Order::Stop { checkpoint: false, kill_at: turn.view.now + STOP_LIMIT }),
    }
    true
}

/// A member that is neither wanted nor listed any more stops, so that its slot can be dropped.
fn unwanted(turn: &mut Turn<'_>, document: &Document) -> bool {
    let me = turn.view.me.ordinal;
    if me.0 < turn.view.config.replicas || document.members.contains_key(&me) {
        return false;
    }
    turn.doing("no longer a member");
    if !matches!(turn.view.server(), None | Some(Server::Stopped { .. })) {
        turn.order(Order::Stop { checkpoint: false, kill_at: turn.view.now + STOP_LIMIT });
    }
    true
}

/// Keeps the label equal to the role.
pub(super) fn label(turn: &mut Turn<'_>) {
    if turn.summary.role == Role::None && turn.memory.handover.is_none() && is_replica(turn) {
        turn.summary.role = Role::Replica;
    }
    let role = turn.summary.role;
    let shown = turn.view.label;
    if shown == Some(role) || is_finding_out(turn) {
        return;
    }
    let urgent = turn.memory.labelled != Some(role);
    if urgent {
        turn.memory.paced.remove(&Paced::Label);
    }
    if turn.due(Paced::Label, LABEL_RETRY) {
        turn.memory.labelled = Some(role);
        turn.actions.push(Action::SetRole(role));
    }
}

/// An agent that restarted beside a primary has to look first. Clients go on meanwhile: whoever labelled it had armed
/// the fence, and that holds.
fn is_finding_out(turn: &Turn<'_>) -> bool {
    let view = turn.view;
    turn.memory.labelled.is_none()
        && turn.summary.role == Role::None
        && view.label == Some(Role::Primary)
        && matches!(view.server(), None | Some(Server::Primary { .. }))
        && view.now < view.started_at + fence::longest_lease(view)
}

/// A standby that follows somebody, or did until a moment ago.
fn is_replica(turn: &mut Turn<'_>) -> bool {
    let view = turn.view;
    if !matches!(view.server(), Some(Server::Standby { .. })) {
        turn.memory.followed = false;
    }
    let grace = fence::longest_lease(view) * READY_WITHOUT_LEADER;
    let recent = turn.memory.leader_seen_at.is_some_and(|seen| view.now < seen + grace);
    turn.memory.followed && recent && !view.leaving()
}
