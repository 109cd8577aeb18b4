//! One fault on a Database under load, from healthy to healthy: what every failover test, the benchmark and the
//! demo have in common.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    database::Database,
    intruder::{self, Intruders},
    session::Session,
    verdict,
    wait::{self, say},
    writer::{self, Record, Writer},
};

/// Writes before the fault, so that there is something to lose.
const BEFORE: usize = 50;
/// Writes after everything is whole again, so that it is known to work.
const AFTER: usize = 20;
/// For a number of writes of a few milliseconds each.
const WRITES_LIMIT: Duration = Duration::from_mins(1);

/// How a fault went.
#[derive(Clone, Debug)]
pub struct Report {
    /// The longest time without an acknowledged write.
    pub outage: Duration,
    /// From the fault until all instances served again.
    pub whole: Duration,
    /// Rows that were acknowledged, all of which are there.
    pub acknowledged: usize,
    /// Statements and connections that failed.
    pub failures: u64,
    /// Commits of which the server said that no standby has them.
    pub not_durable: u64,
    /// Who led before and after.
    pub leaders: (String, String),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "outage {:.2} s, whole after {:.1} s, {} rows acknowledged and present, {} failed attempts, {} -> {}",
            self.outage.as_secs_f64(),
            self.whole.as_secs_f64(),
            self.acknowledged,
            self.failures,
            self.leaders.0,
            self.leaders.1
        )
    }
}

/// Breaks `database` of `count` instances by `fault` under load, and shows that it comes back whole within
/// `limit`, that nothing acknowledged is lost, and that there was at most one primary at any time.
pub async fn survive(
    database: &Database,
    count: usize,
    limit: Duration,
    fault: impl AsyncFnOnce() -> Result<()>,
) -> Result<Report> {
    verdict::whole(database, count, limit).await.context("before the fault")?;
    let before = database.primary().await?.name;
    create_tables(database).await?;
    let writer = Writer::start(database.read_write().await?, jiff::Timestamp::now().as_microsecond());
    let intruders = Intruders::start(database.clone());
    written(&writer, BEFORE).await.context("before the fault")?;

    let moment = Instant::now();
    let broken = fault().await.context("the fault could not be injected");
    let whole = match broken {
        Ok(()) => verdict::whole(database, count, limit).await,
        Err(error) => Err(error),
    };
    let written = match &whole {
        Ok(_) => written(&writer, writer.count() + AFTER).await,
        Err(_) => Ok(()),
    };
    let record = writer.stop().await?;
    let accepted = intruders.stop().await?;
    let whole = whole.with_context(|| format!("the writer's last failure: {:?}", record.last_failure))?;
    written?;
    judge(database, &record, &accepted).await?;
    Ok(Report {
        outage: record.outage(moment),
        whole,
        acknowledged: record.acknowledged.len(),
        failures: record.failures,
        not_durable: record.not_durable,
        leaders: (before, database.primary().await?.name),
    })
}

/// Creates what the writers write.
pub async fn create_tables(database: &Database) -> Result<()> {
    let access = database.read_write().await?;
    let session = Session::open_patiently(&access).await?;
    for table in [writer::TABLE, intruder::TABLE] {
        session.query(table, &[], WRITES_LIMIT).await?;
    }
    Ok(())
}

/// Waits until `count` writes are acknowledged.
pub async fn written(writer: &Writer, count: usize) -> Result<()> {
    let enough = async || {
        let record = writer.so_far();
        ensure!(
            record.acknowledged.len() >= count,
            "{} so far, last failure {:?}",
            record.acknowledged.len(),
            record.last_failure
        );
        Ok(())
    };
    wait::until(&format!("{count} acknowledged writes"), WRITES_LIMIT, enough).await.map(drop)
}

async fn judge(database: &Database, record: &Record, accepted: &[intruder::Accepted]) -> Result<()> {
    verdict::nothing_lost(database, record).await?;
    ensure!(!accepted.is_empty(), "no direct writer got through, not even on the primary");
    intruder::at_most_one_primary(accepted)?;
    say(&format!("{} direct writes were accepted, by one primary at a time", accepted.len()));
    Ok(())
}
