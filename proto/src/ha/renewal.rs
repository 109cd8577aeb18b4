//! What became of own writes (W2), and what the holder knows of its tenure.

use std::time::Duration;

use super::{
    document::Document,
    fence,
    lease::{Held, HolderField, LeaseWrite, Observed, Recorded, Sighting},
    memory::{Paced, PendingWrite, Tenure},
    turn::Turn,
    view::View,
};
use crate::{clock::BootTime, identity::Epoch};

/// Renewals further apart than one interval and this are a gap: what needs renewals to have succeeded all the
/// time starts anew.
const GAP: Duration = Duration::from_millis(1_500);

/// Finds out which own writes landed, by their id alone, and forgets those that cannot land any more.
pub(super) fn settle(turn: &mut Turn<'_>) {
    if let Some(refused) = turn.view.lease.refused
        && turn.memory.writes.iter().any(|write| write.id == refused)
    {
        turn.memory.writes.retain(|write| write.id != refused);
        turn.memory.paced.remove(&Paced::Write);
        // The version has moved on: only a read tells to what.
        turn.read(Duration::ZERO);
    }
    let Sighting::Seen(observed) = &turn.view.lease.sighting else { return };
    if let Some(landed) = landed(turn, observed) {
        renewed(turn, observed, &landed);
        // Answered: the next write need not wait.
        turn.memory.writes.clear();
        turn.memory.paced.remove(&Paced::Write);
    }
    let current = &observed.version.resource_version;
    turn.memory.writes.retain(|write| write.basis.as_ref() == Some(current));
}

fn landed(turn: &Turn<'_>, observed: &Observed) -> Option<PendingWrite> {
    let version = &observed.version;
    let same_holder = |write: &PendingWrite| match (&write.holder, &version.holder) {
        (Some(mine), HolderField::Run(shown)) => mine == shown,
        (None, HolderField::Nobody) => true,
        _ => false,
    };
    turn.memory.writes.iter().find(|write| Some(write.id) == version.write_id && same_holder(write)).cloned()
}

/// A write of mine landed: the deadlines count from before it was sent.
fn renewed(turn: &mut Turn<'_>, observed: &Observed, write: &PendingWrite) {
    let (Some(_), Recorded::Document(document)) = (&write.holder, &observed.version.recorded) else { return };
    if fence::outlived_by_jump(turn.view, write.at) {
        return;
    }
    let (epoch, duration) = (observed.version.epoch, observed.version.duration);
    let every = fence::living_by(turn.view, duration).renew_every;
    let tenure = match turn.memory.tenure.take().filter(|tenure| tenure.epoch == epoch) {
        Some(mut tenure) => {
            if write.at > tenure.renewed_at + every + GAP {
                tenure.unbroken_since = write.at;
            }
            tenure.renewed_at = tenure.renewed_at.max(write.at);
            tenure.own = true;
            tenure.duration = duration;
            tenure.document = (**document).clone();
            tenure
        }
        None => Tenure { own: true, ..begun(epoch, write.at, duration, document) },
    };
    turn.memory.tenure = Some(tenure);
}

fn begun(epoch: Epoch, at: BootTime, duration: Duration, document: &Document) -> Tenure {
    Tenure {
        epoch,
        renewed_at: at,
        promised: None,
        own: false,
        unbroken_since: at,
        duration,
        document: document.clone(),
        caught_up: std::collections::BTreeSet::new(),
    }
}

/// The tenure of a Lease that this run holds. An agent that restarted beside its server knows no renewal of its
/// own; the fence that its supervisor has armed tells until when the last one counts.
pub(super) fn tenure(turn: &mut Turn<'_>, observed: &Observed, document: &Document) -> Tenure {
    let epoch = observed.version.epoch;
    if let Some(tenure) = turn.memory.tenure.clone().filter(|tenure| tenure.epoch == epoch) {
        return tenure;
    }
    let duration = observed.version.duration;
    // The longest K that it can have been armed with: the renewal is rather taken for older than it is.
    let kill = fence::timing_for(duration).kill;
    let armed = turn.view.report().and_then(|report| report.fence).filter(|fence| fence.epoch == epoch);
    let renewed_at = armed.map_or(BootTime::default(), |fence| fence.kill_at - kill);
    let mut tenure = begun(epoch, renewed_at, duration, document);
    tenure.unbroken_since = turn.view.now;
    turn.memory.tenure = Some(tenure.clone());
    tenure
}

/// Renews if it is time, or at once if the document should change.
pub(super) fn renew(turn: &mut Turn<'_>, observed: &Observed, tenure: &Tenure, document: Document) {
    let view = turn.view;
    let document = unless_broken(view, observed, tenure, document);
    let changed = match &observed.version.recorded {
        Recorded::Document(shown) => !same(shown, &document),
        Recorded::NeverInitialised | Recorded::Unreadable(_) => true,
    };
    let every = fence::living_by(view, tenure.duration).renew_every;
    let due = view.now >= tenure.renewed_at + every;
    let reprofiled = fence::next_lease(view, tenure) != observed.version.duration;
    if !(changed || due || reprofiled) || !fence::may_renew(view, tenure) {
        return;
    }
    if let Some(write) = draft(view, observed, tenure, document) {
        turn.write(write);
    }
}

/// The renewal of what this run holds.
pub(super) fn draft(
    view: &View,
    observed: &Observed,
    tenure: &Tenure,
    document: Document,
) -> Option<LeaseWrite> {
    let held = Held::judge(observed, &view.holder()?)?;
    Some(held.renew(view.lease.next_write, fence::next_lease(view, tenure), document))
}

/// Whether renewals have not landed for longer than chance explains.
pub(super) fn is_broken(view: &View, tenure: &Tenure) -> bool {
    view.now > tenure.renewed_at + fence::living_by(view, tenure.duration).renew_every + GAP
}

/// What to write: no change of the document while renewals do not land. First it must be clear that the Lease is
/// still mine, and what rests on renewals having succeeded (a standby that leaves S) does not hold.
fn unless_broken(view: &View, observed: &Observed, tenure: &Tenure, wanted: Document) -> Document {
    match &observed.version.recorded {
        Recorded::Document(shown) if is_broken(view, tenure) => {
            Document { leader_lsn: wanted.leader_lsn, ..(**shown).clone() }
        }
        _ => wanted,
    }
}

/// Equal but for the leader's position, which alone is worth no write of its own.
fn same(shown: &Document, wanted: &Document) -> bool {
    let bare = |document: &Document| Document { leader_lsn: None, ..document.clone() };
    bare(shown) == bare(wanted)
}
