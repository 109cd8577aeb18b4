//! One fault on a Database under load, from healthy to healthy: what every failover test, the benchmark and the
//! demo have in common.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

pub use super::load::create_tables;
use super::{
    database::Database,
    load::{Load, Size, Work},
    ordeal::Ordeal,
    trouble::{Ground, INSTANCES, WHOLE_LIMIT},
    verdict,
    wait::{self, say},
    writer::Writer,
};

/// Writes before the fault, so that there is something to lose.
const BEFORE: usize = 50;
/// Writes after everything is whole again, so that it is known to work.
const AFTER: usize = 20;
/// For a number of writes of a few milliseconds each.
pub(super) const WRITES_LIMIT: Duration = Duration::from_mins(1);

/// How a fault went.
#[derive(Clone, Debug)]
pub struct Report {
    /// The longest time without an acknowledged write.
    pub outage: Duration,
    /// From the fault until all instances served again.
    pub whole: Duration,
    /// When the fault began.
    pub moment: Instant,
    /// When writes were acknowledged again.
    pub restored: Option<Instant>,
    /// What the clients did.
    pub work: Work,
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
            self.work.acknowledged,
            self.work.failures,
            self.leaders.0,
            self.leaders.1
        )
    }
}

/// Breaks `database` of `count` instances by `fault` under a light load, and shows that it comes back whole within
/// `limit`, that nothing acknowledged is lost, and that there was at most one primary at any time.
pub async fn survive(
    database: &Database,
    count: usize,
    limit: Duration,
    fault: impl AsyncFnOnce() -> Result<()>,
) -> Result<Report> {
    survive_under(database, Size::LIGHT, count, limit, fault).await
}

/// The same under any load.
pub async fn survive_under(
    database: &Database,
    size: Size<'_>,
    count: usize,
    limit: Duration,
    fault: impl AsyncFnOnce() -> Result<()>,
) -> Result<Report> {
    verdict::whole(database, count, limit).await.context("before the fault")?;
    let before = database.primary().await?.name;
    let load = Load::start(database, size).await?;
    written(load.writer(), BEFORE).await.context("before the fault")?;

    let moment = Instant::now();
    fault().await.context("the fault could not be injected")?;
    let failure = || format!("the writer's last failure: {:?}", load.writer().so_far().last_failure);
    let whole = verdict::whole(database, count, limit).await.with_context(failure)?;
    written(load.writer(), load.writer().count() + AFTER).await?;
    let (work, record) = load.stop(database).await?;
    say(&format!("{work}"));
    Ok(Report {
        outage: record.outage(moment),
        moment,
        restored: record.restored(moment),
        whole,
        work,
        leaders: (before, database.primary().await?.name),
    })
}

/// An ordeal under everything that could show that it does harm.
pub async fn survive_ordeal(ground: &Ground, ordeal: &Ordeal) -> Result<Report> {
    say(&format!("begins: {ordeal}"));
    let size = Size::full(ground.lab.nodes());
    let undergo = async || ordeal.undergo(ground).await;
    let report = survive_under(&ground.database, size, INSTANCES, WHOLE_LIMIT, undergo).await;
    let report = report.with_context(|| ordeal.to_string())?;
    say(&format!("{ordeal}: {report}"));
    Ok(report)
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
