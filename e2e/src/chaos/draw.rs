//! Which faults, for how long and in which order: drawn from a seed, and the same each time.

use std::{fmt, time::Duration};

use super::dice::Dice;
use crate::{
    fault::partition::{Direction, From},
    scenario::{
        ordeal::{Ordeal, Until},
        trouble::{Trouble, Who},
    },
};

/// In a hundred: steps in which a second thing goes wrong before the first has ended.
const TWO_AT_ONCE: u64 = 35;
/// In a hundred: faults that hit what leads, and not what follows.
const PRIMARY: u64 = 65;
/// How long troubles last, in seconds: less than any profile's patience, about as long as a lease, or until
/// everything that follows from them has happened.
const HOLDS: [(u64, u64); 3] = [(1, 4), (6, 14), (18, 40)];
/// The second trouble comes up to so many milliseconds after the first: within one failover.
const STAGGER: u64 = 6_000;
/// Between steps, in milliseconds: also a member that has just come back is hit.
const REST: (u64, u64) = (500, 5_000);

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// From the last check until this step.
    pub rest: Duration,
    /// What goes wrong.
    pub ordeal: Ordeal,
}

/// The steps of a seed, without end.
pub fn steps(seed: u64) -> impl Iterator<Item = Step> {
    let mut dice = Dice::new(seed);
    std::iter::repeat_with(move || step(&mut dice))
}

fn step(dice: &mut Dice) -> Step {
    let first = trouble(dice);
    let mut troubles = vec![first];
    if dice.percent(TWO_AT_ONCE) {
        let second = std::iter::repeat_with(|| trouble(dice)).find(|second| compatible(first, *second));
        troubles.extend(second);
    }
    // What needs the API server to begin comes before the API server goes.
    troubles.sort_by_key(|trouble| takes_the_api_server(*trouble));
    let (low, high) = dice.one_of(&HOLDS);
    let until = Until::Passed(Duration::from_secs(dice.between(low, high)));
    let stagger = Duration::from_millis(dice.below(STAGGER));
    let rest = Duration::from_millis(dice.between(REST.0, REST.1));
    Step { rest, ordeal: Ordeal { troubles, stagger, until } }
}

fn trouble(dice: &mut Dice) -> Trouble {
    let who = if dice.percent(PRIMARY) { Who::Primary } else { Who::Standby };
    match dice.below(22) {
        0 | 1 => Trouble::PostmasterKilled(who),
        2 => Trouble::ContainerKilled(who),
        3 => Trouble::AgentKilled(who),
        4 => Trouble::PodDeleted(who),
        5 | 6 => Trouble::NodeOff(who),
        7 => Trouble::NodeFrozen(who),
        8 => Trouble::KubeletGone(who),
        9..=11 => {
            let from = dice.one_of(&[From::Api, From::Peers, From::Clients, From::All]);
            let direction = dice.one_of(&[Direction::Both, Direction::Inbound, Direction::Outbound]);
            Trouble::Cut(who, from, direction)
        }
        12 | 13 => Trouble::AgentStopped(who),
        14 => Trouble::SupervisorStopped(who),
        15 => Trouble::ContainerFrozen(who),
        16 | 17 => {
            dice.one_of(&[Trouble::ApiDown, Trouble::ApiHangs, Trouble::ApiFails, Trouble::ApiReadOnly])
        }
        18 => Trouble::DiskHangs(who),
        19 => Trouble::DiskFull(who),
        20 => Trouble::OperatorAbsent,
        _ => Trouble::Switchover,
    }
}

/// Whether both can be made, and ended, beside each other: not where both act on the same processes or node, nor
/// on the one API server.
fn compatible(one: Trouble, other: Trouble) -> bool {
    match (one.who(), other.who()) {
        (Some(one), Some(other)) => one != other,
        (None, None) => one != other && !(takes_the_api_server(one) && takes_the_api_server(other)),
        _ => true,
    }
}

fn takes_the_api_server(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::ApiDown | Trouble::ApiHangs | Trouble::ApiFails | Trouble::ApiReadOnly)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ordeal.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_its_steps() {
        let draw = |seed| steps(seed).take(50).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // Written down, so that a seed from the documentation draws next year what it drew then.
        let first = "the volume of a standby is full; for 29 s";
        assert_eq!(steps(1).next().unwrap().to_string(), first);
    }

    #[test]
    fn everything_is_drawn_and_nothing_that_cannot_be() {
        let all: Vec<Step> = steps(3).take(2_000).collect();
        let mut kinds: Vec<String> =
            all.iter().flat_map(|step| &step.ordeal.troubles).map(Trouble::to_string).collect();
        kinds.sort();
        kinds.dedup();
        // 12 kinds for primary and standby, 12 partitions for either, four of the API server, two without a place.
        assert_eq!(kinds.len(), 12 * 2 + 12 * 2 + 4 + 2, "{kinds:#?}");
        for step in &all {
            assert!(step.rest <= Duration::from_secs(5));
            if let [one, other] = step.ordeal.troubles[..] {
                assert!(compatible(one, other), "{step}");
                assert!(!takes_the_api_server(one), "{step}: the second one could not begin");
            }
        }
        assert!(all.iter().any(|step| step.ordeal.troubles.len() == 2));
    }
}
