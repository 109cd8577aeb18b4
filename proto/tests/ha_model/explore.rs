//! Explorations of everything within bounds. What did not come to its end says so.

use std::time::Instant;

use stateright::{Checker, Expectation, Model};

use crate::{Fault, Rules, SMALL, WIDE, goals::OF_OUTAGES, number};

/// Explores breadth first, to the end or to `limit` generated states; fails on whatever is violated, and, if it
/// came to the end, on a goal that was not reached.
fn explore(what: &str, rules: &Rules, limit: usize) {
    let begin = Instant::now();
    let checker = rules.clone().checker().target_state_count(limit).spawn_bfs().join();
    let complete = checker.state_count() < limit;
    let reached: Vec<&str> = checker.discoveries().keys().copied().collect();
    println!(
        "{what}: {} states of {} generated, depth {}, {}, in {:.0?}\n  {rules:?}\n  reached: {reached:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        if complete { "exhaustive" } else { "NOT exhaustive" },
        begin.elapsed(),
    );
    for property in rules.properties() {
        let found = checker.discovery(property.name);
        let goal = property.expectation == Expectation::Sometimes;
        assert!(!goal || found.is_some() || !complete, "never: {}", property.name);
        assert!(
            goal || found.is_none(),
            "{}: {:?}",
            property.name,
            found.map(stateright::Path::into_actions)
        );
    }
}

/// So many generated states each exploration of the deep test makes at most: some 7 KiB of memory for each that
/// waits to be looked at.
const DEEP: u32 = 4_000_000;

/// A round of questions of a primary whose renewals do not land.
const AWAY: Rules = Rules { asks: 1, faults: 2, kinds: &[Fault::CutApi], goals: &OF_OUTAGES, ..SMALL };

/// A primary and its only standby, two epochs, a commit, a lost pod: in every CI run.
#[test]
fn two_members() {
    for honest in [true, false] {
        let rules = Rules { members: 2, honest, commits: 1, faults: 1, kinds: &[Fault::LosePod], ..SMALL };
        explore("two members", &rules, number("HA_STATES", DEEP) as usize);
    }
}

/// So many generated states each exploration of an outage makes in every CI run.
const BEGINNING: u32 = 15_000;

/// The API server is away from one or both: the primary is kept by the other, or relayed for. Only the beginning, in
/// every CI run.
#[test]
fn two_members_and_an_outage() {
    for honest in [true, false] {
        let rules = Rules { members: 2, honest, ..AWAY };
        explore("two members and an outage", &rules, number("HA_STATES", BEGINNING) as usize);
    }
}

/// The same to its end, with two members and with three.
#[test]
#[ignore = "takes many minutes: docs/ha-evidence.md says how far it came"]
fn deep_outage() {
    let asks = u8::try_from(number("HA_ASKS", 1)).unwrap();
    for (members, honest) in [(2, true), (2, false), (3, true), (3, false)] {
        let rules = Rules { members, honest, asks, ..AWAY };
        explore("an outage", &rules, number("HA_STATES", DEEP) as usize);
    }
}

/// `cargo test -p proto --release --test ha_model deep -- --ignored --nocapture`, with HA_STATES, HA_EPOCHS,
/// HA_COMMITS and HA_FAULTS as the bounds.
#[test]
#[ignore = "takes many minutes: docs/ha-evidence.md has its figures"]
fn deep_three_members() {
    let faults = u8::try_from(number("HA_FAULTS", 0)).unwrap();
    let commits = u8::try_from(number("HA_COMMITS", 0)).unwrap();
    let epochs = number("HA_EPOCHS", 2);
    for honest in [false, true] {
        let rules =
            Rules { honest, epochs, commits, faults, kinds: &[Fault::LosePod, Fault::LoseAnswer], ..SMALL };
        explore("three members", &rules, number("HA_STATES", DEEP) as usize);
    }
}

/// Everything that the model has, as far as it gets.
#[test]
#[ignore = "takes many minutes: docs/ha-evidence.md has its figures"]
fn deep_everything() {
    for honest in [false, true] {
        explore("everything", &Rules { honest, ..WIDE }, number("HA_STATES", DEEP) as usize);
    }
}
