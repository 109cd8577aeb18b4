//! More members, longer traces, clocks at the limit of L1, and profiles that change among the faults.

use proptest::prelude::*;
use proto::{ha::profile::Profile, wire::config::Durability};

use crate::{
    SECOND, fault,
    faults::Fault,
    formed, runs, survive,
    world::{World, config},
};

/// The fastest clock gains nearly 10 % on the slowest (L1).
const LIMIT: [u64; 3] = [95, 100, 104];

fn profile() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Profile::Fast, Profile::Standard, Profile::Tolerant]).prop_map(Fault::Profile)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: runs(6), failure_persistence: None, ..ProptestConfig::default() })]

    /// Nine members, every commit on four of them.
    #[test]
    fn nine_members(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..5 * SECOND, fault(9)), 8..24),
    ) {
        let mut wanted = config(9, Durability::Preferred);
        wanted.min_sync_replicas = 3;
        let mut world = World::new(seed, 9, wanted);
        world.until(120 * SECOND, "nine members form", |world| world.is_healthy(9));
        survive(world, faults, 9);
    }

    /// Minutes of faults, one upon another, with clocks as far apart as L1 allows.
    #[test]
    fn long_traces(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..6 * SECOND, prop_oneof![9 => fault(3), 1 => profile()]), 24..48),
    ) {
        let mut world = formed(seed, Durability::Preferred);
        world.set_rates(&LIMIT);
        survive(world, faults, 3);
    }
}
