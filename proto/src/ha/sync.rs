//! Changing whom commits wait for, inside an epoch, one step at a time (ha.md section 5; review S-7).
//!
//! The list of configurations in the Lease ends with the one being put in force. A step appends the next one;
//! when its names are in effect *and* k of its S have flushed a record written after that, it stays alone.

use std::{collections::BTreeSet, time::Duration};

use super::{
    action::{Action, Event},
    configuration::Configuration,
    document::Document,
    memory::{Paced, Tenure, Told},
    sync_names::SyncNames,
    turn::Turn,
    view::{SqlFacts, Verified, View},
};
use crate::{
    identity::{DataId, Epoch, Ordinal},
    postgres::Lsn,
    wire::config::Durability,
};

/// Names are set, probed and verified at most this often.
const SQL_RETRY: Duration = Duration::from_millis(300);
/// A standby further behind is not yet worth waiting for: one WAL segment.
const CAUGHT_UP_WITHIN: u64 = 16 * 1024 * 1024;

/// What commits should wait for in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) k: u8,
    pub(super) standbys: BTreeSet<DataId>,
}

/// The configuration of my epoch that is being put in force; `None` in `Async`.
pub(super) fn target(document: &Document, epoch: Epoch) -> Option<&Configuration> {
    document.configurations.last().filter(|configuration| configuration.epoch == epoch)
}

/// Puts the target's names in effect; `Some` with the write that proves it once they are.
pub(super) fn apply(turn: &mut Turn<'_>, document: &Document, epoch: Epoch) -> Option<Verified> {
    let sql = turn.view.sql.as_ref().filter(|sql| !sql.in_recovery)?;
    let names = target(document, epoch).map_or(SyncNames::Off, Configuration::names);
    let settled = document.configurations.len() == 1;
    if let Some(step) = next_names(sql, &names, settled) {
        match step {
            Step::Set(names) => {
                if turn.due(Paced::Names, SQL_RETRY) {
                    turn.actions.push(Action::SetSynchronousNames(names));
                }
            }
            Step::Probe => {
                if turn.due(Paced::Probe, SQL_RETRY) {
                    turn.actions.push(Action::ProbeSyncWait);
                }
            }
        }
        return None;
    }
    let shown = names.to_string();
    let set_at = turn.memory.paced.get(&Paced::Names).copied().unwrap_or_default();
    let verified = sql
        .verified
        .clone()
        .filter(|verified| verified.epoch == epoch && verified.names == shown && verified.at > set_at);
    if verified.is_none() && turn.due(Paced::Verify, SQL_RETRY) {
        turn.actions.push(Action::VerifyLocalWrite { epoch, names: shown });
    }
    verified
}

enum Step {
    Set(SyncNames),
    Probe,
}

/// From no list to a list: first the unsatisfiable one, see a probe commit wait, then the real one.
fn next_names(sql: &SqlFacts, wanted: &SyncNames, settled: bool) -> Option<Step> {
    let closed = sql.names == SyncNames::Closed.to_string();
    let shown = sql.names == wanted.to_string();
    match wanted {
        SyncNames::Off | SyncNames::Closed => (!shown).then(|| Step::Set(wanted.clone())),
        // A list that the Lease shows as settled was proven before.
        SyncNames::Any { .. } if shown && (settled || sql.commits_wait) => None,
        SyncNames::Any { .. } if sql.commits_wait => Some(Step::Set(wanted.clone())),
        SyncNames::Any { .. } if closed => Some(Step::Probe),
        SyncNames::Any { .. } => Some(Step::Set(SyncNames::Closed)),
    }
}

/// The list of configurations that the Lease should show next, if it should change.
pub(super) fn next_configurations(
    turn: &mut Turn<'_>,
    document: &Document,
    tenure: &Tenure,
    proven: Option<&Verified>,
) -> Option<Vec<Configuration>> {
    let view = turn.view;
    let me = view.durable()?.data_id;
    let sql = view.sql.as_ref()?;
    note_missing(turn, document, sql, tenure.epoch);
    let current = target(document, tenure.epoch);
    let settled = proven.is_some_and(|proven| {
        current.is_none_or(|current| current.has_write_quorum(&flushed(sql, proven.lsn)))
    });
    let wish = wish(turn, document, tenure, sql);
    let alone: Vec<Configuration> = current.cloned().into_iter().collect();
    if settled && document.configurations != alone {
        return Some(alone);
    }
    let next = match (current, wish) {
        (None, None) => return None,
        // `Async` ends: from now on nobody else may lead until somebody is in S.
        (None, Some(_)) => Configuration::alone(tenure.epoch, me),
        (Some(current), None) if current.k == 0 => return settled.then(Vec::new),
        (Some(current), None) => Configuration { k: 0, standbys: BTreeSet::new(), ..current.clone() },
        (Some(current), Some(wish)) => step(current, &wish)?,
    };
    // Anything may be followed by "waits for nobody", and what nothing can be acknowledged under by anything;
    // else one step must be settled before the next. One that stands alone was: asking again would wait for ever
    // for standbys that have become others meanwhile.
    let may = settled
        || document.configurations == alone
        || current.is_some_and(|current| current.is_unsatisfiable() || (next.k == 0 && current.k > 0));
    may.then(|| document.configurations.iter().cloned().chain([next]).collect())
}

/// One step towards the wish: grow S, or change k, or shrink S (review S-7b), and nothing else at once.
pub(super) fn step(current: &Configuration, wish: &Wish) -> Option<Configuration> {
    let stepped = |k: u8, standbys: BTreeSet<DataId>| Some(Configuration { k, standbys, ..current.clone() });
    if current.k == wish.k && (wish.k == 0 || current.standbys == wish.standbys) {
        return None;
    }
    if wish.k == 0 {
        return stepped(0, BTreeSet::new());
    }
    if current.k == 0 {
        return stepped(wish.k, wish.standbys.clone());
    }
    if !wish.standbys.is_subset(&current.standbys) {
        return stepped(current.k, current.standbys.union(&wish.standbys).copied().collect());
    }
    if wish.k != current.k && (wish.k < current.k || wish.standbys.len() < usize::from(current.k)) {
        return stepped(wish.k, current.standbys.clone());
    }
    if current.standbys != wish.standbys {
        return stepped(current.k, wish.standbys.clone());
    }
    stepped(wish.k, current.standbys.clone())
}

fn flushed(sql: &SqlFacts, lsn: Lsn) -> BTreeSet<DataId> {
    let has = |(id, standby): (&DataId, &super::view::Standby)| {
        (standby.streaming && standby.flushed >= lsn).then_some(*id)
    };
    sql.standbys.iter().filter_map(has).collect()
}

/// Whether this standby streams and has nearly everything.
pub(super) fn is_caught_up(sql: &SqlFacts, id: DataId) -> bool {
    sql.standbys.get(&id).is_some_and(|standby| {
        standby.streaming && sql.flushed.bytes_since(standby.flushed) <= CAUGHT_UP_WITHIN
    })
}

fn note_missing(turn: &mut Turn<'_>, document: &Document, sql: &SqlFacts, epoch: Epoch) {
    let standbys = target(document, epoch).map(|target| target.standbys.clone()).unwrap_or_default();
    let missing: BTreeSet<DataId> = standbys
        .into_iter()
        .filter(|id| !sql.standbys.get(id).is_some_and(|standby| standby.streaming))
        .collect();
    turn.memory.missing_since.retain(|id, _| missing.contains(id));
    for id in missing {
        turn.memory.missing_since.entry(id).or_insert(turn.view.now);
    }
}

/// What commits should wait for, given who is there; `None` in `Async`.
fn wish(turn: &Turn<'_>, document: &Document, tenure: &Tenure, sql: &SqlFacts) -> Option<Wish> {
    let view = turn.view;
    let wanted = view.config.min_sync_replicas;
    if view.config.durability == Durability::Async {
        return None;
    }
    let present = eligible(view, document, sql);
    let current = target(document, tenure.epoch).map(|target| target.standbys.clone()).unwrap_or_default();
    let (leaving, staying): (Vec<_>, Vec<_>) =
        current.into_iter().partition(|id| leaves(turn, document, tenure, *id));
    let mut standbys: BTreeSet<DataId> = staying.into_iter().chain(present).collect();
    if view.config.durability == Durability::Preferred {
        let k = wanted.min(u8::try_from(standbys.len()).unwrap_or(u8::MAX));
        return Some(Wish { k, standbys });
    }
    // `Required` never waits for fewer: a missing standby stays until another takes its place.
    let lacking = usize::from(wanted).saturating_sub(standbys.len());
    standbys.extend(leaving.into_iter().take(lacking));
    Some(Wish { k: wanted, standbys })
}

/// Listed and wanted members that stream and have nearly everything.
fn eligible(view: &View, document: &Document, sql: &SqlFacts) -> BTreeSet<DataId> {
    let wanted = |ordinal: Ordinal| ordinal != view.me.ordinal && ordinal.0 < view.config.replicas;
    let members = document.members.iter().filter(|(ordinal, _)| wanted(**ordinal));
    members.map(|(_, id)| *id).filter(|id| is_caught_up(sql, *id)).collect()
}

/// Whether a standby should leave S: no longer a wanted member, or missing for `syncTimeout` while renewals
/// succeeded all that time (review A-8: otherwise it is I who am cut off).
fn leaves(turn: &Turn<'_>, document: &Document, tenure: &Tenure, id: DataId) -> bool {
    let view = turn.view;
    let member = document.ordinal_of(id).filter(|ordinal| ordinal.0 < view.config.replicas);
    if member.is_none() {
        return true;
    }
    let timeout = view.config.sync_timeout();
    let missing = turn.memory.missing_since.get(&id).is_some_and(|since| view.now >= *since + timeout);
    missing && view.now >= tenure.unbroken_since + timeout
}

/// Tells people when commits stop or begin to wait for standbys.
pub(super) fn tell(turn: &mut Turn<'_>, document: &Document, epoch: Epoch) {
    let in_force = &document.configurations;
    let durable = target(document, epoch).is_some() && in_force.iter().all(|c| c.k > 0);
    turn.summary.durable = Some(durable);
    // The first member of a new Database has nobody to miss yet.
    let expected = turn.view.config.durability != Durability::Async && document.members.len() > 1;
    if durable {
        if turn.memory.told.remove(&Told::DurabilityLost) {
            turn.actions.push(Action::Emit(Event::DurabilityRestored));
        }
    } else if expected && turn.memory.told.insert(Told::DurabilityLost) {
        let why = "no standby streams: commits are on the primary alone".to_owned();
        turn.actions.push(Action::Emit(Event::DurabilityLost { why }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn configuration(k: u8, standbys: &BTreeSet<u64>) -> Configuration {
        Configuration {
            epoch: Epoch(1),
            primary: DataId(0),
            k: if standbys.is_empty() { 0 } else { k },
            standbys: standbys.iter().copied().map(DataId).collect(),
        }
    }

    proptest! {
        /// Review S-7b: one step grows S, or shrinks S, or changes k (only to or from 0 may both change, where
        /// no walsender counts); and steps reach the wish.
        #[test]
        fn steps_change_one_thing_and_arrive(
            from in btree_set(1_u64..9, 0..6), from_k in 1_u8..4,
            to in btree_set(1_u64..9, 0..6), to_k in 1_u8..4,
        ) {
            let mut current = configuration(from_k, &from);
            let wanted = configuration(to_k.min(u8::try_from(to.len()).unwrap()), &to);
            let wish = Wish { k: wanted.k, standbys: wanted.standbys.clone() };
            for _ in 0..8 {
                let Some(next) = step(&current, &wish) else { break };
                prop_assert_ne!(&next, &current);
                if next.k > 0 && current.k > 0 {
                    let same_k = next.k == current.k;
                    let same_s = next.standbys == current.standbys;
                    let monotone = next.standbys.is_subset(&current.standbys)
                        || next.standbys.is_superset(&current.standbys);
                    prop_assert!(same_k != same_s && monotone, "{current:?} -> {next:?}");
                }
                current = next;
            }
            prop_assert_eq!(current.k, wish.k);
            prop_assert!(wish.k == 0 || current.standbys == wish.standbys);
        }
    }
}
