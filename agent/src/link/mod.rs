//! The agent's line to the supervisor: orders go out, reports come in (`proto::wire::supervisor`).
//!
//! One task owns the socket. It asks for a report every [`REPORT_EVERY`], and publishes what it knows as a
//! [`Contact`]. When the line breaks it reconnects, and meanwhile looks for the proof that the container is
//! dead ([`death`]): a broken line alone proves nothing.
//!
//! Failure modes: a supervisor that is there but silent shows as an old report; the driver judges its age.

mod death;
mod session;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    clock::BootTime,
    wire::supervisor::{Answer, Order, Refusal, Report},
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use crate::boot_clock;

/// Reports are asked this often: two renew intervals of the fastest profile hold ten of them (L5), and a dead
/// postmaster is noticed within one.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// While a job runs, its end is what a failover waits for.
const REPORT_EVERY_DURING_JOB: Duration = Duration::from_millis(25);
/// Between two attempts to connect, and two looks at the lock file.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
/// Connecting to a local socket is instant, unless PID 1 is stopped with its backlog full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for an answer. Long work is a job of the supervisor and is accepted at once; only a seal
/// waits for the WAL receiver to end.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);
/// Orders waiting for the socket: a handful per decision, more would mean that nobody reads.
const ORDER_QUEUE: usize = 32;

/// What is known about the supervisor.
#[derive(Clone, Debug)]
pub(crate) enum Contact {
    /// The line was never up since this agent started.
    NotYet,
    /// The line is up.
    Up {
        /// The last report. It carries its own time: both ends share one clock.
        report: Box<Report>,
    },
    /// The line broke.
    Broken {
        /// Since when it is proven that no `PostgreSQL` process is left.
        dead: Option<BootTime>,
    },
}

/// Why an order brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// The line broke before the answer; whether the order was carried out is unknown.
    #[error("the line to the supervisor broke before it answered")]
    Broken,
    /// No answer in time; whether the order was or will be carried out is unknown.
    #[error("the supervisor did not answer within {ORDER_TIMEOUT:?}")]
    Timeout,
    /// The supervisor said no.
    #[error("the supervisor refused: {}", .0.message)]
    Refused(Refusal),
}

/// An order under way.
struct Call {
    order: Order,
    reply: oneshot::Sender<Result<Answer, Refusal>>,
}

/// Handle for giving orders; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    calls: mpsc::Sender<Call>,
}

/// An order that was handed over.
#[derive(Debug)]
pub(crate) struct Given(oneshot::Receiver<Result<Answer, Refusal>>);

impl Link {
    /// Hands an order over at once: orders reach the supervisor in the order of these calls.
    pub(crate) fn begin(&self, order: Order) -> Given {
        let (reply, answer) = oneshot::channel();
        // If the queue is full the order is lost, which its answer tells.
        let _ = self.calls.try_send(Call { order, reply });
        Given(answer)
    }
}

impl Given {
    /// Waits for the answer.
    pub(crate) async fn wait(self) -> Result<Answer, OrderError> {
        match timeout(ORDER_TIMEOUT, self.0).await {
            Err(_) => Err(OrderError::Timeout),
            Ok(Err(_)) => Err(OrderError::Broken),
            Ok(Ok(result)) => result.map_err(OrderError::Refused),
        }
    }
}

/// The task behind [`Link`]; runs until all handles are gone.
pub(crate) struct LinkTask {
    socket: PathBuf,
    lock: PathBuf,
    calls: mpsc::Receiver<Call>,
    contact: watch::Sender<Contact>,
}

/// Makes the line: the handle, what it knows, and the task to spawn.
pub(crate) fn line(socket: &Path, lock: &Path) -> (Link, watch::Receiver<Contact>, LinkTask) {
    let (calls_in, calls) = mpsc::channel(ORDER_QUEUE);
    let (contact, contact_out) = watch::channel(Contact::NotYet);
    let task = LinkTask { socket: socket.to_owned(), lock: lock.to_owned(), calls, contact };
    (Link { calls: calls_in }, contact_out, task)
}

impl LinkTask {
    /// Connects, serves, and connects again.
    pub(crate) async fn run(mut self) {
        while !self.calls.is_closed() {
            if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket)).await {
                let ended = session::serve(stream, &mut self.calls, &self.contact).await;
                tracing::warn!(reason = %ended, "the line to the supervisor broke");
                self.note_broken();
            }
            self.refuse_waiting_calls();
            self.look_for_death();
            sleep(RECONNECT_EVERY).await;
        }
    }

    /// Calls made while the line is down fail at once instead of being carried out later, when the decision
    /// behind them has passed.
    fn refuse_waiting_calls(&mut self) {
        while let Ok(call) = self.calls.try_recv() {
            drop(call.reply);
        }
    }

    fn note_broken(&self) {
        self.contact.send_modify(|contact| {
            if matches!(contact, Contact::Up { .. }) {
                *contact = Contact::Broken { dead: None };
            }
        });
    }

    fn look_for_death(&self) {
        let missing = matches!(&*self.contact.borrow(), Contact::Broken { dead: None });
        if missing && death::is_proven(&self.lock) {
            tracing::info!("proven: no PostgreSQL process is left of the lost container");
            self.contact.send_modify(|contact| {
                if let Contact::Broken { dead } = contact {
                    *dead = Some(boot_clock::now());
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
