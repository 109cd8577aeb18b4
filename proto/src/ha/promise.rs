//! Leading while the API server is away: relay or promise (ha.md section 6; review S-4, A-3).
//!
//! A primary that cannot renew asks every listed member to write its renewal. One that cannot either promises to
//! take no part, for L, in an election that rests on expiry. Enough promises are as good as a renewal: without
//! those who gave them no read quorum can form.

use std::{collections::BTreeSet, time::Duration};

use super::{
    action::Action,
    configuration::Electorate,
    document::Document,
    fence,
    lease::{HolderField, LeaseVersion, Observed, Sighting},
    memory::{Memory, Paced, Promise, Tenure},
    profile::{Profile, Timing},
    question::{Question, Refused, Relay, Reply},
    renewal,
    turn::Turn,
    view::{RelayReply, View},
};
use crate::{
    clock::BootTime,
    identity::{DataId, Ordinal},
    wire::supervisor::Server,
};

/// Members are asked again this often while neither a renewal nor enough promises came.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long a member may try to relay before it promises: three rounds fit between the first question and F.
pub fn relay_for(timing: &Timing) -> Duration {
    timing.fast_stop.saturating_sub(ask_after(timing)) / 3
}

/// Others are asked once half of the time between a renewal's turn and F has passed without one: a slow answer
/// must not bind anybody, and three rounds must still fit.
fn ask_after(timing: &Timing) -> Duration {
    (timing.renew_every + timing.fast_stop) / 2
}

/// Counts what others promised, and asks them if the last renewal is getting old. My server is this epoch's
/// primary, or about to be.
pub(super) fn extend(
    turn: &mut Turn<'_>,
    observed: &Observed,
    document: &Document,
    tenure: Tenure,
) -> Tenure {
    if !is_late(turn.view, &tenure) {
        return tenure;
    }
    forget_old_writes(turn, &tenure);
    let tenure = counted(turn, observed, document, tenure);
    if is_late(turn.view, &tenure) {
        ask(turn, observed, document, &tenure);
    }
    turn.memory.tenure = Some(tenure.clone());
    tenure
}

fn is_late(view: &View, tenure: &Tenure) -> bool {
    let timing = fence::living_by(view, tenure.duration);
    view.now >= tenure.counts_from(timing.lease) + ask_after(&timing)
}

/// A write that is older than K extends nothing any more, and an outage may last for hours.
fn forget_old_writes(turn: &mut Turn<'_>, tenure: &Tenure) {
    let kill = fence::living_by(turn.view, tenure.duration).kill;
    let now = turn.view.now;
    turn.memory.writes.retain(|write| now < write.at + kill);
}

/// The tenure with the newest promises that are enough.
fn counted(turn: &Turn<'_>, observed: &Observed, document: &Document, tenure: Tenure) -> Tenure {
    // What an earlier agent of this pod wrote may still land, and say who else may vote.
    if !tenure.own {
        return tenure;
    }
    let electorates = electorates(turn, observed, document);
    let span = fence::living_by(turn.view, tenure.duration).lease;
    let promises = promises(turn.view, &tenure, span);
    let since = |time: BootTime| {
        let given = promises.iter().filter(|(asked, _)| *asked >= time).map(|(_, id)| *id);
        let mine = turn.view.durable().map(|durable| durable.data_id);
        given.chain(mine).collect::<BTreeSet<_>>()
    };
    let times = promises.iter().map(|(asked, _)| *asked).chain([turn.view.now]);
    let enough = times.filter(|time| {
        let bound = since(*time);
        electorates.iter().all(|electorate| electorate.is_barred_by(&bound))
    });
    let newest = enough.max().filter(|time| *time > tenure.counts_from(span));
    Tenure { promised: newest.map(|time| (time, span)).or(tenure.promised), ..tenure }
}

/// Who could elect another leader, by what the Lease shows and by whatever I wrote that may have landed.
fn electorates(turn: &Turn<'_>, observed: &Observed, document: &Document) -> BTreeSet<Electorate> {
    let written = turn.memory.electorates.iter();
    let pending = written.filter(|(version, _)| *version == observed.version.resource_version);
    pending.flat_map(|(_, electorates)| electorates.clone()).chain([Electorate::of(document)]).collect()
}

/// Promises of this epoch for at least `span`: when they were asked for, and whose data they bind.
fn promises(view: &View, tenure: &Tenure, span: Duration) -> Vec<(BootTime, DataId)> {
    let promise = |given: &RelayReply| match given.reply {
        Reply::Promised { data_id } if given.epoch == tenure.epoch && given.span >= span => {
            Some((given.asked_at, data_id))
        }
        _ => None,
    };
    let given = view.peers.values().filter_map(|replies| replies.relay.as_ref().and_then(promise));
    given.filter(|(asked, _)| !fence::outlived_by_jump(view, *asked)).collect()
}

/// Asks all listed members to relay a renewal or to promise.
fn ask(turn: &mut Turn<'_>, observed: &Observed, document: &Document, tenure: &Tenure) {
    let view = turn.view;
    let others: Vec<Ordinal> =
        document.members.keys().copied().filter(|member| *member != view.me.ordinal).collect();
    let may = fence::may_act(view, tenure) && fence::may_renew(view, tenure);
    if !may || others.is_empty() || !turn.due(Paced::Relay, ASK_EVERY) {
        return;
    }
    let Some(write) = renewal::draft(view, observed, tenure, document.clone()) else { return };
    let Some(renewal) = write.to_renewal() else { return };
    turn.remember(&write);
    let span = fence::living_by(view, tenure.duration).lease;
    let relay = Relay { renewal, span, asked_at: view.now };
    let question = |member| Action::Ask { member, question: Question::Relay(Box::new(relay.clone())) };
    turn.actions.extend(others.into_iter().map(question));
}

/// Why a member neither relays nor promises: it knows of a higher epoch.
pub(super) fn objection(memory: &Memory, view: &View, relay: &Relay) -> Option<Refused> {
    let epoch = relay.renewal.contents.epoch;
    let sealed = view.durable().map(|durable| durable.sealed).max(Some(memory.seal_ordered));
    let refused = |why: &str| Refused { sealed, promised: false, why: why.to_owned() };
    (sealed > Some(epoch)).then(|| refused("sealed for a higher epoch"))
}

/// Replies to a renewal that was to be relayed: `shown` is what a read of the Lease sent after the question
/// showed last, if any read was answered.
pub fn conclude_relay(
    memory: &Memory,
    view: &View,
    relay: &Relay,
    shown: Option<LeaseVersion>,
) -> (Memory, Reply) {
    if let Some(shown) = shown.filter(|shown| shown.resource_version != relay.renewal.basis) {
        return (memory.clone(), Reply::Shown(Box::new(shown)));
    }
    match promise(memory, view, relay) {
        Ok((memory, data_id)) => (memory, Reply::Promised { data_id }),
        Err(refused) => (memory.clone(), Reply::Refused(refused)),
    }
}

/// Promises, unless something here may already count for another.
fn promise(memory: &Memory, view: &View, relay: &Relay) -> Result<(Memory, DataId), Refused> {
    if let Some(refused) = objection(memory, view, relay) {
        return Err(refused);
    }
    let contents = &relay.renewal.contents;
    let refuse = |why: &str| Err(Refused { sealed: None, promised: false, why: why.to_owned() });
    let Some(durable) = view.durable() else { return refuse("no data that anybody counts on") };
    // A longer promise might be forgotten by a restart before it is over (L4).
    if relay.span > Profile::Tolerant.timing().lease {
        return refuse("no profile has so long a lease");
    }
    if matches!(view.server(), Some(Server::Primary { .. })) {
        return refuse("it is a primary");
    }
    // A claim on its way may land.
    if !memory.writes.is_empty() {
        return refuse("it has claimed the Lease and does not know what became of that");
    }
    if let Sighting::Seen(Observed { version, .. }) = &view.lease.sighting
        && version.epoch > contents.epoch
    {
        return refuse("the Lease shows a higher epoch");
    }
    let until = memory.promise.map_or(BootTime::default(), |earlier| earlier.until);
    let promise = Promise { epoch: contents.epoch, until: until.max(view.now + relay.span) };
    Ok((Memory { promise: Some(promise), ..memory.clone() }, durable.data_id))
}

/// Why I take no part in an election that rests on expiry: I have promised, or may have (L4).
pub(super) fn bound(memory: &Memory, view: &View) -> Option<Bound> {
    if memory.promise.is_some_and(|promise| view.now < promise.until) {
        return Some(Bound::Promised);
    }
    (view.now < view.started_at + fence::longest_lease(view)).then_some(Bound::Young)
}

/// Why a member takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// It has promised.
    Promised,
    /// It started less than L ago.
    Young,
}

impl Bound {
    /// For people.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Promised => "has promised the last primary, which cannot reach the API server, to wait",
            Self::Young => "started too recently to know what it promised (L4)",
        }
    }
}

/// Whether the leader of the version that I see relies on a promise of mine: it counts as alive.
pub(super) fn vouches(turn: &Turn<'_>, version: &LeaseVersion) -> bool {
    let relies = |promise: Promise| promise.epoch == version.epoch && turn.view.now < promise.until;
    version.holder != HolderField::Nobody && turn.memory.promise.is_some_and(relies)
}
