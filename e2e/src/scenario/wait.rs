//! Waiting for the cluster: always with an end, and with a line of progress, so that nobody takes a slow
//! machine for a hang.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Often enough that a measured time is off by little; each look is one small request.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// CI ends a run that is silent for minutes; people wonder sooner.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// Looks until `look` gives a value; the error says what it saw last. Returns the time it took as well.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    let mut told = start;
    loop {
        let reason = match look().await {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(reason) => reason,
        };
        if start.elapsed() > limit {
            bail!("waited {} s for {what}: {reason:#}", limit.as_secs());
        }
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            say(&format!("waiting for {what} since {} s: {reason:#}", start.elapsed().as_secs()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A line of progress, with the time of day, so that it can be laid beside logs and events.
pub fn say(line: &str) {
    eprintln!("{} {line}", jiff::Timestamp::now().strftime("%H:%M:%S%.3f"));
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[tokio::test]
    async fn the_error_tells_what_was_seen_last() {
        let mut looks = 0;
        let never = until("snow", Duration::ZERO, async || {
            looks += 1;
            Err::<(), _>(anyhow!("look {looks}"))
        });
        assert_eq!(never.await.unwrap_err().to_string(), "waited 0 s for snow: look 1");
    }
}
