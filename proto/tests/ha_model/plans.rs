//! Executions of the reviews, step by step. Each loses a commit, or breaks another property, where its mistake is
//! made, and loses nothing in the protocol as it ships: there the steps that are not possible are left out.

#![allow(clippy::enum_glob_use, reason = "plans are lists of steps")]

use proto::identity::DataId;
use stateright::Model;

use crate::{
    Fault, OUTAGE, Rules, WIDE,
    ages::Pace,
    model::{
        Step::{self, *},
        formed,
    },
    mutants::Mutant,
    walks::violation,
    world::Violation,
};

/// Takes the steps, leaving out those that are not possible; says at which one what was violated.
fn play(rules: &Rules, steps: &[Step]) -> Option<(usize, Violation)> {
    let mut world = formed(rules);
    for (index, step) in steps.iter().enumerate() {
        let mut possible = Vec::new();
        rules.actions(&world, &mut possible);
        let next = possible.contains(step).then(|| rules.next_state(&world, *step)).flatten();
        world = next.unwrap_or(world);
        if let Some(violated) = violation(rules, &world) {
            return Some((index, violated));
        }
    }
    None
}

fn loses(mutant: Mutant, k: u8, steps: &[Step]) {
    let rules = Rules { k, ..WIDE };
    assert_eq!(play(&rules, steps), None, "without the mistake");
    let found = play(&Rules { mutant: Some(mutant), ..rules }, steps);
    assert_eq!(found, Some((steps.len() - 1, Violation::S2)), "{mutant:?}");
}

/// 1 claims and 2 seals. What comes then makes 2 somebody who streams on from the old primary, and acknowledges.
fn loses_after_a_seal(mutant: Mutant, then: &[Step]) {
    let sealed = [Expire(1), Land(1), Answer { asker: 1, member: 2 }];
    let acknowledged = [Commit(0), Stream(2), Reply(0, DataId(12)), Land(1), Finish(1)];
    loses(mutant, 1, &[&sealed[..], then, &acknowledged].concat());
}

/// 2 forgets its seal with its container.
#[test]
fn a_seal_is_forgotten_with_the_container() {
    loses_after_a_seal(Mutant::SealForgotten, &[Fault(2, Fault::KillContainer)]);
}

/// 2 is copied anew under its old name from the primary of an older epoch, after its old data was counted.
#[test]
fn a_copy_keeps_the_name_of_the_data_it_replaces() {
    loses_after_a_seal(Mutant::CloneKeepsName, &[Fault(2, Fault::LoseVolume), ReadBack(2), Finish(2)]);
}

/// 2 follows 1 in epoch 2 without a note of it, and then the frozen primary of epoch 1, which costs it what 1
/// had it acknowledge; alone it is a read quorum.
#[test]
fn a_follower_does_not_store_its_epoch() {
    loses(
        Mutant::FollowNotStored,
        2,
        &[
            Expire(1),
            Land(1),
            Think(1, Pace::Impatient),
            Land(1),
            Finish(1),
            Checkpointer(1),
            Land(1),
            Read(2),
            Stream(2),
            Stream(2),
            Stream(2),
            Reply(1, DataId(12)),
            Land(1),
            Stream(2),
            Land(1),
            Checkpointer(1),
            Reload(1, DataId(12)),
            Stream(2),
            Reply(1, DataId(12)),
            Land(1),
            Stream(2),
            Reply(1, DataId(12)),
            Land(1),
            Commit(1),
            Stream(2),
            Reply(1, DataId(12)),
            ReadBack(2),
            Finish(2),
            Stream(2),
            Read(2),
            Expire(2),
            Land(2),
            Think(2, Pace::Impatient),
            Land(2),
            Finish(2),
        ],
    );
}

/// What 1 acknowledged with 0 is not on 2, and the configuration that says so is gone when 1 opens with 2.
#[test]
fn an_open_drops_what_was_in_force() {
    loses(
        Mutant::OldDroppedAtOpen,
        1,
        &[
            Commit(0),
            Stream(1),
            Reply(0, DataId(11)),
            Expire(1),
            Think(1, Pace::Usual),
            Land(1),
            Answer { asker: 1, member: 2 },
            Land(1),
            Read(2),
            Expire(2),
            Think(2, Pace::Usual),
            Land(2),
            Think(2, Pace::Impatient),
            Land(2),
            Finish(2),
        ],
    );
}

/// 1 alone leads, though 2 may have acknowledged what it has not.
#[test]
fn one_of_two_is_taken_for_a_read_quorum() {
    loses(
        Mutant::QuorumOfOne,
        1,
        &[
            Commit(0),
            Stream(2),
            Reply(0, DataId(12)),
            Expire(1),
            Think(1, Pace::Usual),
            Land(1),
            Think(1, Pace::Impatient),
            Land(1),
            Finish(1),
        ],
    );
}

/// 2 answers more than 1 has, and 1 opens without having copied it.
#[test]
fn a_claimant_believes_to_have_caught_up() {
    loses(
        Mutant::CatchUpBelieved,
        1,
        &[
            Commit(0),
            Stream(2),
            Reply(0, DataId(12)),
            Expire(1),
            Think(1, Pace::Usual),
            Land(1),
            Answer { asker: 1, member: 2 },
            Think(1, Pace::Impatient),
            Think(1, Pace::Impatient),
            Land(1),
            Finish(1),
        ],
    );
}

/// 1 opens alone and stalls in its promotion, is sealed for the claim of 2, and is promoted after that.
#[test]
fn a_server_that_was_sealed_higher_is_promoted() {
    loses(
        Mutant::PromotionBelowSeal,
        2,
        &[
            Expire(1),
            Land(1),
            Think(1, Pace::Impatient),
            Land(1),
            Read(2),
            Expire(2),
            Land(2),
            Answer { asker: 2, member: 1 },
            Land(2),
            Finish(1),
            Checkpointer(1),
            Commit(1),
            Finish(2),
        ],
    );
}

/// Found by a walk: the release of 0 had landed without an answer when the Lease was deleted, and 0 made it again as
/// if nothing had happened. Its server, restarted meanwhile, would have resumed in place.
#[test]
fn a_lease_that_was_given_back_is_not_made_again() {
    let rules = Rules { honest: true, ..WIDE };
    let steps =
        [Fault(0, Fault::KillContainer), LandUnanswered(0), Fault(0, Fault::DeleteLease), Read(0), Land(0)];
    assert_eq!(play(&rules, &steps), None);
}

/// The mistake makes two accept, with honest clocks and an API server that is away from some.
fn leads_beside(mutant: Mutant, members: u8, k: u8, steps: &[Step]) {
    let rules = Rules { honest: true, members, k, ..OUTAGE };
    assert_eq!(play(&rules, steps), None, "without the mistake");
    let found = play(&Rules { mutant: Some(mutant), ..rules }, steps);
    assert_eq!(found, Some((steps.len() - 1, Violation::S1)), "{mutant:?}");
}

/// 2 counts one answer of before a promise and one of after another, and claims while 0 lives by promises. 3 is sealed
/// for that claim when 0 asks it again, and promises: it counts for both.
#[test]
fn a_sealed_member_promises() {
    leads_beside(
        Mutant::SealedPromises,
        4,
        1,
        &[
            Fault(0, Fault::CutApi),
            Fault(1, Fault::CutApi),
            Fault(3, Fault::CutApi),
            Ask(0),
            Answer { asker: 0, member: 3 },
            Expire(2),
            Answer { asker: 2, member: 1 },
            Ask(0),
            Answer { asker: 0, member: 1 },
            PromiseEnds(3),
            Answer { asker: 2, member: 3 },
            Land(2),
            Answer { asker: 2, member: 3 },
            Ask(0),
            Answer { asker: 0, member: 3 },
            PromiseEnds(1),
            Answer { asker: 2, member: 1 },
            Land(2),
            Finish(2),
        ],
    );
}

/// 3 alone has promised, and 1 and 2 are a read quorum without it.
#[test]
fn one_promise_is_taken_for_everybodys() {
    leads_beside(
        Mutant::PromiseOfOne,
        4,
        2,
        &[
            Fault(0, Fault::CutApi),
            Fault(3, Fault::CutApi),
            Ask(0),
            Answer { asker: 0, member: 3 },
            Expire(2),
            Answer { asker: 2, member: 1 },
            Land(2),
            Answer { asker: 2, member: 1 },
            Land(2),
            Finish(2),
        ],
    );
}

/// 1 has promised, restarts, and answers as if it had not.
#[test]
fn a_promise_is_forgotten_by_a_restart() {
    leads_beside(
        Mutant::PromiseForgotten,
        3,
        1,
        &[
            Fault(0, Fault::CutApi),
            Fault(1, Fault::CutApi),
            Ask(0),
            Answer { asker: 0, member: 1 },
            Fault(1, Fault::RestartAgent),
            Expire(2),
            Answer { asker: 2, member: 1 },
            Land(2),
            Answer { asker: 2, member: 1 },
            Land(2),
            Finish(2),
        ],
    );
}

/// 1 takes its promise for over while 0 still counts on it.
#[test]
fn a_promise_ends_too_early() {
    leads_beside(
        Mutant::PromiseTooShort,
        3,
        1,
        &[
            Fault(0, Fault::CutApi),
            Fault(1, Fault::CutApi),
            Ask(0),
            Answer { asker: 0, member: 1 },
            Expire(2),
            PromiseEnds(1),
            Answer { asker: 2, member: 1 },
            Land(2),
            Answer { asker: 2, member: 1 },
            Land(2),
            Finish(2),
        ],
    );
}
