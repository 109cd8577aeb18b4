//! `lab bench`: how long, how large. Prints medians and maxima, and fails where a target is missed.

mod backup;
mod quiet;
mod size;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    fault::cluster::Fault,
    lab::Lab,
    scenario::{
        database::Database,
        fault,
        stage::Stage,
        switchover,
        trial::{Report, survive},
        verdict,
        wait::say,
    },
};

/// Cleared at the start.
const NAMESPACE: &str = "bench";
const COUNT: usize = 3;
const WHOLE_LIMIT: Duration = Duration::from_mins(4);
/// Databases for which the operator's memory is measured.
const MANY: u8 = 10;

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// How often each fault is injected
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// Only measurements whose name contains this: a fault, `size` or `backup`
    #[arg(long, default_value = "")]
    only: String,
}

/// A fault and the outage that a writer may see at most.
#[derive(Clone, Copy, Debug)]
enum Breakage {
    Postmaster,
    Container,
    PodDeleted,
    Switchover,
    NodeLost,
}

impl Breakage {
    const ALL: [Self; 5] =
        [Self::Postmaster, Self::Container, Self::PodDeleted, Self::Switchover, Self::NodeLost];

    fn name(self) -> &'static str {
        match self {
            Self::Postmaster => "postmaster killed",
            Self::Container => "container killed",
            Self::PodDeleted => "pod deleted",
            Self::Switchover => "switchover",
            Self::NodeLost => "node lost",
        }
    }

    /// Targets of docs/ha.md section 13.
    fn target(self) -> Duration {
        Duration::from_secs(match self {
            Self::Postmaster => 4,
            Self::Container => 6,
            Self::PodDeleted | Self::Switchover => 3,
            Self::NodeLost => 13,
        })
    }

    async fn inject(self, lab: &Lab, database: &Database) -> Result<()> {
        match self {
            Self::Postmaster => fault::kill_postmaster(lab, database).await,
            Self::Container => fault::kill_container(lab, database).await,
            Self::PodDeleted => fault::delete_primary(database).await,
            Self::Switchover => {
                let candidate = database.standby().await?;
                switchover::by_http(database, &database.primary().await?, &candidate).await?;
                fault::leads(database, &candidate).await
            }
            Self::NodeLost => fault::lose_node(lab, database).await,
        }
    }
}

/// One line of the result.
struct Line {
    what: String,
    measured: String,
    target: String,
    met: bool,
}

/// Measures and prints.
pub async fn run(options: &Options) -> Result<()> {
    let stage = Stage::with_operator().await?;
    let lab =
        stage.cluster.lab_for(Fault::Container).context("the benchmark needs the lab: unset KUBECONFIG")?;
    let mut lines = Vec::new();
    if options.only != backup::NAME {
        lines.extend(instances(&stage, lab, options).await?);
    }
    if backup::NAME.contains(&options.only) {
        lines.extend(backup::lines(&stage, lab, NAMESPACE).await?);
    }
    print(&lines);
    ensure!(lines.iter().all(|line| line.met), "a target was missed");
    Ok(())
}

/// What a Database of three instances does, and how much memory it takes.
async fn instances(stage: &Stage, lab: &Lab, options: &Options) -> Result<Vec<Line>> {
    stage.without(NAMESPACE).await?;
    let database = stage.database(NAMESPACE, "measured").await?;
    let mut lines = vec![form(&database).await?, quiet::line(&database).await?];
    for breakage in Breakage::ALL {
        if breakage.name().contains(&options.only) {
            lines.push(faults(lab, &database, breakage, options.runs).await?);
        }
    }
    if "size".contains(&options.only) {
        many(stage).await?;
        lines.extend(size::lines(&stage.client, NAMESPACE).await?);
    }
    Ok(lines)
}

async fn form(database: &Database) -> Result<Line> {
    let start = Instant::now();
    database.apply(&spec(COUNT)).await?;
    verdict::whole(database, COUNT, WHOLE_LIMIT).await?;
    Ok(Line::time("apply to three instances that serve", &[start.elapsed()], Duration::from_secs(20)))
}

async fn faults(lab: &Lab, database: &Database, breakage: Breakage, runs: u32) -> Result<Line> {
    let mut reports: Vec<Report> = Vec::new();
    for run in 1..=runs {
        let report =
            survive(database, COUNT, WHOLE_LIMIT, async || breakage.inject(lab, database).await).await;
        let report = report.with_context(|| format!("{}, run {run}", breakage.name()))?;
        say(&format!("{} {run}/{runs}: {report}", breakage.name()));
        reports.push(report);
    }
    let outages: Vec<Duration> = reports.iter().map(|report| report.outage).collect();
    Ok(Line::time(&format!("outage: {}", breakage.name()), &outages, breakage.target()))
}

/// Ten Databases in all, small ones, for the operator's memory.
async fn many(stage: &Stage) -> Result<()> {
    for number in 1..MANY {
        stage.database(NAMESPACE, &format!("small-{number}")).await?.apply(&spec(1)).await?;
    }
    for number in 1..MANY {
        verdict::whole(&stage.database(NAMESPACE, &format!("small-{number}")).await?, 1, WHOLE_LIMIT).await?;
    }
    Ok(())
}

fn spec(replicas: usize) -> serde_json::Value {
    json!({"replicas": replicas, "version": "16", "storage": {"size": "1Gi"}})
}

impl Line {
    fn time(what: &str, times: &[Duration], target: Duration) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let (median, worst) = (
            sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
            sorted.last().copied().unwrap_or_default(),
        );
        Self {
            what: what.to_owned(),
            measured: format!(
                "median {:.2} s, worst of {} {:.2} s",
                median.as_secs_f64(),
                times.len(),
                worst.as_secs_f64()
            ),
            target: format!("{} s", target.as_secs()),
            met: !times.is_empty() && worst <= target,
        }
    }
}

fn print(lines: &[Line]) {
    for line in lines {
        let verdict = if line.met { "ok" } else { "MISSED" };
        println!("{:<42} {:<42} target {:<8} {verdict}", line.what, line.measured, line.target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_run_decides() {
        let times = [1, 2, 9].map(Duration::from_secs);
        assert!(!Line::time("x", &times, Duration::from_secs(8)).met);
        assert!(Line::time("x", &times, Duration::from_secs(9)).met);
        assert!(!Line::time("x", &[], Duration::from_secs(9)).met, "nothing measured is nothing met");
    }
}
