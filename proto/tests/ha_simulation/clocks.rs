//! Clocks of nodes that differ by hours. They are never compared with each other (docs/ha.md section 3), so that
//! the same faults must come to the same, to the microsecond and the record.

use proto::wire::config::Durability;

use crate::{
    SECOND,
    faults::Fault,
    world::{World, config},
};

const HOUR: u64 = 3_600 * SECOND;

/// Crashes, partitions, outages with promises and relays, switchovers.
const FAULTS: [(u64, Fault); 11] = [
    (3 * SECOND, Fault::ApiDown),
    (20 * SECOND, Fault::Heal),
    (5 * SECOND, Fault::Isolate(0)),
    (15 * SECOND, Fault::Heal),
    (20 * SECOND, Fault::Switchover(None)),
    (5 * SECOND, Fault::CrashPostgres(1)),
    (4 * SECOND, Fault::DeletePod(2)),
    (9 * SECOND, Fault::CutApi(0)),
    (9 * SECOND, Fault::RestartAgent(1)),
    (9 * SECOND, Fault::LoseWriteAnswers),
    (9 * SECOND, Fault::KillContainer(0)),
];

/// All that happens when each node's uptime and wall clock are ahead by so many hours.
fn told(seed: u64, ahead: [(u64, i64); 4]) -> String {
    let mut world = World::new(seed, 4, config(3, Durability::Preferred));
    for (node, (uptime, wall)) in world.nodes.iter_mut().zip(ahead) {
        node.clock.0 = (1 + uptime) * HOUR;
        node.wall_hours = wall;
    }
    world.until(40 * SECOND, "three members form", |world| world.is_healthy(3));
    for (wait, fault) in FAULTS {
        world.run(wait);
        world.apply(fault);
    }
    world.run(9 * SECOND);
    world.heal();
    world.until(120 * SECOND, "all stream again", |world| world.is_healthy(3));
    format!("{} {:?}", world.now, world.journal)
}

#[test]
fn clocks_that_differ_by_hours_change_nothing() {
    for seed in 50..56 {
        let together = told(seed, [(0, 0); 4]);
        assert!(together.contains("TookOver"));
        assert_eq!(told(seed, [(0, -5), (7, 3), (2_000, 0), (1, 12)]), together, "seed {seed}");
    }
}
