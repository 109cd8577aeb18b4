//! Says what takes long, at its start and then regularly, so that nobody takes it for a hang.

use std::time::{Duration, Instant};

/// CI ends a run that is silent for minutes; people wonder sooner.
const EVERY: Duration = Duration::from_secs(30);

/// Runs `work` and prints `label` before it, every half minute, and with the time it took after it.
pub async fn of<T>(label: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let start = Instant::now();
    eprintln!("lab: {label}");
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(EVERY, work.as_mut()).await {
            Ok(result) => {
                let end = if result.is_ok() { "done" } else { "failed" };
                eprintln!("lab: {label}: {end} after {:.1} s", start.elapsed().as_secs_f32());
                return result;
            }
            Err(_) => eprintln!("lab: {label}: {} s so far", start.elapsed().as_secs()),
        }
    }
}
