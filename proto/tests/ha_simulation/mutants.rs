//! Ways in which the ground under the decision core could be wrong. Each must be caught by the same checks, or
//! the simulation would prove nothing. They are executions of the reviews: a supervisor that forgets a seal, a
//! member that keeps its name over a new data directory, and so on.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};

use proto::wire::config::Durability;

use crate::{SECOND, dice::Dice, faults::Fault, world::World};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Review S-5: a seal leaves the WAL receiver running.
    SealLeavesReceiver,
    /// Review S-6: a member reports less than it has acknowledged.
    UnderReportedEnd,
    /// Review S-2: the promotion takes the next local number instead of the reserved one.
    LocalTimeline,
    /// Review S-7a: "commits wait" is believed and not seen.
    WaitNotProven,
    /// W1: the API server takes a write with any version.
    AnyVersion,
    /// L2: the supervisor has no fence.
    NoFence,
    /// Findings: one promise is taken for everybody's.
    PromiseOfOne,
    /// Review S-4a, L4: an agent that restarted answers as if it knew what it had promised.
    PromiseForgotten,
    /// Review S-4d: the span that a primary counts on is the one that was promised, whatever clocks do.
    PromiseTooShort,
}

impl World {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// What is done to a world, and when.
type Schedule = fn(&mut World) -> Vec<(u64, Fault)>;

/// Runs seeds until a safety property is violated; says by which seed and how.
pub(crate) fn hunt(mutant: Option<Mutant>, seeds: Range<u64>, schedule: Schedule) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| Some((seed, violation(|| play(mutant, seed, schedule))?)))
}

/// How a play violated a safety property, if it did.
fn violation(play: impl FnOnce()) -> Option<String> {
    let run = catch_unwind(AssertUnwindSafe(play));
    let message = run.err()?.downcast::<String>().map_or_else(|_| String::new(), |text| *text);
    ["S1:", "S2:", "S3:"].iter().any(|name| message.contains(name)).then_some(message)
}

fn play(mutant: Option<Mutant>, seed: u64, schedule: Schedule) {
    let mut world = crate::formed(seed, Durability::Preferred);
    world.mutant = mutant;
    world.write_every = 60_000;
    for node in &mut world.nodes {
        if let Some(life) = &mut node.life {
            life.mutant = mutant;
        }
    }
    for (wait, fault) in schedule(&mut world) {
        world.run(wait);
        world.apply(fault);
    }
    world.run(10 * SECOND);
    world.heal();
    world.run(20 * SECOND);
}

fn node(dice: &mut Dice) -> usize {
    usize::try_from(dice.below(3)).unwrap()
}

fn many(world: &mut World, draw: fn(&mut Dice) -> Fault) -> Vec<(u64, Fault)> {
    (0..14).map(|_| (world.dice.below(4 * SECOND), draw(&mut world.dice))).collect()
}

fn crash_or_cut(dice: &mut Dice) -> Fault {
    let (one, other) = (node(dice), node(dice));
    match dice.below(10) {
        0 => Fault::CrashPostgres(one),
        1 | 2 => Fault::KillContainer(one),
        3 => Fault::DeletePod(one),
        4 | 5 => Fault::Isolate(one),
        6 => Fault::CutPeers(one, other),
        7 => Fault::CutApi(one),
        _ => Fault::Heal,
    }
}

/// Crashes and partitions, with clocks that can be trusted.
pub(crate) fn honest(world: &mut World) -> Vec<(u64, Fault)> {
    many(world, crash_or_cut)
}

/// Crashes, partitions of the API alone, pauses, and clocks that say nothing.
pub(crate) fn broken_clocks(world: &mut World) -> Vec<(u64, Fault)> {
    world.break_clocks();
    many(world, |dice| match dice.below(6) {
        0 => Fault::Pause(node(dice), SECOND + dice.below(15 * SECOND)),
        1 | 2 => Fault::CutApi(node(dice)),
        3 => Fault::KillContainer(node(dice)),
        _ => crash_or_cut(dice),
    })
}

/// The primary falls back, its standbys return, and it is lost while commits begin to wait again.
pub(crate) fn lost_on_return(world: &mut World) -> Vec<(u64, Fault)> {
    let primary = world.primary().unwrap_or(0);
    let others: Vec<usize> = (0..3).filter(|other| *other != primary).collect();
    let after = world.dice.below(6 * SECOND);
    vec![
        (0, Fault::CutPeers(primary, others[0])),
        (0, Fault::CutPeers(primary, others[1])),
        (16 * SECOND, Fault::Heal),
        (after, Fault::Isolate(primary)),
        (0, Fault::KillContainer(primary)),
        (25 * SECOND, Fault::Heal),
    ]
}

/// Hunts from a seed on, a little before the first one that was seen to catch it.
fn caught(mutant: Mutant, first: u64, schedule: Schedule) {
    let found = hunt(Some(mutant), first..first + SEEDS, schedule);
    assert!(found.is_some(), "{mutant:?} was not caught in {SEEDS} runs");
    if let Some((seed, message)) = found {
        eprintln!("{mutant:?}: seed {seed}: {}", message.lines().next().unwrap_or_default());
    }
}

/// One of the plays must violate S1 to S3 under `mutant`.
pub(crate) fn found(mutant: Mutant, mut seeds: Range<u64>, play: fn(Option<Mutant>, u64)) {
    let caught = seeds.find_map(|seed| violation(|| play(Some(mutant), seed)));
    assert!(caught.is_some(), "{mutant:?} was not caught");
}

/// So many runs may pass before a mutant must have been caught.
const SEEDS: u64 = 400;

#[test]
fn seal_leaves_receiver() {
    caught(Mutant::SealLeavesReceiver, 70, broken_clocks);
}

#[test]
fn under_reported_end() {
    caught(Mutant::UnderReportedEnd, 26, honest);
}

#[test]
fn local_timeline() {
    caught(Mutant::LocalTimeline, 95, honest);
}

#[test]
fn wait_not_proven() {
    caught(Mutant::WaitNotProven, 240, lost_on_return);
}

#[test]
fn any_version() {
    caught(Mutant::AnyVersion, 15, honest);
}

#[test]
fn no_fence() {
    caught(Mutant::NoFence, 15, honest);
}

/// The same hunts in a world where nothing is wrong find nothing. `HA_RUNS=5000` looks longer.
#[test]
fn nothing_is_caught_where_nothing_is_wrong() {
    let seeds = u64::from(crate::runs(20));
    for schedule in [honest as Schedule, broken_clocks, lost_on_return] {
        assert_eq!(hunt(None, 0..seeds, schedule), None);
    }
}
