//! Becoming primary: only under an armed fence, and only on the timeline that the Lease reserves.

use std::{sync::Arc, time::Duration};

use proto::{identity::Epoch, postgres::Timeline, wire::supervisor::Ended};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    Supervisor, durable,
    facts::Promoted,
    fence::{Demand, demand},
    history,
    local::Local,
    orders::OrderError,
};
use crate::boot_clock;

/// How often the end of recovery is looked for: part of every failover.
const INTERVAL: Duration = Duration::from_millis(10);

impl Supervisor {
    /// Job: promotes to exactly `timeline`.
    pub(crate) async fn promote(
        self: &Arc<Self>,
        epoch: Epoch,
        timeline: Timeline,
    ) -> Result<(), OrderError> {
        let mut wanted = self.turn().await?;
        if self.facts.lock().promoted.is_some_and(|done| done.epoch == epoch && done.timeline == timeline) {
            return Ok(());
        }
        self.require_promotable(epoch)?;
        let local = self.connect().await?;
        self.briefly(move |this| this.raise_sealed(epoch)).await?;
        self.detach(&mut wanted).await?;
        self.briefly(move |this| this.trigger(epoch, timeline)).await?;
        self.await_primary(&local).await?;
        let obtained = local.timeline().await?;
        if obtained != timeline {
            let reason = format!("promoted to timeline {obtained} instead of {timeline}, hence killed");
            self.note_cause(Ended::Crashed(reason.clone()));
            self.processes.begin_sweep();
            return Err(OrderError::Refused(reason));
        }
        let switch_lsn = self.at_length(move |this| this.opened(epoch, timeline)).await?;
        self.facts.lock().promoted = Some(Promoted { epoch, timeline, switch_lsn });
        Ok(())
    }

    fn require_promotable(&self, epoch: Epoch) -> Result<(), OrderError> {
        self.refuse_below_sealed(epoch)?;
        self.require_fence(epoch)?;
        let known = self.facts.lock();
        match (known.observed, known.may_leave_recovery) {
            (Some(_), false) => Ok(()),
            (Some(_), true) => {
                Err(OrderError::Refused("already promoted, in another epoch or timeline".to_owned()))
            }
            (None, _) => Err(OrderError::NotYet("the server does not accept connections yet".to_owned())),
        }
    }

    fn require_fence(&self, epoch: Epoch) -> Result<(), OrderError> {
        match self.guard.fence() {
            Some(fence) if fence.epoch == epoch && demand(&fence, boot_clock::now()) == Demand::Nothing => {
                Ok(())
            }
            Some(_) => Err(OrderError::NotYet("the fence is of another epoch or has passed".to_owned())),
            None => Err(OrderError::NotYet("no fence is armed".to_owned())),
        }
    }

    /// Orders the promotion. Blocks.
    fn trigger(&self, epoch: Epoch, timeline: Timeline) -> Result<(), OrderError> {
        history::prepare_promotion(&self.layout.pg_wal(), timeline)?;
        durable::write_file(&self.layout.pgdata().join("promote"), b"")?;
        self.require_fence(epoch)?; // L3: the disk may have taken its time
        self.facts.lock().may_leave_recovery = true;
        self.processes.signal_postmaster(Signal::USR1);
        Ok(())
    }

    async fn await_primary(&self, local: &Local) -> Result<(), OrderError> {
        while local.observe().await?.in_recovery {
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Stores that this data was opened; says where its timeline began. Blocks.
    fn opened(&self, epoch: Epoch, timeline: Timeline) -> Result<Option<proto::postgres::Lsn>, OrderError> {
        self.change_state(|state| state.opened = state.opened.max(Some(epoch)))?;
        let histories = history::read_all(&self.layout.pg_wal())?;
        Ok(histories.get(&timeline).and_then(history::History::began))
    }
}
