//! Following a leader, and sealing: ending what could acknowledge, for good (ha.md sections 4 and 10).
//!
//! Emptying `primary_conninfo` is not enough: a startup process that waits for a conflict leaves the receiver
//! alone, and one that has not seen the reload may start another. So each attachment has its own directory of
//! certificates, without which libpq refuses to connect. A seal first removes that directory; from then on
//! only receivers that had been started before can be connected, and those are visible as processes and
//! ended one by one.

use std::{sync::Arc, time::Duration};

use proto::{identity::Epoch, postgres::WalPosition, wire::supervisor::Upstream};
use rustix::process::{Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::{Supervisor, Wanted, certificates, conf::Attachment, orders::OrderError, receivers, server, wal};

/// Until every WAL receiver has ended after SIGTERM: it needs milliseconds unless it waits for the disk.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const RECEIVER_INTERVAL: Duration = Duration::from_millis(3);

impl Supervisor {
    /// Attaches to a leader.
    pub(crate) async fn follow(self: &Arc<Self>, upstream: Upstream, epoch: Epoch) -> Result<(), OrderError> {
        let mut wanted = self.turn().await?;
        self.require_standby()?;
        self.refuse_below_sealed(epoch)?;
        let known_epoch = self.facts.lock().sealed() == epoch;
        if known_epoch && wanted.attachment.as_ref().is_some_and(|attachment| attachment.upstream == upstream)
        {
            return Ok(());
        }
        self.briefly(move |this| this.raise_sealed(epoch)).await?;
        self.detach(&mut wanted).await?;
        wanted.attachments += 1;
        let credentials = self.layout.run_dir.join(format!("upstream-{}", wanted.attachments));
        certificates::link(&self.layout, &credentials)?;
        wanted.attachment = Some(Attachment { upstream: upstream.clone(), credentials });
        self.install(&wanted)?;
        self.facts.lock().following = Some(upstream);
        Ok(())
    }

    /// Never again acknowledges an epoch below `epoch`; says what this member has.
    pub(crate) async fn seal(self: &Arc<Self>, epoch: Epoch) -> Result<WalPosition, OrderError> {
        let mut wanted = self.turn().await?;
        let runs = self.processes.postmaster_pid().is_some();
        if runs {
            self.require_standby()?;
        } else {
            self.require_stopped()?;
        }
        self.briefly(move |this| this.raise_sealed(epoch)).await?;
        if runs {
            self.detach(&mut wanted).await?;
        }
        self.end_of_wal().await
    }

    /// The exact end of the local write-ahead log.
    pub(crate) async fn end_of_wal(self: &Arc<Self>) -> Result<WalPosition, OrderError> {
        self.require_data()?;
        self.briefly(|this| Ok(wal::end_of_wal(&this.layout.pgdata(), &this.control()?)?)).await
    }

    /// Ends the attachment and everything that streams.
    pub(crate) async fn detach(self: &Arc<Self>, wanted: &mut Wanted) -> Result<(), OrderError> {
        detach_files(wanted)?;
        self.facts.lock().following = None;
        self.briefly(|this| Ok(server::strip_auto_conf(&this.layout.pgdata())?)).await?;
        self.install(wanted)?;
        let late = |_| OrderError::NotYet("a WAL receiver has not ended in time".to_owned());
        timeout(RECEIVER_PATIENCE, self.end_receivers()).await.map_err(late)
    }

    async fn end_receivers(&self) {
        while let Some(postmaster) = self.processes.postmaster_pid() {
            let suspects = receivers::find(postmaster);
            if suspects.is_empty() {
                return;
            }
            for receiver in suspects.receivers {
                // ESRCH: it has just ended.
                let _gone = kill_process(receiver, Signal::TERM);
            }
            sleep(RECEIVER_INTERVAL).await;
        }
    }

    fn require_standby(&self) -> Result<(), OrderError> {
        self.require_data()?;
        if self.processes.postmaster_pid().is_none() {
            return Err(OrderError::NotYet("the server does not run".to_owned()));
        }
        match self.facts.lock().promoting.is_some() {
            true => Err(OrderError::Refused(
                "this member is a primary, or is being promoted: stop it first".to_owned(),
            )),
            false => Ok(()),
        }
    }
}

/// Takes the certificates away from the attachment, whatever the server still believes.
pub(crate) fn detach_files(wanted: &mut Wanted) -> Result<(), OrderError> {
    if let Some(attachment) = &wanted.attachment {
        certificates::unlink(&attachment.credentials)?;
    }
    wanted.attachment = None;
    Ok(())
}
