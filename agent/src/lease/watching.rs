//! Watches the Lease, only to read it sooner: a release is noticed at once instead of with the next poll.
//!
//! Nothing depends on it. Each change leads to a linearizable read; what the watch itself carries is ignored.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::{LeaseRequests, Request, calls::LeaseCalls};

/// The server ends the watch after this; then a new one begins.
const WATCH_SECONDS: u32 = 60;
/// A watch silent for longer than it can last hangs on a dead connection.
const IDLE: Duration = Duration::from_secs(65);
/// Between two watches: failing ones must not load a server that has trouble.
const PAUSE: Duration = Duration::from_secs(1);

/// The task.
pub(crate) struct Watching {
    /// With a client that has no read timeout.
    pub(crate) calls: LeaseCalls,
    /// Where a read is asked for.
    pub(crate) requests: LeaseRequests,
}

impl Watching {
    /// Watches until the process ends.
    pub(crate) async fn run(self) {
        loop {
            if let Err(error) = self.watch_once().await {
                tracing::debug!(error = %crate::chain::Chain(&error), "the watch of the Lease broke");
            }
            sleep(PAUSE).await;
        }
    }

    async fn watch_once(&self) -> Result<(), kube::Error> {
        let Ok(changes) = timeout(IDLE, self.calls.watch(WATCH_SECONDS)).await else { return Ok(()) };
        let mut changes = Box::pin(changes?);
        while let Ok(Some(change)) = timeout(IDLE, changes.next()).await {
            change?;
            self.requests.send(Request::Refresh);
        }
        Ok(())
    }
}
