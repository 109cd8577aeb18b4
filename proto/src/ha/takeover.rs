//! From claim to open: seal, count, catch up (ha.md sections 4.3 to 4.5).

use std::{collections::BTreeSet, time::Duration};

use super::{
    action::{Action, Event},
    configuration::Configuration,
    contest::{self, Highest},
    document::{Document, Opening},
    fence, handover,
    lease::{Claimable, Observed, Vacancy},
    memory::{Paced, Takeover, Tenure, Told},
    promise,
    question::{self, Reply},
    renewal,
    turn::Turn,
    view::View,
    volume,
};
use crate::{
    clock::BootTime,
    identity::{DataId, Epoch, Ordinal},
    postgres::WalPosition,
    wire::{
        config::Durability,
        supervisor::{Data, Order, Server},
    },
};

/// How long members that answered the survey are waited for, once those that sealed would do.
const SEAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a read quorum is waited for after my own seal; then the Lease is given back.
const QUORUM_PATIENCE: Duration = Duration::from_millis(2_500);
/// How long it may take to copy what a sealed member has more.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(10);
/// How long my own server may take to recover from a crash while I hold a claim. Nobody else could lead, or the
/// Lease would have been released instead.
const START_PATIENCE: Duration = Duration::from_mins(5);
/// Slots are made again at most this often.
const SLOTS_EVERY: Duration = Duration::from_secs(2);

/// I hold a claim that is not opened yet.
pub(super) fn advance(turn: &mut Turn<'_>, observed: &Observed, document: &Document) {
    let tenure = renewal::tenure(turn, observed, document);
    let mut takeover = remembered(turn, observed);
    let next = step(turn, &mut takeover, document);
    turn.memory.takeover = Some(takeover.clone());
    match next {
        Next::Wait(why) => {
            turn.doing(why);
            renewal::renew(turn, observed, &tenure, document.clone());
        }
        Next::Open(end) => open(turn, observed, &tenure, &takeover, document, end),
        Next::ClaimAbove(epoch) => {
            claim_above(turn, observed, document, Highest { epoch, timeline: document.timeline });
        }
        Next::GiveUp(why, prefer) => {
            turn.doing(why);
            handover::give_up(turn, observed, document, prefer);
        }
    }
}

/// What comes next.
enum Next {
    Wait(&'static str),
    Open(WalPosition),
    ClaimAbove(Epoch),
    GiveUp(&'static str, Option<Ordinal>),
}

fn remembered(turn: &Turn<'_>, observed: &Observed) -> Takeover {
    let epoch = observed.version.epoch;
    // An agent that restarted in between knows nothing of its claim.
    turn.memory.takeover.clone().filter(|takeover| takeover.epoch == epoch).unwrap_or(Takeover {
        epoch,
        since: turn.view.now,
        gone_since: observed.first_seen,
        from: None,
        reason: None,
        vacancy: Vacancy::Expired,
        expected: BTreeSet::new(),
        sealed: std::collections::BTreeMap::new(),
        own_after: BootTime::default(),
        catching_up: None,
        own_sealed_at: None,
    })
}

fn step(turn: &mut Turn<'_>, takeover: &mut Takeover, document: &Document) -> Next {
    // An election that rests on expiry: I must not count for it either.
    if let Some(bound) = promise::bound(&turn.memory, turn.view).filter(|_| document.presumed) {
        return Next::GiveUp(bound.why(), None);
    }
    if let Some(next) = bring_up(turn, takeover) {
        return next;
    }
    if document.last_opened() >= takeover.epoch {
        return Next::ClaimAbove(document.last_opened());
    }
    collect(turn.view, takeover, document);
    ask_to_seal(turn, takeover, document);
    if let Some(higher) = sealed_higher(turn.view, takeover.epoch) {
        return Next::ClaimAbove(higher);
    }
    if let Some(since) = takeover.catching_up {
        return catch_up(turn, takeover, since);
    }
    let Some(end) = own_seal(turn, takeover) else {
        return Next::Wait("sealing my own server");
    };
    ensure_slots(turn, document);
    count(turn, takeover, document, end)
}

/// My server must be a closed standby.
fn bring_up(turn: &mut Turn<'_>, takeover: &Takeover) -> Option<Next> {
    let report = turn.view.report()?;
    if turn.view.leaving() || matches!(report.data, Data::Empty | Data::Unusable { .. }) {
        return Some(Next::GiveUp("cannot lead from here", None));
    }
    if let Some((why, _)) = volume::unfit(turn.view) {
        return Some(Next::GiveUp(why, None));
    }
    match report.server {
        Server::Standby { .. } => None,
        _ if turn.view.now > takeover.since + START_PATIENCE => {
            Some(Next::GiveUp("my server does not start", None))
        }
        Server::Stopped { .. } => {
            turn.order(Order::Start);
            Some(Next::Wait("starting closed"))
        }
        Server::Primary { .. } => {
            turn.order(Order::Kill);
            Some(Next::Wait("ending a primary that nothing opened"))
        }
        Server::Starting | Server::Stopping | Server::Dying => Some(Next::Wait("waiting for my server")),
    }
}

/// Takes note of sealed answers of listed members.
fn collect(view: &View, takeover: &mut Takeover, document: &Document) {
    for (ordinal, replies) in &view.peers {
        if let Some((epoch, Reply::Sealed { data_id, position })) = &replies.seal
            && *epoch == takeover.epoch
            && document.lists(*ordinal, *data_id)
            && question::is_plausible_timeline(position.timeline, document.timeline)
            && *ordinal != view.me.ordinal
        {
            let entry = takeover.sealed.entry(*data_id).or_insert((*ordinal, *position));
            entry.1 = entry.1.max(*position);
        }
    }
}

fn ask_to_seal(turn: &mut Turn<'_>, takeover: &Takeover, document: &Document) {
    let me = turn.view.me.ordinal;
    for (member, data_id) in &document.members {
        if *member != me && !takeover.sealed.contains_key(data_id) {
            turn.seal(*member, takeover.epoch, document.presumed);
        }
    }
}

/// A member is sealed for a higher epoch, which the Lease has forgotten (restored from a backup): claim above it.
fn sealed_higher(view: &View, epoch: Epoch) -> Option<Epoch> {
    let refused = view.peers.values().filter_map(|replies| match &replies.seal {
        Some((asked, Reply::Refused(refused))) if *asked == epoch => refused.sealed,
        _ => None,
    });
    let refused = refused.filter(|sealed| question::is_plausible(*sealed, epoch));
    let own = view.durable().map(|durable| durable.sealed);
    refused.chain(own).max().filter(|sealed| *sealed > epoch)
}

/// My own exact end of WAL, sealed for this claim.
fn own_seal(turn: &mut Turn<'_>, takeover: &mut Takeover) -> Option<WalPosition> {
    let view = turn.view;
    let sealed = view.sealed_end(takeover.epoch).filter(|sealed| sealed.at >= takeover.own_after);
    if sealed.is_some() {
        takeover.own_sealed_at.get_or_insert(view.now);
    } else {
        turn.order(Order::Seal { epoch: takeover.epoch });
    }
    sealed.map(|sealed| sealed.position)
}

/// Opens if a read quorum of every configuration in force is sealed and I have all that it has.
fn count(turn: &mut Turn<'_>, takeover: &mut Takeover, document: &Document, end: WalPosition) -> Next {
    let view = turn.view;
    let Some(me) = view.durable().map(|durable| durable.data_id) else {
        return Next::Wait("waiting for my data directory");
    };
    let sealed: BTreeSet<DataId> = takeover.sealed.keys().copied().chain([me]).collect();
    let waited = takeover.own_sealed_at.map_or(Duration::ZERO, |at| view.now.since(at));
    if !document.has_read_quorum(&sealed) && !contest::loss_is_accepted(view, document) {
        turn.summary.failover_blocked = Some(contest::no_quorum(document, &sealed));
        return match waited > QUORUM_PATIENCE {
            true => Next::GiveUp("no read quorum is sealed", None),
            false => Next::Wait("waiting for members to seal"),
        };
    }
    let everybody: BTreeSet<DataId> =
        match takeover.expected.is_empty() && takeover.vacancy != Vacancy::Released {
            true => document.members.values().copied().collect(),
            false => takeover.expected.clone(),
        };
    if !everybody.is_subset(&sealed) && waited < SEAL_PATIENCE {
        return Next::Wait("waiting for the other members to seal");
    }
    match takeover.sealed.values().max_by_key(|(_, position)| *position) {
        Some((ahead, position)) if *position > end => begin_catch_up(turn, takeover, *ahead, *position, end),
        _ => Next::Open(end),
    }
}

/// A sealed member has more: stream it, if its WAL continues mine; otherwise let it claim.
fn begin_catch_up(
    turn: &mut Turn<'_>,
    takeover: &mut Takeover,
    ahead: Ordinal,
    position: WalPosition,
    end: WalPosition,
) -> Next {
    if position.timeline != end.timeline {
        return Next::GiveUp("a sealed member has a newer timeline", Some(ahead));
    }
    takeover.catching_up = Some(turn.view.now);
    follow_ahead(turn, takeover.epoch, ahead);
    Next::Wait("copying what a sealed member has more")
}

/// Streams from a sealed member: without a slot, since it has none for me, and its end does not move.
fn follow_ahead(turn: &mut Turn<'_>, epoch: Epoch, ahead: Ordinal) {
    let upstream = crate::wire::supervisor::Upstream { slot: None, ..turn.view.upstream(ahead) };
    if !matches!(turn.view.server(), Some(Server::Standby { following: Some(now), .. }) if *now == upstream) {
        turn.order(Order::Follow { upstream, epoch });
    }
}

/// Done when my own end is at least the highest *answered* one: the source may have changed since.
fn catch_up(turn: &mut Turn<'_>, takeover: &mut Takeover, since: BootTime) -> Next {
    let Some((ahead, target)) = takeover.sealed.values().max_by_key(|(_, position)| *position).copied()
    else {
        takeover.catching_up = None;
        return Next::Wait("counting again");
    };
    let now = turn.view.now;
    let arrived = turn.view.wal.end.is_some_and(|(at, mine)| at > since && mine >= target);
    if arrived {
        takeover.catching_up = None;
        takeover.own_after = now;
        return Next::Wait("copied what a sealed member had more");
    }
    if now > since + CATCH_UP_PATIENCE {
        return Next::GiveUp("could not copy what a sealed member has more", Some(ahead));
    }
    follow_ahead(turn, takeover.epoch, ahead);
    turn.order(Order::EndOfWal);
    Next::Wait("copying what a sealed member has more")
}

/// Members need a slot here to attach, best before the promotion.
fn ensure_slots(turn: &mut Turn<'_>, document: &Document) {
    let me = turn.view.me.ordinal;
    let Some(sql) = &turn.view.sql else { return };
    let wanted = document.members.keys().copied().chain((0..turn.view.config.replicas).map(Ordinal));
    let missing: BTreeSet<Ordinal> =
        wanted.filter(|member| *member != me && !sql.slots.contains(member)).collect();
    if !missing.is_empty() && turn.due(Paced::Slots, SLOTS_EVERY) {
        turn.actions.push(Action::EnsureSlots(missing.into_iter().collect()));
    }
}

/// Numbers in the Lease are too low: claim again, above what was seen.
fn claim_above(turn: &mut Turn<'_>, observed: &Observed, document: &Document, high: Highest) {
    let Some(me) = turn.view.holder() else { return };
    let claimable = fence::quiet(turn.view, false).and_then(|quiet| Claimable::own(observed, &me, &quiet));
    if let Some(claimable) = claimable {
        contest::take(turn, observed, claimable, document, high, BTreeSet::new());
    }
}

/// Writes the open: from now on this epoch's commits exist, under a configuration that the Lease knows.
fn open(
    turn: &mut Turn<'_>,
    observed: &Observed,
    tenure: &Tenure,
    takeover: &Takeover,
    document: &Document,
    end: WalPosition,
) {
    let view = turn.view;
    turn.doing("opening the epoch");
    let Some(me) = view.durable().map(|durable| durable.data_id) else { return };
    let highest = takeover.sealed.values().map(|(_, position)| position.timeline).chain([end.timeline]).max();
    if let Some(timeline) = highest.filter(|highest| *highest >= document.timeline) {
        // The reserved timeline exists already, which the Lease has forgotten: claim a higher one.
        return claim_above(turn, observed, document, Highest { epoch: takeover.epoch, timeline });
    }
    let standbys: BTreeSet<DataId> = takeover.sealed.keys().copied().filter(|id| *id != me).collect();
    let opening = Opening {
        epoch: takeover.epoch,
        primary: me,
        timeline: document.timeline,
        switch: end.lsn,
        checkpointed: false,
    };
    let mut opened = document.clone();
    opened.presumed = false;
    if contest::loss_is_accepted(view, document) {
        give_up_on(turn, &mut opened, &standbys.iter().copied().chain([me]).collect());
    }
    opened.history = document.history_of(end, opening);
    opened.configurations.extend(first_configuration(view, takeover.epoch, me, standbys));
    renewal::renew(turn, observed, tenure, opened);
}

/// A human accepts the loss: what cannot be satisfied by those who sealed is no longer in force.
fn give_up_on(turn: &mut Turn<'_>, opened: &mut Document, sealed: &BTreeSet<DataId>) {
    if opened.has_read_quorum(sealed) {
        return;
    }
    if turn.memory.told.insert(Told::LossAccepted) {
        let why = contest::no_quorum(opened, sealed);
        turn.actions.push(Action::Emit(Event::LossAccepted { why }));
    }
    opened.configurations.retain(|configuration| configuration.has_read_quorum(sealed));
}

/// What an epoch opens with. `Preferred` asks for no more standbys than there are.
fn first_configuration(
    view: &View,
    epoch: Epoch,
    primary: DataId,
    standbys: BTreeSet<DataId>,
) -> Option<Configuration> {
    let wanted = view.config.min_sync_replicas;
    let k = match view.config.durability {
        Durability::Async => return None,
        Durability::Preferred => wanted.min(u8::try_from(standbys.len()).unwrap_or(u8::MAX)),
        Durability::Required => wanted,
    };
    Some(match k {
        0 => Configuration::alone(epoch, primary),
        k => Configuration { epoch, primary, k, standbys },
    })
}
