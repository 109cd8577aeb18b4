//! Timing of lease and fence (ha.md section 3).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `spec.failover.profile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// Control plane on a quiet network: a lost node costs about 7 s.
    Fast,
    /// The default: about 11 s.
    #[default]
    Standard,
    /// Slow or busy control planes: about 31 s.
    Tolerant,
}

/// The four times of a profile. [`Timing::is_safe`] is L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    /// L: an unchanged Lease is observed as dead after this.
    pub lease: Duration,
    /// Renewals start this far apart.
    pub renew_every: Duration,
    /// F: without a renewal for this long a fast stop begins.
    pub fast_stop: Duration,
    /// K: without a renewal for this long whatever is left gets SIGKILL.
    pub kill: Duration,
}

/// Longest that PID 1 may be scheduled late (L1).
const SCHEDULING_SLACK: Duration = Duration::from_millis(500);

impl Profile {
    /// The profile's numbers.
    pub const fn timing(self) -> Timing {
        let (lease, renew_every, fast_stop, kill) = match self {
            Self::Fast => (6_000, 1_000, 4_000, 5_000),
            Self::Standard => (10_000, 2_000, 7_000, 8_500),
            Self::Tolerant => (30_000, 5_000, 20_000, 26_000),
        };
        Timing {
            lease: Duration::from_millis(lease),
            renew_every: Duration::from_millis(renew_every),
            fast_stop: Duration::from_millis(fast_stop),
            kill: Duration::from_millis(kill),
        }
    }
}

impl Timing {
    /// L1: L ≥ 1.1 · K + 0.5 s, since clock rates may differ by 10 % and PID 1 may be late; and the stages
    /// come in order.
    pub fn is_safe(&self) -> bool {
        self.lease >= self.kill * 11 / 10 + SCHEDULING_SLACK
            && self.renew_every < self.fast_stop
            && self.fast_stop < self.kill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_safe() {
        for profile in [Profile::Fast, Profile::Standard, Profile::Tolerant] {
            assert!(profile.timing().is_safe(), "{profile:?}");
        }
    }
}
