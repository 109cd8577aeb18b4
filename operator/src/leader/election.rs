//! Who should lead, as a function of what was read and of how long it has been the same. Pure.
//!
//! No remote timestamp is ever compared with a local clock: a foreign Lease has expired once this process has
//! seen the same version of it for the holder's own duration, on its own monotonic clock.

use std::time::{Duration, Instant};

/// How long a Lease stays valid without a renewal. Long, because nothing waits for the operator: failover is
/// the agents' work, and a change of leader costs a full re-read of everything.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// The leader gives up when this long passed since its last successful renewal. Shorter than [`DURATION`], so
/// that it has exited before anybody else may begin, even if clocks run 10 % apart.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks at the Lease.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(2);

/// What matters of the Lease as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// `resourceVersion` of this read; a decision is carried out against exactly it.
    pub(super) version: String,
    /// Who holds it; `None` after a release.
    pub(super) holder: Option<String>,
    /// The duration by which the holder lives.
    pub(super) duration: Duration,
}

/// What to do about the Lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none: make it, holding it.
    Create,
    /// Free or expired: take it.
    Acquire,
    /// Mine: renew.
    Renew,
    /// Somebody else's, still valid.
    Wait,
}

/// Remembers since when the Lease has looked as it does.
#[derive(Debug, Default)]
pub(super) struct Observer {
    seen: Option<(String, Instant)>,
}

impl Observer {
    /// Decides on `record`, read at `now`, for the candidate `me`.
    pub(super) fn decide(&mut self, record: Option<&Record>, me: &str, now: Instant) -> Step {
        let Some(record) = record else { return Step::Create };
        let unchanged_for = self.unchanged_for(&record.version, now);
        match record.holder.as_deref() {
            None => Step::Acquire,
            Some(holder) if holder == me => Step::Renew,
            Some(_) if unchanged_for >= record.duration => Step::Acquire,
            Some(_) => Step::Wait,
        }
    }

    fn unchanged_for(&mut self, version: &str, now: Instant) -> Duration {
        match &self.seen {
            Some((seen, since)) if seen == version => now.duration_since(*since),
            _ => {
                self.seen = Some((version.to_owned(), now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: &str, holder: Option<&str>) -> Record {
        Record { version: version.to_owned(), holder: holder.map(str::to_owned), duration: DURATION }
    }

    #[test]
    fn the_constants_leave_room_for_clocks_that_run_apart() {
        assert!(RENEW_DEADLINE * 12 / 10 < DURATION);
        assert!(RETRY_EVERY * 3 < RENEW_DEADLINE);
    }

    #[test]
    fn a_missing_lease_is_made_and_a_released_one_taken() {
        let mut observer = Observer::default();
        let now = Instant::now();
        assert_eq!(observer.decide(None, "me", now), Step::Create);
        assert_eq!(observer.decide(Some(&record("1", None)), "me", now), Step::Acquire);
    }

    #[test]
    fn my_own_lease_is_renewed_even_after_a_long_time() {
        let mut observer = Observer::default();
        let now = Instant::now();
        assert_eq!(observer.decide(Some(&record("1", Some("me"))), "me", now), Step::Renew);
        assert_eq!(observer.decide(Some(&record("1", Some("me"))), "me", now + DURATION * 2), Step::Renew);
    }

    #[test]
    fn a_foreign_lease_expires_only_after_its_duration_of_sameness_seen_here() {
        let mut observer = Observer::default();
        let now = Instant::now();
        let theirs = record("1", Some("other"));
        assert_eq!(observer.decide(Some(&theirs), "me", now), Step::Wait);
        let almost = now + DURATION.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(observer.decide(Some(&theirs), "me", almost), Step::Wait);
        assert_eq!(observer.decide(Some(&theirs), "me", now + DURATION), Step::Acquire);
    }

    #[test]
    fn a_renewal_of_the_other_starts_the_count_again() {
        let mut observer = Observer::default();
        let now = Instant::now();
        observer.decide(Some(&record("1", Some("other"))), "me", now);
        let renewed = record("2", Some("other"));
        assert_eq!(observer.decide(Some(&renewed), "me", now + DURATION), Step::Wait);
        assert_eq!(observer.decide(Some(&renewed), "me", now + DURATION * 2), Step::Acquire);
    }
}
