//! Carries out what the agent orders: what is quick at once, jobs in the background.

use std::{sync::Arc, time::Duration};

use proto::{
    identity::Epoch,
    wire::supervisor::{Answer, Data, Fence, Job, JobKind, Order, Refusal, Request, Response},
};
use tokio::{sync::MutexGuard, task, time::timeout};

use super::{
    Supervisor, Wanted,
    certificates::CertificateError,
    conf::ConfError,
    control::InvalidControl,
    durable::{self, DurableError, HaState},
    fence::{ArmError, NoFence},
    local::LocalError,
    processes::{Postmaster, SpawnError},
    tools::ToolError,
    wal::EndError,
};
use crate::boot_clock;

/// How long an order that is no job may wait for the disk. The agent asks again; PID 1 goes on meanwhile.
const DISK_PATIENCE: Duration = Duration::from_secs(3);
/// How long an order waits for another one that changes the same things.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// Against the rules.
    #[error("{0}")]
    Refused(String),
    /// The same order may succeed in a moment.
    #[error("{0}")]
    NotYet(String),
    /// Before it began recovery.
    #[error("the server ended while it was starting; its log says why")]
    Ended,
    /// The server runs, but not as wanted.
    #[error("the server runs with an earlier configuration, since it did not start with the new one")]
    Fallback(#[source] Box<OrderError>),
    /// The fence cannot be armed so.
    #[error("the fence is not armed")]
    Arm(#[from] ArmError),
    /// No promotion without a fence.
    #[error("not promoted")]
    NoFence(#[from] NoFence),
    /// A configuration that would do harm.
    #[error("the configuration is refused")]
    Conf(#[from] ConfError),
    /// Certificates.
    #[error("the certificates are not in place")]
    Certificates(#[from] CertificateError),
    /// The data volume.
    #[error("the data volume failed")]
    Durable(#[from] DurableError),
    /// A program of PostgreSQL.
    #[error("a program failed")]
    Tool(#[from] ToolError),
    /// The server's process.
    #[error("the server was not started")]
    Spawn(#[from] SpawnError),
    /// `pg_control`.
    #[error("pg_control cannot be understood")]
    Control(#[from] InvalidControl),
    /// The write-ahead log.
    #[error("the end of the write-ahead log is not known")]
    End(#[from] EndError),
    /// The running server.
    #[error("the server did not answer")]
    Local(#[from] LocalError),
}

impl OrderError {
    fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Fallback(_) | Self::Conf(_) | Self::Arm(_))
    }

    /// The whole story in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |error| error.source());
        causes.fold(self.to_string(), |story, cause| format!("{story}: {cause}"))
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        Self { transient: error.is_transient(), message: error.sentence() }
    }
}

impl Supervisor {
    /// Answers one request.
    pub(crate) async fn respond(self: Arc<Self>, request: Request) -> Response {
        let result = self.obey(request.order).await;
        if let Err(error) = &result {
            tracing::info!(error = error.sentence(), "order not carried out");
        }
        Response { id: request.id, result: result.map_err(Refusal::from) }
    }

    async fn obey(self: &Arc<Self>, order: Order) -> Result<Answer, OrderError> {
        match order {
            Order::Report => return Ok(Answer::Report(Box::new(self.report()))),
            Order::Arm { epoch, fast_stop_at, kill_at } => {
                self.arm(Fence { epoch, fast_stop_at, kill_at })?;
            }
            Order::Configure(config) => self.configure(config).await?,
            Order::Initdb(initdb) => {
                self.begin(JobKind::Initdb, async move |this| this.initdb(initdb).await)?;
            }
            Order::Clone { upstream, system_identifier, epoch } => {
                self.begin(JobKind::Clone, async move |this| {
                    this.clone_from(upstream, system_identifier, epoch).await
                })?;
            }
            Order::Rewind { upstream, epoch } => {
                self.begin(JobKind::Rewind, async move |this| this.rewind(upstream, epoch).await)?;
            }
            Order::Start => self.begin(JobKind::Start, async |this| this.start().await)?,
            Order::Follow { upstream, epoch } => self.follow(upstream, epoch).await?,
            Order::Seal { epoch } => return Ok(Answer::Sealed(self.seal(epoch).await?)),
            Order::EndOfWal => return Ok(Answer::EndOfWal(self.end_of_wal().await?)),
            Order::Promote { epoch, timeline } => {
                self.begin(JobKind::Promote, async move |this| this.promote(epoch, timeline).await)?;
            }
            Order::Stop { checkpoint, kill_at } => {
                self.refuse_while_making()?;
                self.begin(JobKind::Stop, async move |this| this.stop(checkpoint, kill_at).await)?;
            }
            Order::Kill => self.begin(JobKind::Stop, async |this| this.kill().await)?,
            Order::Exit => self.exit()?,
        }
        Ok(Answer::Accepted)
    }

    fn arm(&self, fence: Fence) -> Result<(), OrderError> {
        let sealed = self.facts.lock().sealed();
        if fence.epoch < sealed {
            return Err(OrderError::Refused(format!("epoch {} is below the sealed {sealed}", fence.epoch)));
        }
        Ok(self.guard.arm(fence)?)
    }

    /// A stop is for a server; only a kill ends the making of data.
    fn refuse_while_making(&self) -> Result<(), OrderError> {
        match self.facts.lock().job.as_ref().map(|job| job.kind) {
            Some(making @ (JobKind::Initdb | JobKind::Clone | JobKind::Rewind)) => Err(OrderError::NotYet(
                format!("{making:?} is under way and no server runs; only a kill ends it"),
            )),
            _ => Ok(()),
        }
    }

    /// Runs a job in the background. A stop takes the place of a start or promotion, whose server it ends.
    fn begin<J, F>(self: &Arc<Self>, kind: JobKind, job: J) -> Result<(), OrderError>
    where
        J: FnOnce(Arc<Self>) -> F + Send + 'static,
        F: Future<Output = Result<(), OrderError>> + Send + 'static,
    {
        {
            let mut known = self.facts.lock();
            match known.job.as_ref().map(|job| job.kind) {
                None => {}
                Some(running) if running == kind && kind != JobKind::Stop => return Ok(()),
                Some(_) if kind == JobKind::Stop => {}
                Some(running) => return Err(OrderError::NotYet(format!("{running:?} is under way"))),
            }
            known.job = Some(Job { kind, since: boot_clock::now(), progress: None });
        }
        let this = Arc::clone(self);
        // Detached on purpose: its end is told in the facts, and a panic ends the process.
        drop(task::spawn(async move {
            let error = job(Arc::clone(&this)).await.err().map(|error| error.sentence());
            if let Some(error) = &error {
                tracing::warn!(?kind, error, "job failed");
            } else {
                tracing::info!(?kind, "job done");
            }
            this.facts.lock().end_job(kind, error);
        }));
        Ok(())
    }

    /// The right to change how the server runs, one order at a time.
    pub(crate) async fn turn(&self) -> Result<MutexGuard<'_, Wanted>, OrderError> {
        let late = |_| OrderError::NotYet("another order is under way".to_owned());
        timeout(TURN_PATIENCE, self.wanted.lock()).await.map_err(late)
    }

    /// Runs something that may wait for the disk, for a while.
    pub(crate) async fn briefly<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, OrderError> + Send + 'static,
    ) -> Result<T, OrderError> {
        let late = |_| OrderError::NotYet("the disk has not answered in time".to_owned());
        timeout(DISK_PATIENCE, self.at_length(work)).await.map_err(late)?
    }

    /// Runs something that waits for the disk, for as long as it takes.
    pub(crate) async fn at_length<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, OrderError> + Send + 'static,
    ) -> Result<T, OrderError> {
        let this = Arc::clone(self);
        let aborted = |_| OrderError::NotYet("the supervisor ends".to_owned());
        task::spawn_blocking(move || work(&this)).await.map_err(aborted)?
    }

    /// Changes the HA state; it is on the disk when this returns. Blocks.
    pub(crate) fn change_state(&self, change: impl FnOnce(&mut HaState)) -> Result<(), OrderError> {
        let _one_writer = self.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Data::Present(mut durable) = self.facts.lock().data.clone() else {
            return Err(OrderError::NotYet("there is no usable data".to_owned()));
        };
        let before = HaState { data_id: durable.data_id, sealed: durable.sealed, opened: durable.opened };
        let mut state = before;
        change(&mut state);
        if state != before {
            durable::store(&self.layout, &state)?;
            (durable.sealed, durable.opened) = (state.sealed, state.opened);
            self.facts.lock().data = Data::Present(durable);
        }
        Ok(())
    }

    /// Raises `sealed`, unless `epoch` is below it. Blocks.
    pub(crate) fn raise_sealed(&self, epoch: Epoch) -> Result<(), OrderError> {
        self.refuse_below_sealed(epoch)?;
        self.change_state(|state| state.sealed = state.sealed.max(epoch))
    }

    /// The rule of all that follow or open an epoch.
    pub(crate) fn refuse_below_sealed(&self, epoch: Epoch) -> Result<(), OrderError> {
        let sealed = self.facts.lock().sealed();
        match epoch < sealed {
            true => Err(OrderError::Refused(format!("epoch {epoch} is below the sealed {sealed}"))),
            false => Ok(()),
        }
    }

    /// Proof that no server runs and its end has been looked into.
    pub(crate) fn require_stopped(&self) -> Result<(), OrderError> {
        let gone = matches!(*self.processes.postmaster().borrow(), Postmaster::Gone { .. });
        match gone && self.processes.sweeping_since().is_none() && self.facts.lock().settled {
            true => Ok(()),
            false => Err(OrderError::NotYet("the server has not stopped".to_owned())),
        }
    }
}
