//! What a hand may do to the Lease: delete it, or write nonsense into it (docs/ha.md W4).

use proptest::prelude::*;
use proto::{
    ha::profile::Profile,
    identity::{Epoch, Holder, RunId},
    wire::config::Durability,
};

use crate::{SECOND, faults::Fault, formed, outage::outage, runs, survive, wire::stated, world::World};

/// Something written into the Lease that no agent wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    /// Nobody holds it: a release in another's name.
    NoHolder,
    /// Somebody who is no member does.
    Stranger,
    /// This member does.
    Heir(usize),
    /// Another number for the epoch.
    Epoch(u32),
    /// The number before.
    EpochBack,
    /// The L of another profile.
    Duration(Profile),
    /// Another name for the last write.
    WriteId(i64),
    /// The document cannot be read any more.
    Scrawl,
}

impl Edit {
    /// Whether it says of the holder what only the holder may: that it has ended, or ends sooner than it does.
    fn speaks_for_the_holder(self, world: &World) -> bool {
        match self {
            Self::NoHolder | Self::Heir(_) => true,
            Self::Duration(profile) => profile.timing().lease < world.config.profile.timing().lease,
            _ => false,
        }
    }
}

impl World {
    pub(crate) fn delete_lease(&mut self) {
        self.lease.version = 0;
        self.lease.contents = None;
        // A number that only a hand wrote is gone with the Lease: its holder makes it again with its own.
        self.journal.last_epoch = self.journal.agents_epoch;
        self.notify();
    }

    pub(crate) fn edit_lease(&mut self, edit: Edit) {
        let lies = edit.speaks_for_the_holder(self);
        let heir = match edit {
            Edit::Heir(node) if self.nodes[node].agent.is_some() => self.view(node).holder(),
            _ => None,
        };
        let Some(contents) = &mut self.lease.contents else { return };
        match edit {
            Edit::NoHolder => contents.holder = None,
            Edit::Stranger => {
                contents.holder =
                    Some(Holder { pod: "x".into(), pod_uid: "y".into(), run: RunId("z".into()) });
            }
            Edit::Heir(_) => contents.holder = heir,
            Edit::Epoch(epoch) => contents.epoch = Epoch(epoch),
            Edit::EpochBack => contents.epoch = Epoch(contents.epoch.0.saturating_sub(1)),
            Edit::Duration(profile) => contents.duration = profile.timing().lease,
            Edit::WriteId(id) => contents.write_id.0 = id,
            Edit::Scrawl => self.lease.legible = false,
        }
        // As it is read, so that those who go on from it are not taken for going back.
        self.journal.last_epoch = contents.document.epoch(stated(contents.epoch));
        // For a moment two may accept (S1); at most one can acknowledge (S2).
        self.honest &= !lies;
        self.lease.version = self.fresh();
        self.notify();
    }

    /// Who finds the Lease gone or unreadable, with no valid holder left to restore it, puts back what was there: the
    /// text, or the empty Lease of a Database that was never initialised, whose members tell what they have.
    pub(crate) fn mend_lease(&mut self) {
        let lost = |world: &Self| world.lease.version == 0 || !world.lease.legible;
        if !lost(self) {
            return;
        }
        self.run(60 * SECOND);
        if !lost(self) {
            return;
        }
        self.lease.legible = true;
        self.lease.version = self.fresh();
        if self.lease.contents.is_none() {
            // The claims that only the old Lease knew of are forgotten with it.
            self.journal.last_epoch = Epoch::default();
            self.journal.agents_epoch = Epoch::default();
            self.journal.last_timeline = 0;
            self.empty_unfinished_copies();
        }
        self.notify();
    }

    /// Nobody leads before every member has said what it has, which one with an unfinished copy never can: the
    /// members say which one that is, and the person empties its volume.
    fn empty_unfinished_copies(&mut self) {
        for node in 0..self.nodes.len() {
            let disk = self.nodes[node].disk.as_ref();
            if disk.is_some_and(|disk| disk.log.len() < disk.consistent_from) {
                self.apply(Fault::WipeVolume(node));
            }
        }
    }
}

#[test]
fn a_lease_that_is_deleted_under_its_holder_is_made_again() {
    let mut world = formed(9, Durability::Preferred);
    let (primary, epoch) = (world.primary(), world.journal.last_epoch);
    world.apply(Fault::DeleteLease);
    world.until(10 * SECOND, "it is made again", |world| world.lease.contents.is_some());
    world.until(20 * SECOND, "healthy", |world| world.is_healthy(3));
    assert_eq!((world.primary(), world.journal.last_epoch), (primary, epoch));
}

/// With the holder gone as well nobody knows who has everything: that is said, and nobody leads.
#[test]
fn a_lease_that_is_deleted_with_its_holder_lets_nobody_lead() {
    let mut world = formed(19, Durability::Preferred);
    world.apply(Fault::DeleteLease);
    world.apply(Fault::DeletePod(0));
    world.run(120 * SECOND);
    assert_eq!((world.primary(), world.lease.version), (None, 0));
    world.mend_lease();
    world.until(60 * SECOND, "the members' own data tell", |world| world.is_healthy(3));
}

/// Clearing the holder is a release in another's name, so that for a moment two may accept (S1); what was
/// acknowledged stays, and all becomes well by itself.
#[test]
fn a_lease_edited_by_hand_loses_nothing_and_heals() {
    const LAST: u32 = i32::MAX as u32;
    let edits = [
        Edit::NoHolder,
        Edit::Stranger,
        Edit::Heir(1),
        Edit::Epoch(0),
        Edit::EpochBack,
        Edit::Epoch(1_000),
        Edit::Epoch(LAST - 1),
        Edit::Epoch(LAST),
        Edit::Duration(Profile::Fast),
        Edit::Duration(Profile::Tolerant),
        Edit::WriteId(0),
        Edit::Scrawl,
    ];
    for (seed, edit) in (20..).zip(edits) {
        let mut world = formed(seed, Durability::Preferred);
        world.run(3 * SECOND);
        world.apply(Fault::EditLease(edit));
        world.run(5 * SECOND);
        world.until(90 * SECOND, &format!("healthy after {edit:?}"), |world| world.is_healthy(3));
        // And it does not come back to haunt the next one.
        let epoch = world.journal.last_epoch;
        let primary = world.primary().unwrap();
        world.apply(Fault::CrashPostgres(primary));
        world.until(60 * SECOND, &format!("another epoch after {edit:?}"), |world| {
            world.journal.last_epoch > epoch && world.is_healthy(3)
        });
    }
}

/// Without those that speak for the holder.
fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => Just(Edit::Stranger),
        2 => (0..12_u32).prop_map(Edit::Epoch),
        2 => Just(Edit::EpochBack),
        1 => prop::sample::select(vec![1_000, i32::MAX as u32 - 1, i32::MAX as u32]).prop_map(Edit::Epoch),
        1 => Just(Edit::Duration(Profile::Tolerant)),
        1 => any::<i64>().prop_map(Edit::WriteId),
        2 => Just(Edit::Scrawl),
    ]
}

fn hand() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => outage(3),
        2 => Just(Fault::DeleteLease),
        3 => edit().prop_map(Fault::EditLease),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: runs(30), failure_persistence: None, ..ProptestConfig::default() })]

    /// The Lease is deleted and edited among crashes, partitions and outages: S1 to S3 as always.
    #[test]
    fn random_faults_and_a_hand_on_the_lease(
        seed in any::<u64>(),
        mode in 0..3_usize,
        faults in prop::collection::vec((0..10 * SECOND, hand()), 1..12),
    ) {
        survive(formed(seed, crate::outage::MODES[mode]), faults, 3);
    }

    /// The same with edits that say that the holder has ended.
    #[test]
    fn random_faults_and_a_hand_that_speaks_for_the_holder(
        seed in any::<u64>(),
        required in any::<bool>(),
        faults in prop::collection::vec((0..10 * SECOND, prop_oneof![
            4 => hand(),
            1 => Just(Fault::EditLease(Edit::NoHolder)),
            1 => (0..3_usize).prop_map(|node| Fault::EditLease(Edit::Heir(node))),
            1 => Just(Fault::EditLease(Edit::Duration(Profile::Fast))),
        ]), 1..12),
    ) {
        let durability = if required { Durability::Required } else { Durability::Preferred };
        survive(formed(seed, durability), faults, 3);
    }
}
