//! What must hold after a fault: all instances stream on one timeline, the status says so, and every
//! acknowledged row is there, on every instance.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use proto::{api::status::Phase, pod::ROLE_REPLICA};

use super::{
    database::{Database, Pod},
    session::{Access, Session},
    wait,
    writer::Record,
};

/// Reading all rows of a ledger of some minutes on a busy machine.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// A standby replays what the primary wrote within a moment, unless something is wrong; one that was rewound may
/// restart once more.
const REPLAY_LIMIT: Duration = Duration::from_secs(30);

/// Waits until `count` instances serve on one timeline, by their own account and by the status; returns how
/// long that took.
pub async fn whole(database: &Database, count: usize, limit: Duration) -> Result<Duration> {
    let what = format!("{count} instances of {} to serve", database.name);
    let looked = wait::until(&what, limit, async || {
        let primary = database.primary().await?;
        instances_stream(database, &primary, count).await?;
        status_says_so(database, &primary, count).await
    });
    Ok(looked.await?.1)
}

async fn instances_stream(database: &Database, primary: &Pod, count: usize) -> Result<()> {
    let pods = database.pods().await?;
    ensure!(pods.len() == count, "{} pods exist", pods.len());
    let replicas = pods.iter().filter(|pod| pod.role == ROLE_REPLICA).count();
    ensure!(replicas + 1 == count, "{replicas} pods are labelled replica");
    let session = Session::open(&database.superuser_on(primary).await?).await?;
    let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    let rows = session.query(query, &[], READ_LIMIT).await?;
    let streaming: i64 = rows.first().context("no row")?.try_get(0)?;
    ensure!(usize::try_from(streaming)? + 1 == count, "{streaming} standbys stream from {}", primary.name);
    Ok(())
}

async fn status_says_so(database: &Database, primary: &Pod, count: usize) -> Result<()> {
    let status = database.status().await?;
    ensure!(status.phase == Phase::Running, "the status says phase {:?}", status.phase);
    ensure!(
        usize::try_from(status.ready_replicas)? == count,
        "the status says {} ready",
        status.ready_replicas
    );
    ensure!(status.primary.as_ref() == Some(&primary.name), "the status says primary {:?}", status.primary);
    let timelines: BTreeSet<_> = status.instances.iter().map(|instance| instance.timeline).collect();
    ensure!(timelines.len() == 1, "the status shows timelines {timelines:?}");
    Ok(())
}

/// A table of rows that writers wrote, by `id`.
#[derive(Clone, Copy, Debug)]
pub enum Rows {
    /// What went through `-rw`.
    Ledger,
    /// What was written on pods directly.
    Intrusion,
}

impl Rows {
    /// All ids within bounds: an hour's rows need not be read to check the last minute's.
    fn query(self) -> &'static str {
        match self {
            Self::Ledger => "SELECT id FROM ledger WHERE id BETWEEN $1 AND $2",
            Self::Intrusion => "SELECT id FROM intrusion WHERE id BETWEEN $1 AND $2",
        }
    }
}

/// Everything that this writer was told to be committed is on the primary, and soon on every standby.
pub async fn nothing_lost(database: &Database, record: &Record) -> Result<()> {
    ensure!(!record.acknowledged.is_empty(), "the writer wrote nothing: {:?}", record.last_failure);
    present(database, Rows::Ledger, &record.acknowledged).await
}

/// Every acknowledged id is on the primary, and soon on every standby.
pub async fn present(database: &Database, rows: Rows, acknowledged: &BTreeSet<i64>) -> Result<()> {
    for pod in database.pods().await? {
        let access = database.access_to(&pod).await?;
        let complete = async || missing(&access, rows, acknowledged).await;
        let what = format!("all acknowledged rows of the {rows:?} on {}", pod.name);
        wait::until(&what, REPLAY_LIMIT, complete).await?;
    }
    Ok(())
}

async fn missing(access: &Access, rows: Rows, acknowledged: &BTreeSet<i64>) -> Result<()> {
    let (Some(first), Some(last)) = (acknowledged.first(), acknowledged.last()) else { return Ok(()) };
    let session = Session::open(access).await?;
    let found = session.query(rows.query(), &[first, last], READ_LIMIT).await?;
    let present: BTreeSet<i64> = found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let missing: Vec<_> = acknowledged.difference(&present).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = missing.iter().take(5).collect();
    bail!("{} of {} acknowledged rows are missing, such as {first:?}", missing.len(), acknowledged.len())
}
