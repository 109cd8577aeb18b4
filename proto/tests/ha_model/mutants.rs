//! Ways in which the ground under the core, or the core itself, could be wrong. A mistake of the core is made by
//! altering what it is shown or what it writes on the way: the code that ships has no switch for it.

use proto::{
    ha::{document::Document, lease::Contents},
    postgres::WalPosition,
};

use crate::{
    Rules,
    world::{Agent, Stored},
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Findings 1, review S-4: a seal is forgotten when the container ends.
    SealForgotten,
    /// Findings-open 1: a follower does not store the epoch that it follows.
    FollowNotStored,
    /// Findings 6, review S-3: a member that is copied anew keeps the name of its old data.
    CloneKeepsName,
    /// Findings 9, review S-12: an open drops the configurations that were in force.
    OldDroppedAtOpen,
    /// Findings-open "new configuration without old": a change inside an epoch drops the old one at once.
    OldDroppedAtChange,
    /// Findings "set the names before the Lease".
    NamesBeforeLease,
    /// Findings "do not wait for the new members", review S-7c: k of S are believed to have flushed.
    NobodyWaitedFor,
    /// Findings "read quorum of one".
    QuorumOfOne,
    /// Findings-open 3: a claimant believes to have what a sealed member answered.
    CatchUpBelieved,
    /// Findings-open 4: an epoch is claimed again under its old number.
    EpochReused,
    /// Review S-5: a seal leaves the WAL receiver running.
    SealLeavesReceiver,
    /// Review S-2, findings 5: the promotion takes the next local number.
    LocalTimeline,
    /// Review S-7a: "commits wait" is believed and not seen.
    WaitNotProven,
    /// W1, findings 4: the API server takes a write with any version.
    AnyVersion,
    /// Section 4: a server that was sealed for a higher epoch is promoted all the same.
    PromotionBelowSeal,
    /// L2: the supervisor has no fence.
    NoFence,
    /// Review S-4b: a member that is sealed for a higher epoch promises all the same.
    SealedPromises,
    /// Findings: one promise is taken for everybody's.
    PromiseOfOne,
    /// Review S-4a, L4: an agent that restarted answers as if it knew what it had promised.
    PromiseForgotten,
    /// Review S-4d: a promise ends when the primary's own clock says so.
    PromiseTooShort,
}

/// What the core is shown of a document.
pub(crate) fn shown(rules: &Rules, document: &Document) -> Document {
    let mut shown = document.clone();
    if rules.is(Mutant::QuorumOfOne) {
        let grown = shown.configurations.iter_mut().filter(|c| c.k > 0);
        grown.for_each(|c| c.k = u8::try_from(c.standbys.len()).unwrap());
    }
    shown
}

/// What becomes of a write of the core, given what the Lease shows.
pub(crate) fn written(rules: &Rules, lease: &Stored, contents: &Contents) -> Contents {
    let mut written = contents.clone();
    let before = &lease.contents;
    let configurations = &mut written.document.configurations;
    let opens =
        written.document.history.last().is_some_and(|last| {
            last.epoch == contents.epoch && before.document.opened(contents.epoch).is_none()
        });
    let grows = configurations.len() > before.document.configurations.len();
    let drops = match opens {
        true => rules.is(Mutant::OldDroppedAtOpen),
        false => rules.is(Mutant::OldDroppedAtChange),
    };
    if grows && drops {
        configurations.drain(..configurations.len() - 1);
    }
    if rules.is(Mutant::QuorumOfOne) {
        configurations.iter_mut().filter(|c| c.k > 0).for_each(|c| c.k = rules.k);
    }
    if rules.is(Mutant::EpochReused) && contents.epoch > before.epoch {
        written.epoch = before.epoch;
    }
    written
}

/// The highest end that a claimant was answered, if it believes to have it.
pub(crate) fn highest_answer(rules: &Rules, agent: &Agent) -> Option<WalPosition> {
    let sealed = &agent.memory.takeover.as_ref()?.sealed;
    let highest = sealed.values().map(|(_, position)| *position).max();
    highest.filter(|_| rules.is(Mutant::CatchUpBelieved))
}
