//! PostgreSQL's own rule of synchronous replication, for the fake servers of model and simulation.

use proto::{ha::sync_names::SyncNames, identity::DataId, postgres::Lsn};

/// One walsender: whose, the names as it has loaded them, and what its standby has flushed.
pub(crate) type Known<'a> = (DataId, &'a SyncNames, Lsn);

/// Up to where commits may be acknowledged once the walsender of `by` got a reply: it counts by its own copy of the
/// names, and everybody counts who has a place in theirs.
pub(crate) fn released_up_to<'a>(by: DataId, all: impl Iterator<Item = Known<'a>> + Clone) -> Option<Lsn> {
    let counts = |(id, names, _): &Known<'_>| match names {
        SyncNames::Any { standbys, .. } => standbys.contains(id),
        SyncNames::Off | SyncNames::Closed => false,
    };
    let counted = all.filter(counts);
    let (_, names, _) = counted.clone().find(|(id, ..)| *id == by)?;
    let SyncNames::Any { k, .. } = names else { return None };
    let mut flushed: Vec<Lsn> = counted.map(|(.., flushed)| flushed).collect();
    flushed.sort_unstable_by(|a, b| b.cmp(a));
    flushed.get(usize::from(*k) - 1).copied()
}
