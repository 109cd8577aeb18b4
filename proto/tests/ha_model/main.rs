//! A model of several members whose every decision is made by the shipped core (`proto::ha::decide`, `answer`,
//! `conclude`), explored by stateright: deliveries, answers, jobs, reloads and faults come in any order.
//! docs/ha-evidence.md says what it found and what it leaves out.

#![allow(clippy::unwrap_used, reason = "a test: what it builds is known to be there")]

mod agent;
mod ages;
mod explore;
mod goals;
mod model;
mod mutants;
mod plans;
mod promise;
mod server;
mod walks;
#[path = "../fakes/walsender.rs"]
mod walsender;
mod world;

use goals::Goal;
use mutants::Mutant;

/// What can go wrong, or what somebody asks for; each costs one of the bounded number of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    CrashPostgres,
    KillContainer,
    RestartAgent,
    LosePod,
    LoseVolume,
    /// A holder's fence passes: its renewals do not land.
    Fence,
    Switchover,
    DeleteLease,
    /// A write's answer is lost, or it lands only later.
    LoseAnswer,
    /// A read shows the last version of an earlier epoch.
    ReadBack,
    /// A replication connection breaks.
    Disconnect,
    /// The API server does not answer one member.
    CutApi,
    /// It answers reads only.
    ReadOnlyApi,
}

/// Bounds of an exploration, and what is wrong in it.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) members: u8,
    pub(crate) k: u8,
    /// Highest epoch.
    pub(crate) epochs: u32,
    /// Commits of clients.
    pub(crate) commits: u8,
    /// Faults in all, and of which kinds.
    pub(crate) faults: u8,
    pub(crate) kinds: &'static [Fault],
    /// L passes only after the holder's K (S1); otherwise at any moment.
    pub(crate) honest: bool,
    /// Walsenders and the checkpointer reload one by one.
    pub(crate) slow_reloads: bool,
    /// Standbys that are missing for `syncTimeout` leave S.
    pub(crate) timeouts: bool,
    /// Renewals that change nothing but the version.
    pub(crate) renewals: bool,
    /// Rounds of questions of primaries whose renewals are late.
    pub(crate) asks: u8,
    pub(crate) goals: &'static [Goal],
    pub(crate) mutant: Option<Mutant>,
}

impl Rules {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(crate) fn allows(&self, fault: Fault) -> bool {
        self.kinds.contains(&fault)
    }
}

/// Three members, two epochs, no faults but that of the clocks.
pub(crate) const SMALL: Rules = Rules {
    members: 3,
    k: 1,
    epochs: 2,
    commits: 0,
    faults: 0,
    kinds: &[],
    honest: false,
    slow_reloads: false,
    timeouts: false,
    renewals: false,
    asks: 0,
    goals: &[Goal::Failover, Goal::Rejoin],
    mutant: None,
};

/// Everything that the model has.
pub(crate) const WIDE: Rules = Rules {
    epochs: 5,
    commits: 4,
    faults: 6,
    kinds: &[
        Fault::CrashPostgres,
        Fault::KillContainer,
        Fault::RestartAgent,
        Fault::LosePod,
        Fault::LoseVolume,
        Fault::Fence,
        Fault::Switchover,
        Fault::LoseAnswer,
        Fault::Disconnect,
        Fault::ReadBack,
        Fault::DeleteLease,
    ],
    slow_reloads: true,
    timeouts: true,
    renewals: true,
    goals: &[],
    ..SMALL
};

/// The same with an API server that is away from some of them, or takes no writes.
pub(crate) const OUTAGE: Rules = Rules {
    asks: 8,
    kinds: &[
        Fault::CutApi,
        Fault::ReadOnlyApi,
        Fault::CrashPostgres,
        Fault::RestartAgent,
        Fault::LosePod,
        Fault::LoseAnswer,
    ],
    ..WIDE
};

/// A bound from the environment.
pub(crate) fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
