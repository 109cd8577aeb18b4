//! What must be reachable, or the model would prove nothing.

use proto::identity::Epoch;
use stateright::Property;

use crate::{
    Rules,
    world::{Process, World},
};

/// Something that must happen in some execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Goal {
    /// Another member leads and accepts.
    Failover,
    /// The same, since somebody asked for it.
    Switchover,
    /// A member that led follows a later leader, and has all that it has.
    Rejoin,
    /// Commits waited for nobody, and wait for a standby again.
    FallbackAndReturn,
    /// A write of the Lease without an answer, and a leader accepts all the same.
    ApiOutage,
    /// An epoch was claimed and never opened, and a later one was.
    FailedClaim,
    /// Two faults, and a later leader accepts.
    TwoFaults,
    /// A primary accepts by promise of others alone.
    LedByPromise,
    /// A renewal landed that another member wrote.
    Relayed,
    /// Promises were given, and another member leads.
    PromiseOver,
}

/// Those that only an API server which is away makes possible.
pub(crate) const OF_OUTAGES: [Goal; 3] = [Goal::LedByPromise, Goal::Relayed, Goal::PromiseOver];

/// All others.
pub(crate) const GOALS: [Goal; 7] = [
    Goal::Failover,
    Goal::Switchover,
    Goal::Rejoin,
    Goal::FallbackAndReturn,
    Goal::ApiOutage,
    Goal::FailedClaim,
    Goal::TwoFaults,
];

impl Goal {
    pub(crate) fn property(self) -> Property<Rules> {
        match self {
            Self::Failover => Property::sometimes("failover", |_, world| Self::Failover.holds(world)),
            Self::Switchover => Property::sometimes("switchover", |_, world| Self::Switchover.holds(world)),
            Self::Rejoin => Property::sometimes("rejoin", |_, world| Self::Rejoin.holds(world)),
            Self::FallbackAndReturn => {
                Property::sometimes("fallback and return", |_, world| Self::FallbackAndReturn.holds(world))
            }
            Self::ApiOutage => Property::sometimes("API outage", |_, world| Self::ApiOutage.holds(world)),
            Self::FailedClaim => {
                Property::sometimes("failed claim, later success", |_, world| Self::FailedClaim.holds(world))
            }
            Self::LedByPromise => {
                Property::sometimes("led by promise", |_, world| Self::LedByPromise.holds(world))
            }
            Self::Relayed => Property::sometimes("relayed renewal", |_, world| Self::Relayed.holds(world)),
            Self::PromiseOver => {
                Property::sometimes("another leads after promises", |_, world| Self::PromiseOver.holds(world))
            }
            Self::TwoFaults => {
                Property::sometimes("two faults in a row", |_, world| Self::TwoFaults.holds(world))
            }
        }
    }

    pub(crate) fn holds(self, world: &World) -> bool {
        let journal = &world.journal;
        let opened = |epoch| journal.opened.iter().any(|(opened, ..)| *opened == epoch);
        match self {
            Self::Failover => leads(world, 2),
            Self::Switchover => journal.released_for_switchover && leads(world, 2),
            Self::Rejoin => rejoined(world),
            Self::FallbackAndReturn => {
                let configurations = &world.lease.contents.document.configurations;
                journal.fell_back && matches!(&configurations[..], [only] if only.k > 0)
            }
            Self::ApiOutage => journal.write_unanswered && leads(world, 2),
            Self::FailedClaim => opened(Epoch(3)) && !opened(Epoch(2)) && leads(world, 3),
            Self::TwoFaults => world.faults >= 2 && leads(world, 3),
            Self::LedByPromise => led_by_promise(world),
            Self::Relayed => journal.relayed,
            Self::PromiseOver => journal.promised && leads(world, 2),
        }
    }
}

/// Whether somebody accepts writes in an epoch from `epoch` on.
fn leads(world: &World, epoch: u32) -> bool {
    world.nodes.iter().any(|node| {
        let verified = node.agent.verified.as_ref().is_some_and(|verified| verified.epoch >= Epoch(epoch));
        node.life.is_primary() && verified
    })
}

fn led_by_promise(world: &World) -> bool {
    world.nodes.iter().any(|node| {
        let promised = node.agent.memory.tenure.as_ref().is_some_and(|tenure| tenure.promised.is_some());
        promised && node.life.is_primary() && node.life.fence.is_some() && node.agent.verified.is_some()
    })
}

fn rejoined(world: &World) -> bool {
    world.nodes.iter().any(|node| {
        let Some(disk) = node.disk.as_ref().filter(|disk| disk.opened == Some(Epoch(1))) else {
            return false;
        };
        let leader = node.life.following.and_then(|(leader, _)| {
            let leader = &world.nodes[leader];
            leader.disk.as_ref().filter(|_| leader.life.is_primary())
        });
        node.life.process == Process::Standby
            && leader.is_some_and(|theirs| theirs.opened > Some(Epoch(1)) && theirs.log == disk.log)
    })
}
