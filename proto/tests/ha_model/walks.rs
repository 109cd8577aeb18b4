//! Random walks through the model, far deeper than an exploration of everything gets: not exhaustive, but each
//! walk is its seed, and what one finds becomes a plan in [`crate::plans`].

use std::{collections::BTreeSet, ops::Range, time::Instant};

use stateright::Model;

use crate::{
    OUTAGE, Rules, WIDE,
    goals::{GOALS, Goal, OF_OUTAGES},
    model::{Step, formed},
    mutants::Mutant,
    number,
    world::{Violation, World},
};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

/// What is violated in this state, if anything.
pub(crate) fn violation(rules: &Rules, world: &World) -> Option<Violation> {
    let primaries = world.nodes.iter().filter(|node| node.life.is_primary()).count();
    world.journal.violated.or((rules.honest && primaries > 1).then_some(Violation::S1))
}

/// Walks until something is violated, nothing can happen, or `length` steps are made. Says how many steps were
/// made, which, and what was violated.
fn walk(
    rules: &Rules,
    seed: u64,
    length: usize,
    reached: &mut BTreeSet<Goal>,
) -> (Vec<Step>, Option<Violation>) {
    let (mut dice, mut world, mut path) = (Dice(seed), formed(rules), Vec::new());
    while path.len() < length {
        let mut steps = Vec::new();
        rules.actions(&world, &mut steps);
        let next = loop {
            if steps.is_empty() {
                return (path, None);
            }
            let step = steps.swap_remove(dice.below(steps.len()));
            let next = rules.next_state(&world, step).filter(|next| rules.within_boundary(next));
            if let Some(next) = next {
                path.push(step);
                break next;
            }
        };
        world = next;
        let goals = GOALS.into_iter().chain(OF_OUTAGES);
        reached.extend(goals.filter(|goal| goal.holds(&world)));
        if let Some(violated) = violation(rules, &world) {
            return (path, Some(violated));
        }
    }
    (path, None)
}

/// Takes exactly these steps; `None` if one is not possible.
fn replay(rules: &Rules, path: &[Step]) -> Option<World> {
    path.iter().try_fold(formed(rules), |world, step| {
        let mut steps = Vec::new();
        rules.actions(&world, &mut steps);
        steps.contains(step).then(|| rules.next_state(&world, *step)).flatten()
    })
}

/// Leaves out whatever the violation does not need.
fn shortest(rules: &Rules, mut path: Vec<Step>) -> Vec<Step> {
    let violates =
        |path: &[Step]| replay(rules, path).is_some_and(|world| violation(rules, &world).is_some());
    loop {
        let without = |left_out: usize| -> Vec<Step> {
            let kept = path.iter().enumerate().filter(|(index, _)| *index != left_out);
            kept.map(|(_, step)| *step).collect()
        };
        match (0..path.len()).map(without).find(|shorter| violates(shorter)) {
            Some(shorter) => path = shorter,
            None => return path,
        }
    }
}

/// So many steps a walk makes at most.
const LENGTH: usize = 120;

/// So many walks may pass before a mistake must have been found.
const WALKS: u64 = 1_500;

/// Walks from each of the seeds; says what was violated first, and prints by which seed and in which steps.
fn hunt(rules: &Rules, seeds: Range<u64>) -> (Option<Violation>, BTreeSet<Goal>) {
    let (begin, mut walks, mut steps, mut reached) = (Instant::now(), 0_usize, 0_usize, BTreeSet::new());
    let found = seeds.into_iter().find_map(|seed| {
        let (path, violated) = walk(rules, seed, LENGTH, &mut reached);
        walks += 1;
        steps += path.len();
        let violated = violated?;
        let (all, path) = (path.len(), shortest(rules, path));
        println!("{:?}: seed {seed}: {violated:?} in {} steps of {all}: {path:?}", rules.mutant, path.len());
        Some(violated)
    });
    let clocks = if rules.honest { "honest clocks" } else { "expiry at any moment" };
    println!(
        "{:?}, {clocks}: {walks} walks of {steps} steps (NOT exhaustive), {:.0?}, reached {reached:?}",
        rules.mutant,
        begin.elapsed()
    );
    (found, reached)
}

/// Where nothing is wrong nothing is found, and every goal is reached. `HA_WALKS=20000 HA_SEED=1` looks further.
#[test]
fn nothing_is_violated_where_nothing_is_wrong() {
    let first = u64::from(number("HA_SEED", 0));
    let last = first + u64::from(number("HA_WALKS", 60));
    let mut reached = BTreeSet::new();
    for honest in [true, false] {
        let (found, goals) = hunt(&Rules { honest, ..WIDE }, first..last);
        assert_eq!(found, None);
        reached.extend(goals);
    }
    assert!(reached.is_superset(&BTreeSet::from(GOALS)), "{reached:?}");
}

/// The same with an API server that is away from some of the members, which few walks make much of.
#[test]
fn nothing_is_violated_during_outages() {
    let first = u64::from(number("HA_SEED", 0));
    let last = first + u64::from(number("HA_WALKS", 300));
    let mut reached = BTreeSet::new();
    for honest in [true, false] {
        let (found, goals) = hunt(&Rules { honest, ..OUTAGE }, first..last);
        assert_eq!(found, None);
        reached.extend(goals);
    }
    assert!(reached.is_superset(&BTreeSet::from(OF_OUTAGES)), "{reached:?}");
}

/// Mistakes that walks find, hunted from a little before the first seed that was seen to find them.
#[test]
fn mistakes_are_found() {
    let mutants = [
        (Mutant::EpochReused, 0),
        (Mutant::AnyVersion, 0),
        (Mutant::NoFence, 0),
        (Mutant::OldDroppedAtChange, 0),
        (Mutant::LocalTimeline, 0),
        (Mutant::NobodyWaitedFor, 80),
        (Mutant::NamesBeforeLease, 270),
        (Mutant::SealLeavesReceiver, 590),
        (Mutant::WaitNotProven, 840),
    ];
    for (mutant, first) in mutants {
        // Only clocks make a fence matter.
        let rules = Rules { honest: mutant == Mutant::NoFence, mutant: Some(mutant), ..WIDE };
        let (found, _) = hunt(&rules, first..first + WALKS);
        assert!(found.is_some(), "{mutant:?} was not found");
    }
}
