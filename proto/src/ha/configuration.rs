//! Configurations: whom a commit waited for, and so whom a new leader must have heard (ha.md sections 4.4 and 5).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{document::Document, sync_names::SyncNames};
use crate::identity::{DataId, Epoch, Ordinal};

/// Whom the commits of one primary wait for: they are on the primary *and* on `k` of `standbys`.
///
/// `k` = 0 is the fallback of `Preferred`: commits are on the primary alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Epoch in which it was written.
    pub epoch: Epoch,
    /// Data of the primary.
    pub primary: DataId,
    /// How many standbys a commit waits for.
    pub k: u8,
    /// S: who may be one of them.
    pub standbys: BTreeSet<DataId>,
}

impl Configuration {
    /// The configuration of a primary that nobody follows.
    pub fn alone(epoch: Epoch, primary: DataId) -> Self {
        Self { epoch, primary, k: 0, standbys: BTreeSet::new() }
    }

    /// Whether `answered` holds every commit acknowledged under this configuration: its primary, or
    /// |S| - k + 1 of S.
    ///
    /// With k = 0 no set of standbys is enough. With k > |S| nothing was ever acknowledged, so anything is.
    pub fn has_read_quorum(&self, answered: &BTreeSet<DataId>) -> bool {
        let needed = (self.standbys.len() + 1).saturating_sub(usize::from(self.k));
        answered.contains(&self.primary) || self.standbys.intersection(answered).count() >= needed
    }

    /// Whether every commit acknowledged from now on would be on `k` of these.
    pub fn has_write_quorum(&self, flushed: &BTreeSet<DataId>) -> bool {
        self.standbys.intersection(flushed).count() >= usize::from(self.k)
    }

    /// Whether nothing can ever be acknowledged under it: `Required` without enough standbys.
    pub fn is_unsatisfiable(&self) -> bool {
        usize::from(self.k) > self.standbys.len()
    }

    /// Whether no read quorum can form while `bound` take no part. With k = 0 that is so by itself, but a
    /// human may override it, so it says nothing here.
    pub fn is_barred_by(&self, bound: &BTreeSet<DataId>) -> bool {
        let everybody = self.standbys.iter().chain([&self.primary]);
        let free = everybody.filter(|id| !bound.contains(id)).copied().collect();
        self.k > 0 && !self.has_read_quorum(&free)
    }

    /// What the primary's server is told.
    pub fn names(&self) -> SyncNames {
        match self.k {
            0 => SyncNames::Off,
            k => SyncNames::any(k, &self.standbys),
        }
    }
}

/// Who could elect another leader under one document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Electorate {
    members: BTreeMap<Ordinal, DataId>,
    configurations: Vec<Configuration>,
}

impl Electorate {
    /// Of this document.
    pub fn of(document: &Document) -> Self {
        Self { members: document.members.clone(), configurations: document.configurations.clone() }
    }

    /// Whether nobody can be elected while `bound` take no part: all listed members are, or some configuration
    /// cannot find a read quorum, and an election needs one of each.
    pub fn is_barred_by(&self, bound: &BTreeSet<DataId>) -> bool {
        self.members.values().all(|id| bound.contains(id))
            || self.configurations.iter().any(|configuration| configuration.is_barred_by(bound))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<DataId> {
        numbers.iter().copied().map(DataId).collect()
    }

    fn with(k: u8, standbys: &[u64]) -> Configuration {
        Configuration { epoch: Epoch(1), primary: DataId(0), k, standbys: ids(standbys) }
    }

    #[test]
    fn the_primary_alone_is_a_read_quorum() {
        assert!(with(1, &[1, 2]).has_read_quorum(&ids(&[0])));
        assert!(with(0, &[]).has_read_quorum(&ids(&[0])));
    }

    #[test]
    fn nobody_but_the_primary_follows_a_fallback() {
        assert!(!with(0, &[]).has_read_quorum(&ids(&[1, 2, 3])));
        assert!(!with(0, &[1, 2]).has_read_quorum(&ids(&[1, 2])));
    }

    #[test]
    fn a_strangers_data_never_counts() {
        // Review S-3: a wiped and re-cloned member is somebody else.
        assert!(!with(1, &[1, 2]).has_read_quorum(&ids(&[1, 9])));
        assert!(with(1, &[1, 2]).has_read_quorum(&ids(&[1, 2])));
    }

    #[test]
    fn k_of_s_bar_an_election_and_fewer_do_not() {
        // The primary, who counts on it, is bound as well.
        assert!(with(1, &[1, 2]).is_barred_by(&ids(&[0, 1])));
        assert!(with(2, &[1, 2, 3]).is_barred_by(&ids(&[0, 1, 3])));
        assert!(!with(2, &[1, 2, 3]).is_barred_by(&ids(&[0, 1])));
        // A primary of an earlier epoch is a read quorum by itself.
        assert!(!with(1, &[1, 2]).is_barred_by(&ids(&[1, 2])));
        // Nothing was ever acknowledged under it, so anybody will do.
        assert!(!with(2, &[1]).is_barred_by(&ids(&[0, 1])));
        assert!(!with(0, &[1]).is_barred_by(&ids(&[0, 1])));
    }

    proptest! {
        /// Whatever k of S acknowledged a commit, every read quorum of S has one of them.
        #[test]
        fn read_and_write_quorums_meet(
            standbys in btree_set(1_u64..9, 1..9),
            k in 1_u8..9,
            writers in btree_set(1_u64..9, 0..9),
            readers in btree_set(1_u64..9, 0..9),
        ) {
            let to_ids = |set: &BTreeSet<u64>| set.iter().copied().map(DataId).collect::<BTreeSet<_>>();
            let configuration =
                Configuration { epoch: Epoch(1), primary: DataId(0), k, standbys: to_ids(&standbys) };
            let (writers, readers) = (to_ids(&writers), to_ids(&readers));
            if configuration.has_write_quorum(&writers) && configuration.has_read_quorum(&readers) {
                let acknowledged: BTreeSet<_> = configuration.standbys.intersection(&writers).collect();
                prop_assert!(readers.iter().any(|reader| acknowledged.contains(reader)));
            }
        }
    }
}
