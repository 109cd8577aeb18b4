//! The kubelet's stop: the agent drives it (label off, checkpoint, fast stop, release; review K-6), and the
//! supervisor does it alone if the agent does not.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proto::{clock::BootTime, wire::supervisor::JobKind};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use super::{Supervisor, orders::OrderError};
use crate::boot_clock;

/// An agent that is there asks for reports several times a second.
const AGENT_PRESENT: Duration = Duration::from_secs(3);
/// How long the agent has to order the stop.
const AGENT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a fast stop without an agent may take before everything is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// How long the agent has to release leadership once everything has stopped.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// How often the agent's order is looked for.
const INTERVAL: Duration = Duration::from_millis(50);

impl Supervisor {
    /// Returns when the container may end.
    pub(crate) async fn terminate(self: &Arc<Self>) -> io::Result<()> {
        let mut asked = signal(SignalKind::terminate())?;
        asked.recv().await;
        tracing::info!("the kubelet ends the container");
        self.facts.lock().terminating = true;
        if self.has_agent() {
            // Without an answer in time it goes on without the agent.
            let _late = timeout(AGENT_PATIENCE, self.stop_begun()).await;
        }
        self.stop_alone().await;
        if self.has_agent() {
            let _late = timeout(RELEASE_PATIENCE, self.exit_ordered.notified()).await;
        }
        tracing::info!("supervisor ends");
        Ok(())
    }

    /// Order: the agent has nothing more to do here.
    pub(crate) fn exit(&self) -> Result<(), OrderError> {
        if !self.facts.lock().terminating {
            return Err(OrderError::Refused("nobody has asked this container to end".to_owned()));
        }
        self.require_stopped()?;
        self.exit_ordered.notify_one();
        Ok(())
    }

    fn has_agent(&self) -> bool {
        let asked_at = BootTime(self.agent_asked_at.load(Ordering::Relaxed));
        boot_clock::now().since(asked_at) < AGENT_PRESENT
    }

    async fn stop_begun(&self) {
        let begun = || self.facts.lock().job.as_ref().is_some_and(|job| job.kind == JobKind::Stop);
        while !begun() && self.require_stopped().is_err() {
            sleep(INTERVAL).await;
        }
    }

    /// Also waits for a stop that the agent has ordered, with its deadline.
    async fn stop_alone(self: &Arc<Self>) {
        while self.facts.lock().job.as_ref().is_some_and(|job| job.kind == JobKind::Stop) {
            sleep(INTERVAL).await;
        }
        // An error would be for an agent; nothing is left to be told.
        let _done = self.stop(false, boot_clock::now() + STOP_PATIENCE).await;
    }
}
