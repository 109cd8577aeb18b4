//! Several production cores against each other: goals that must be reached, and random faults under which
//! S1 to S4 must hold at every step (docs/ha.md). `HA_TRACE=1` prints every action.

#![allow(clippy::unwrap_used, reason = "a test: what it builds is known to be there")]

mod acceptance;
mod clocks;
mod dice;
mod faults;
mod hand;
mod long;
mod mutants;
mod outage;
mod server;
mod servers;
mod volumes;
#[path = "../fakes/walsender.rs"]
mod walsender;
mod wire;
mod world;

use faults::Fault;
use proptest::prelude::*;
use proto::wire::config::Durability;
use world::{World, config};

const SECOND: u64 = 1_000_000;

/// Three members, formed and streaming.
fn formed(seed: u64, durability: Durability) -> World {
    // A fourth pod exists for whoever scales up.
    let mut world = World::new(seed, 4, config(3, durability));
    world.until(40 * SECOND, "three members form", |world| world.is_healthy(3));
    world
}

fn after(fault: impl Fn(usize) -> Fault, limit: u64) -> World {
    let mut world = formed(7, Durability::Preferred);
    let old = world.primary().unwrap();
    let epoch = world.journal.last_epoch;
    world.apply(fault(old));
    let outage = world.until(limit, "somebody leads a later epoch", |world| {
        world.primary().is_some() && world.journal.last_epoch > epoch
    });
    eprintln!("outage {} ms, from {old} to {:?}", outage / 1000, world.primary());
    world
}

#[test]
fn first_start() {
    for durability in [Durability::Preferred, Durability::Required, Durability::Async] {
        let world = formed(1, durability);
        eprintln!("{durability:?}: formed after {} ms", world.now / 1000);
        assert_eq!(world.primary(), Some(0));
    }
}

#[test]
fn postgres_dies() {
    let mut world = after(Fault::CrashPostgres, 3 * SECOND);
    world.until(30 * SECOND, "all stream again", |world| world.is_healthy(3));
}

#[test]
fn container_dies() {
    let mut world = after(Fault::KillContainer, 3 * SECOND);
    world.until(30 * SECOND, "all stream again", |world| world.is_healthy(3));
}

#[test]
fn pod_is_lost_and_returns() {
    let mut world = after(Fault::DeletePod, 13 * SECOND);
    world.until(30 * SECOND, "all stream again", |world| world.is_healthy(3));
}

#[test]
fn volume_is_lost() {
    let mut world = after(Fault::WipeVolume, 13 * SECOND);
    world.until(60 * SECOND, "all stream again", |world| world.is_healthy(3));
}

/// The one standby that commits wait for is somebody else afterwards.
#[test]
fn volume_of_the_only_standby_is_lost() {
    for durability in [Durability::Preferred, Durability::Required] {
        let mut world = World::new(11, 2, config(2, durability));
        world.until(40 * SECOND, "two members form", |world| world.is_healthy(2));
        let primary = world.primary().unwrap();
        world.apply(Fault::WipeVolume(1 - primary));
        world.run(SECOND);
        world.until(40 * SECOND, "both stream again", |world| world.is_healthy(2));
        let acknowledged = world.journal.acknowledged.len();
        world.until(20 * SECOND, "commits are acknowledged again", |world| {
            world.journal.acknowledged.len() > acknowledged + 10
        });
        assert_eq!(world.primary(), Some(primary));
    }
}

#[test]
fn primary_is_isolated() {
    let mut world = after(Fault::Isolate, 13 * SECOND);
    world.run(10 * SECOND);
    world.heal();
    world.until(40 * SECOND, "all stream again", |world| world.is_healthy(3));
}

#[test]
fn switchover_to_a_named_member() {
    let mut world = after(|_| Fault::Switchover(Some(2)), 4 * SECOND);
    assert_eq!(world.primary(), Some(2));
    world.until(20 * SECOND, "all stream again", |world| world.is_healthy(3));
}

/// Who gave the lead away stands aside only until another has it, and may be named as soon as it streams again.
#[test]
fn switchover_there_and_at_once_back() {
    let mut world = formed(3, Durability::Preferred);
    let first = world.primary().unwrap();
    for to in [(first + 1) % 3, first] {
        world.apply(Fault::Switchover(u8::try_from(to).ok()));
        world.until(10 * SECOND, "the named member leads", |world| {
            world.primary() == Some(to) && world.is_healthy(3)
        });
    }
}

#[test]
fn agent_restarts_and_postgres_does_not_notice() {
    let mut world = formed(3, Durability::Preferred);
    let (primary, epoch) = (world.primary().unwrap(), world.journal.last_epoch);
    let run = world.nodes[primary].life.as_ref().unwrap().run;
    world.apply(Fault::RestartAgent(primary));
    world.run(20 * SECOND);
    assert_eq!((world.primary(), world.journal.last_epoch), (Some(primary), epoch));
    let life = world.nodes[primary].life.as_ref().unwrap();
    assert_eq!((life.run, life.fences), (run, 0));
}

#[test]
fn all_restart_at_once() {
    let mut world = formed(4, Durability::Preferred);
    for node in 0..3 {
        world.apply(Fault::DeletePod(node));
    }
    world.until(40 * SECOND, "all stream again", |world| world.is_healthy(3));
}

#[test]
fn scale_1_3_5_2() {
    let mut world = World::new(5, 5, config(1, Durability::Preferred));
    world.until(20 * SECOND, "one", |world| world.is_healthy(1));
    world.config.replicas = 3;
    world.until(30 * SECOND, "three", |world| world.is_healthy(3));
    world.config.replicas = 5;
    world.until(30 * SECOND, "five", |world| world.is_healthy(5));
    // The leader itself is one that should go.
    world.apply(Fault::Switchover(Some(4)));
    world.until(30 * SECOND, "member 4 leads", |world| world.primary() == Some(4) && world.is_healthy(5));
    world.config.replicas = 2;
    world.until(60 * SECOND, "two", |world| world.is_healthy(2));
    world.until(10 * SECOND, "slots of the others are dropped", |world| {
        world.nodes[world.primary().unwrap()].life.as_ref().unwrap().slots.len() == 1
    });
}

#[test]
fn preferred_falls_back_and_returns() {
    let mut world = formed(6, Durability::Preferred);
    let primary = world.primary().unwrap();
    for other in (0..3).filter(|other| *other != primary) {
        world.apply(Fault::CutPeers(primary, other));
    }
    let acknowledged = world.journal.acknowledged.len();
    world.until(20 * SECOND, "commits go on alone", |world| {
        let configurations = &world.lease.contents.as_ref().unwrap().document.configurations;
        matches!(&configurations[..], [only] if only.k == 0)
            && world.journal.acknowledged.len() > acknowledged + 10
    });
    assert_eq!(world.primary(), Some(primary));
    // Nobody else can lead now.
    world.apply(Fault::KillContainer(primary));
    world.nodes[primary].restart_at = u64::MAX;
    world.run(30 * SECOND);
    assert_eq!(world.primary(), None);
    world.nodes[primary].restart_at = 0;
    world.heal();
    world.until(40 * SECOND, "the same leads, all stream", |world| world.is_healthy(3));
}

#[test]
fn required_waits() {
    let mut world = formed(8, Durability::Required);
    let primary = world.primary().unwrap();
    for other in (0..3).filter(|other| *other != primary) {
        world.apply(Fault::CutPeers(primary, other));
    }
    world.run(2 * SECOND);
    let acknowledged = world.journal.acknowledged.len();
    world.run(30 * SECOND);
    assert_eq!(world.journal.acknowledged.len(), acknowledged);
    world.heal();
    world.until(30 * SECOND, "all stream", |world| world.is_healthy(3));
    assert!(world.journal.acknowledged.len() > acknowledged);
}

fn fault(nodes: usize) -> impl Strategy<Value = Fault> {
    let node = 0..nodes;
    prop_oneof![
        3 => node.clone().prop_map(Fault::CrashPostgres),
        3 => node.clone().prop_map(Fault::KillContainer),
        2 => node.clone().prop_map(Fault::RestartAgent),
        3 => node.clone().prop_map(Fault::DeletePod),
        2 => node.clone().prop_map(Fault::CutApi),
        3 => node.clone().prop_map(Fault::Isolate),
        3 => (node.clone(), 0..nodes).prop_map(|(a, b)| Fault::CutPeers(a, b)),
        1 => Just(Fault::ApiDown),
        2 => Just(Fault::LoseWriteAnswers),
        2 => prop::option::of(0..u8::try_from(nodes).unwrap()).prop_map(Fault::Switchover),
        4 => Just(Fault::Heal),
    ]
}

/// Applies faults at their times, then heals and waits until all is well.
fn survive(mut world: World, faults: Vec<(u64, Fault)>, members: usize) {
    for (wait, fault) in faults {
        world.run(wait);
        world.apply(fault);
    }
    world.run(SECOND);
    world.heal();
    world.mend_lease();
    // Ten minutes: a member that will never become consistent is given that long when nobody remembers why.
    world.until(900 * SECOND, "healthy after healing", |world| world.is_healthy(members));
}

/// How many random runs to make; `HA_RUNS=5000` looks longer.
fn runs(usual: u32) -> u32 {
    std::env::var("HA_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: runs(40), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_faults_honest_clocks(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..8 * SECOND, fault(3)), 1..12),
    ) {
        survive(formed(seed, Durability::Preferred), faults, 3);
    }

    #[test]
    fn random_faults_required(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..8 * SECOND, fault(3)), 1..12),
    ) {
        survive(formed(seed, Durability::Required), faults, 3);
    }

    /// S2 holds even if frozen primaries wake late.
    #[test]
    fn random_faults_with_freezes(
        seed in any::<u64>(),
        faults in prop::collection::vec(
            (0..8 * SECOND, prop_oneof![
                3 => fault(3),
                2 => (0..3_usize, SECOND..60 * SECOND).prop_map(|(node, span)| Fault::Freeze(node, span)),
            ]),
            1..12,
        ),
    ) {
        survive(formed(seed, Durability::Preferred), faults, 3);
    }

    /// Nothing waits, so commits may be lost, but S1 and S3 hold and the cluster comes back.
    #[test]
    fn random_faults_async(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..8 * SECOND, fault(3)), 1..12),
    ) {
        survive(formed(seed, Durability::Async), faults, 3);
    }

    /// Volumes hang and fill up among the faults.
    #[test]
    fn random_faults_with_bad_volumes(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..12 * SECOND, prop_oneof![
            3 => fault(3),
            2 => (0..3_usize).prop_map(Fault::HangVolume),
            1 => (0..3_usize).prop_map(|node| Fault::FillVolume(node, 0)),
            1 => (0..3_usize).prop_map(|node| Fault::FillVolume(node, 20 << 20)),
        ]), 1..12),
        required in any::<bool>(),
    ) {
        let durability = if required { Durability::Required } else { Durability::Preferred };
        survive(formed(seed, durability), faults, 3);
    }

    /// Five members, every commit on three of them.
    #[test]
    fn random_faults_five_members(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..6 * SECOND, fault(5)), 1..16),
        required in any::<bool>(),
    ) {
        let durability = if required { Durability::Required } else { Durability::Preferred };
        let mut wanted = config(5, durability);
        wanted.min_sync_replicas = 2;
        let mut world = World::new(seed, 5, wanted);
        world.until(60 * SECOND, "five members form", |world| world.is_healthy(5));
        survive(world, faults, 5);
    }

    /// The number of replicas changes among the faults.
    #[test]
    fn random_faults_while_scaling(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..8 * SECOND, prop_oneof![
            3 => fault(4),
            2 => (2..5_u8).prop_map(Fault::Scale),
        ]), 1..12),
    ) {
        let mut world = formed(seed, Durability::Preferred);
        for (wait, fault) in faults {
            world.run(wait);
            world.apply(fault);
        }
        world.run(SECOND);
        world.heal();
        let wanted = usize::from(world.config.replicas);
        world.until(900 * SECOND, "healthy after healing", |world| world.is_healthy(wanted));
    }

    /// One volume may be lost.
    #[test]
    fn random_faults_with_a_lost_volume(
        seed in any::<u64>(),
        node in 0..3_usize,
        faults in prop::collection::vec((0..8 * SECOND, fault(3)), 1..8),
    ) {
        let mut all = vec![(0, Fault::WipeVolume(node))];
        all.extend(faults);
        survive(formed(seed, Durability::Preferred), all, 3);
    }
}
