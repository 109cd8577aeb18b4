//! Who answers 200, and when: Patroni's paths with the truth behind them (docs/ha.md section 9).

use std::time::Duration;

use proto::{
    clock::BootTime,
    wire::http::{Role, State},
};

use super::lag::MaxLag;
use crate::published::Published;

/// SQL must have said "writable" this recently: two missed readings and a slow one.
const WRITABLE_MAX_AGE: Duration = Duration::from_secs(5);
/// The loop runs ten times a second and waits for nothing; after this it is stuck for good, and only a restart
/// of the agent helps. PostgreSQL goes on meanwhile, fenced by its supervisor if it leads.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Leads and accepts writes.
    Primary,
    /// A standby that may serve reads, at most this far behind.
    Replica(Option<MaxLag>),
    /// May serve reads, at most this far behind if it is a standby.
    ReadOnly(Option<MaxLag>),
    /// The server runs.
    Health,
    /// The agent's loop runs.
    Liveness,
    /// May be sent traffic.
    Readiness,
}

impl Check {
    /// Whether the answer is 200.
    pub(crate) fn passes(self, shown: &Published, now: BootTime) -> bool {
        match self {
            Self::Primary => is_primary(shown, now),
            Self::Replica(limit) => is_replica(shown, now, limit),
            Self::ReadOnly(limit) => is_primary(shown, now) || is_replica(shown, now, limit),
            Self::Health => shown.running(),
            Self::Liveness => now.since(shown.at) < STUCK_AFTER,
            Self::Readiness => is_primary(shown, now) || is_ready_standby(shown, now),
        }
    }
}

fn is_primary(shown: &Published, now: BootTime) -> bool {
    let writable = shown.writable_at.is_some_and(|at| now.since(at) < WRITABLE_MAX_AGE);
    shown.role(now) == Role::Primary && writable
}

fn is_replica(shown: &Published, now: BootTime, limit: Option<MaxLag>) -> bool {
    let near = limit.is_none_or(|MaxLag(bytes)| shown.status.lag.is_some_and(|lag| lag.bytes <= bytes));
    shown.role(now) == Role::Replica && shown.running() && near
}

/// A standby that lost its leader stays ready for 2 L: taking all readers away helps nobody during a failover.
fn is_ready_standby(shown: &Published, now: BootTime) -> bool {
    let streams = shown.status.state == State::Streaming
        || shown.streamed_at.is_some_and(|at| now.since(at) < shown.lease * 2);
    is_replica(shown, now, None) && streams
}
