//! Who belongs to the cluster: joining, leaving, slots (ha.md sections 4 and 8; review S-10).
//!
//! Only the holder changes the list. A member leaves S first, then the list; then its slot is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{action::Action, document::Document, memory::Paced, turn::Turn};
use crate::identity::{DataId, Ordinal};

/// Slots are looked after this often.
const SLOTS_EVERY: Duration = Duration::from_secs(2);

/// The list of members as it should be, if it should change.
pub(super) fn changed(turn: &Turn<'_>, document: &Document) -> Option<BTreeMap<Ordinal, DataId>> {
    let mut members = document.members.clone();
    members.retain(|ordinal, id| !is_gone(turn, document, *ordinal, *id));
    members.extend(joining(turn));
    (members != document.members).then_some(members)
}

/// No longer wanted, and in no configuration that may be in force.
fn is_gone(turn: &Turn<'_>, document: &Document, ordinal: Ordinal, id: DataId) -> bool {
    let counts = |id| document.configurations.iter().any(|c| c.standbys.contains(id) || c.primary == *id);
    ordinal != turn.view.me.ordinal && ordinal.0 >= turn.view.config.replicas && !counts(&id)
}

/// Wanted members that stream from me: new ones, and those whose data was made anew.
fn joining(turn: &Turn<'_>) -> BTreeMap<Ordinal, DataId> {
    let view = turn.view;
    let standbys = view.sql.iter().flat_map(|sql| &sql.standbys);
    let wanted = |ordinal: &Ordinal| *ordinal != view.me.ordinal && ordinal.0 < view.config.replicas;
    standbys
        .filter(|(_, standby)| standby.streaming)
        .filter_map(|(id, standby)| Some((standby.ordinal.filter(wanted)?, *id)))
        .collect()
}

/// Makes slots for whoever may attach, and drops those of members that are gone for good.
pub(super) fn keep_slots(turn: &mut Turn<'_>, document: &Document) {
    let (view, Some(sql)) = (turn.view, &turn.view.sql) else { return };
    let wanted: BTreeSet<Ordinal> = wanted(turn, document);
    let missing: Vec<Ordinal> = wanted.difference(&sql.slots).copied().collect();
    if !missing.is_empty() && turn.due(Paced::Slots, SLOTS_EVERY) {
        turn.actions.push(Action::EnsureSlots(missing));
    }
    for gone in sql.slots.difference(&wanted).filter(|gone| **gone != view.me.ordinal) {
        if turn.due(Paced::DropSlot(*gone), SLOTS_EVERY) {
            turn.actions.push(Action::DropSlot(*gone));
        }
    }
}

/// Everybody who is listed or wanted, but me.
pub(super) fn wanted(turn: &Turn<'_>, document: &Document) -> BTreeSet<Ordinal> {
    let view = turn.view;
    let all = document.members.keys().copied().chain((0..view.config.replicas).map(Ordinal));
    all.filter(|member| *member != view.me.ordinal).collect()
}
