//! SQL on the local server, over its Unix socket.
//!
//! One task keeps one connection and reads [`facts()`] over it every [`FACTS_EVERY`]; the rare [`acts`] make
//! connections of their own, so that a slow one never hides the facts. No path that a lease renewal depends on
//! waits for any of it.
//!
//! Failure modes: a server that hangs costs [`CALL_TIMEOUT`], then the connection is dropped (a call whose
//! answer was not awaited must not be followed by another); the facts grow old, and the driver judges their age.

pub(crate) mod acts;
pub(crate) mod archiving;
pub(crate) mod backup_mode;
pub(crate) mod facts;
mod session;

use std::{sync::Arc, time::Duration};

use facts::Facts;
use proto::clock::BootTime;
use session::Session;
pub(crate) use session::SqlError;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{boot_clock, chain::Chain};

/// Facts are read this often: replication positions decide how soon a configuration changes or a hand-over ends.
const FACTS_EVERY: Duration = Duration::from_millis(250);
/// Whole call, connecting included. A server under load answers these trivial queries in milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failure the server gets longer to answer a single trivial query: whether it works at all (L5) must
/// not be mistaken for whether it is fast.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(12);

/// The last facts and when they were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The facts, and when the query was sent: a fact is at least this old.
    pub(crate) facts: Option<(BootTime, Facts)>,
    /// When the last query was sent that was answered at all, however slowly.
    pub(crate) works_at: Option<BootTime>,
}

/// The task that reads facts.
pub(crate) struct FactsTask {
    socket_directory: String,
    readings: watch::Sender<Reading>,
    hurry: Arc<Notify>,
}

/// Makes the latest facts, a bell that has them read at once, and the task to spawn.
pub(crate) fn facts(socket_directory: &str) -> (watch::Receiver<Reading>, Arc<Notify>, FactsTask) {
    let (readings, readings_out) = watch::channel(Reading::default());
    let hurry = Arc::new(Notify::new());
    let task =
        FactsTask { socket_directory: socket_directory.to_owned(), readings, hurry: Arc::clone(&hurry) };
    (readings_out, hurry, task)
}

impl FactsTask {
    /// Reads facts until nobody wants them.
    pub(crate) async fn run(self) {
        let mut session = None;
        while !self.readings.is_closed() {
            if let Err(error) = self.read(&mut session).await {
                tracing::debug!(error = %Chain(&error), "no facts from the server");
                session = None;
                if matches!(error, SqlError::Timeout(_)) {
                    self.judge_slowly().await;
                }
            }
            // Whichever comes first.
            let _ = timeout(FACTS_EVERY, self.hurry.notified()).await;
        }
    }

    async fn read(&self, session: &mut Option<Session>) -> Result<(), SqlError> {
        let asked = boot_clock::now();
        let connected = match session.take() {
            Some(connected) if !connected.is_closed() => connected,
            _ => Session::connect(&self.socket_directory).await?,
        };
        let facts = facts::read(&connected).await?;
        *session = Some(connected);
        self.readings.send_replace(Reading { facts: Some((asked, facts)), works_at: Some(asked) });
        Ok(())
    }

    /// Only whether it answers at all.
    async fn judge_slowly(&self) {
        let asked = boot_clock::now();
        let verdict = async {
            loop {
                match Session::connect_patiently(&self.socket_directory).await {
                    Ok(session) => return session.query_patiently("SELECT 1").await.map(drop),
                    Err(_) => sleep(FACTS_EVERY).await,
                }
            }
        };
        if let Ok(Ok(())) = timeout(VERDICT_TIMEOUT, verdict).await {
            self.readings.send_modify(|reading| reading.works_at = Some(asked));
        }
    }
}
