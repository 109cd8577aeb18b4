//! Becoming primary: only under an armed fence, and only on the timeline that the Lease reserves.

use std::{sync::Arc, time::Duration};

use proto::{identity::Epoch, postgres::Timeline, wire::supervisor::Ended};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{Supervisor, Wanted, durable, facts::Promoted, history, orders::OrderError};

/// How often the end of recovery is looked for: part of every failover.
const INTERVAL: Duration = Duration::from_millis(10);

impl Supervisor {
    /// Job: promotes to exactly `timeline`. An order that was cut short is taken up again.
    pub(crate) async fn promote(
        self: &Arc<Self>,
        epoch: Epoch,
        timeline: Timeline,
    ) -> Result<(), OrderError> {
        let mut wanted = self.turn().await?;
        let (promoting, promoted) = {
            let known = self.facts.lock();
            (known.promoting, known.promoted)
        };
        match promoting {
            None => self.begin_promotion(&mut wanted, epoch, timeline).await?,
            Some(same) if same == (epoch, timeline) => {}
            Some((epoch, timeline)) => {
                let message = format!("already promoted in epoch {epoch} to timeline {timeline}");
                return Err(OrderError::Refused(message));
            }
        }
        match promoted {
            None => self.finish_promotion(epoch, timeline).await,
            Some(_) => Ok(()),
        }
    }

    async fn begin_promotion(
        self: &Arc<Self>,
        wanted: &mut Wanted,
        epoch: Epoch,
        timeline: Timeline,
    ) -> Result<(), OrderError> {
        self.refuse_below_sealed(epoch)?;
        self.guard.permit_promotion(epoch)?;
        if self.facts.lock().observed.is_none() {
            return Err(OrderError::NotYet("the server does not accept connections yet".to_owned()));
        }
        self.briefly(move |this| this.raise_sealed(epoch)).await?;
        self.detach(wanted).await?;
        self.briefly(move |this| this.trigger(epoch, timeline)).await
    }

    async fn finish_promotion(self: &Arc<Self>, epoch: Epoch, timeline: Timeline) -> Result<(), OrderError> {
        let local = self.connect().await?;
        while local.observe().await?.in_recovery {
            sleep(INTERVAL).await;
        }
        let obtained = local.timeline().await?;
        if obtained != timeline {
            let reason = format!("promoted to timeline {obtained} instead of {timeline}, hence killed");
            self.note_cause(Ended::Crashed(reason.clone()));
            self.processes.begin_sweep();
            return Err(OrderError::Refused(reason));
        }
        let switch_lsn = self.at_length(move |this| this.opened(epoch, timeline)).await?;
        self.facts.lock().promoted = Some(Promoted { timeline, switch_lsn });
        Ok(())
    }

    /// Orders the promotion. Blocks.
    fn trigger(&self, epoch: Epoch, timeline: Timeline) -> Result<(), OrderError> {
        history::prepare_promotion(&self.layout.pg_wal(), timeline)?;
        let file = self.layout.pgdata().join("promote");
        durable::write_file(&file, b"")?;
        // L3: the disk may have taken its time. Any signal would make the postmaster see the file.
        if let Err(passed) = self.guard.permit_promotion(epoch) {
            durable::remove_file(&file)?;
            return Err(passed.into());
        }
        self.facts.lock().promoting = Some((epoch, timeline));
        self.processes.signal_postmaster(Signal::USR1);
        Ok(())
    }

    /// Stores that this data was opened; says where its timeline began. Blocks.
    fn opened(&self, epoch: Epoch, timeline: Timeline) -> Result<Option<proto::postgres::Lsn>, OrderError> {
        self.change_state(|state| state.opened = state.opened.max(Some(epoch)))?;
        let histories = history::read_all(&self.layout.pg_wal())?;
        Ok(histories.get(&timeline).and_then(history::History::began))
    }
}
