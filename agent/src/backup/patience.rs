//! How long a backup waits for its store: what was read for hours would have to be read again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{archive::store::StoreError, chain::Chain};

/// A store that is away for this long ends the backup.
pub(super) const PATIENCE: Duration = Duration::from_mins(15);
/// One that is there and refuses ends it sooner, so that a wrong key is known as such. Keys that are just being replaced
/// come with a Secret that the kubelet brings within two minutes (its period of a minute, and its cache).
pub(super) const PATIENCE_WHEN_REFUSED: Duration = Duration::from_mins(3);
/// Between two tries.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Does it until it works, or until it is clear that it will not.
pub(super) async fn patiently<T, F>(what: &str, act: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    let mut refused_since: Option<Instant> = None;
    loop {
        let error = match act().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        refused_since = error.is_refusal().then(|| refused_since.unwrap_or_else(Instant::now));
        let refused = refused_since.is_some_and(|since| since.elapsed() >= PATIENCE_WHEN_REFUSED);
        if error.is_lasting() || refused || begun.elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::warn!(error = %Chain(&error), "{what} is tried again");
        sleep(RETRY_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn refused() -> StoreError {
        StoreError::Refused { action: "writing", path: "a".to_owned(), message: "403".to_owned() }
    }

    fn away() -> StoreError {
        StoreError::Failed { action: "writing", path: "a".to_owned(), message: "503".to_owned() }
    }

    /// What comes of a store that answers this to the tries in their order, and after how long.
    async fn after(answer: impl Fn(usize) -> Option<StoreError>) -> (Result<(), StoreError>, Duration) {
        let (begun, tries) = (Instant::now(), AtomicUsize::new(0));
        let done = patiently("this", || {
            let answer = answer(tries.fetch_add(1, Ordering::Relaxed));
            async { answer.map_or(Ok(()), Err) }
        });
        (done.await, begun.elapsed())
    }

    /// Tries within this time.
    fn tries_of(time: Duration) -> usize {
        usize::try_from(time.as_secs() / RETRY_AFTER.as_secs()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_it_sooner_than_an_outage() {
        for (error, patience) in [(away as fn() -> _, PATIENCE), (refused, PATIENCE_WHEN_REFUSED)] {
            let (done, took) = after(|_| Some(error())).await;
            assert!(done.is_err());
            assert_eq!(took, patience, "{:?}", error());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_replaced_in_time_and_outages_that_end_are_waited_for() {
        for (error, time) in [(away as fn() -> _, PATIENCE), (refused, PATIENCE_WHEN_REFUSED)] {
            let last = tries_of(time) - 1;
            let (done, took) = after(|number| (number < last).then(error)).await;
            assert!(done.is_ok() && took < time, "{took:?}");
        }
    }

    /// As a store does it that begins to work, or balks under load.
    #[tokio::test(start_paused = true)]
    async fn only_refusals_in_a_row_end_it_sooner() {
        let in_time = tries_of(PATIENCE_WHEN_REFUSED) - 1;
        let mixed = |number: usize| Some(if number.is_multiple_of(in_time) { away() } else { refused() });
        assert_eq!(after(mixed).await.1, PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_try_changes_is_tried_once() {
        let wrong = || StoreError::Contents { path: "a".to_owned(), message: "no JSON".to_owned() };
        let (done, took) = after(|_| Some(wrong())).await;
        assert!(done.is_err());
        assert_eq!(took, Duration::ZERO);
    }
}
