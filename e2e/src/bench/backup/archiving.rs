//! Archiving: whether it keeps up with pgbench, and what a segment costs beyond its PUT.

use std::time::Duration;

use anyhow::{Context, Result};
use proto::pod::INSTALLED_AGENT;

use super::ground::{Ground, rows};
use crate::{bench::Line, scenario::wait::say};

/// As much as this machine does: more clients than processors.
const PGBENCH: &str = "pgbench --no-vacuum --protocol=prepared --client=8 --jobs=2 --time=30";
/// What is left when the load ends goes this fast.
const DRAIN: Duration = Duration::from_secs(5);
/// Of a segment, beyond its PUT.
const COST: Duration = Duration::from_millis(50);
/// Segments that are archived one by one, with nothing else to do.
const SEGMENTS: u32 = 10;
/// Rows that fill most of a segment.
const ROWS: u32 = 70_000;
/// Starts of a program that are averaged.
const STARTS: u32 = 20;

/// Counters of the agent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Uploads {
    count: f64,
    /// In all, in seconds.
    handling: f64,
    /// Of that the store, in seconds.
    storing: f64,
}

/// Mean of some segments, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    count: f64,
    beyond: f64,
    put: f64,
}

/// Measures.
pub(super) async fn measure(ground: &Ground<'_>, lines: &mut Vec<Line>) -> Result<()> {
    ground.archived().await?;
    ground.settle().await?;
    let start = start(ground).await?;
    let before = uploads(&ground.metrics().await?)?;
    say("pgbench writes at full speed");
    let output = ground.shell.run(PGBENCH, "").await?;
    let waiting = ground.waiting().await?;
    let drained = ground.drained().await?;
    let loaded = mean(before, uploads(&ground.metrics().await?)?);
    let rate = tps(&output).with_context(|| format!("pgbench says no tps: {output}"))?;
    let segments = loaded.map_or_else(|| "no segment".to_owned(), |mean| told(mean, start));
    say(&format!("pgbench: {rate:.0} transactions a second; {segments}"));
    lines.push(backlog(waiting, drained));
    lines.push(cost(alone(ground).await?, start));
    Ok(())
}

/// Segments one by one.
async fn alone(ground: &Ground<'_>) -> Result<Mean> {
    ground.archived().await?;
    let before = uploads(&ground.metrics().await?)?;
    for _ in 0..SEGMENTS {
        ground.psql(&rows(1, ROWS)).await?;
        ground.archived().await?;
    }
    mean(before, uploads(&ground.metrics().await?)?).context("no segment was archived")
}

/// How long the archiver takes to start `archive_command`, which the agent cannot see.
async fn start(ground: &Ground<'_>) -> Result<Duration> {
    let starts =
        format!("for _ in $(seq {STARTS}); do sh -c '{INSTALLED_AGENT} --version' > /dev/null; done");
    Ok(ground.shell.timed("", &starts, "").await? / STARTS)
}

fn uploads(metrics: &str) -> Result<Uploads> {
    let value = |name: &str| {
        let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let line = metrics.lines().find(named);
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.with_context(|| format!("the agent shows no {name}"))
    };
    Ok(Uploads {
        count: value("database_archive_uploads_total")?,
        handling: value("database_archive_upload_seconds_total")?,
        storing: value("database_archive_store_seconds_total")?,
    })
}

fn mean(before: Uploads, after: Uploads) -> Option<Mean> {
    let count = after.count - before.count;
    let (handling, put) = (after.handling - before.handling, after.storing - before.storing);
    (count > 0.0).then(|| Mean { count, beyond: (handling - put) / count, put: put / count })
}

fn tps(output: &str) -> Option<f64> {
    output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

fn told(mean: Mean, start: Duration) -> String {
    let beyond = 1e3 * (mean.beyond + start.as_secs_f64());
    format!("{} segments, each {beyond:.0} ms beyond a PUT of {:.0} ms", mean.count, 1e3 * mean.put)
}

fn backlog(waiting: i64, drained: Duration) -> Line {
    Line {
        what: "archive backlog after pgbench".to_owned(),
        measured: format!("{waiting} segments, gone after {:.1} s", drained.as_secs_f64()),
        target: format!("{} s", DRAIN.as_secs()),
        met: drained <= DRAIN,
    }
}

fn cost(mean: Mean, start: Duration) -> Line {
    Line {
        what: "archiving of a segment beyond its PUT, mean".to_owned(),
        measured: told(mean, start),
        target: format!("{} ms", COST.as_millis()),
        met: mean.beyond + start.as_secs_f64() <= COST.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_segment_is_what_is_not_the_store() {
        let at = |count, handling, storing| Uploads { count, handling, storing };
        let mean_of = |after| mean(at(2.0, 1.0, 0.5), after);
        assert_eq!(mean_of(at(6.0, 2.0, 1.0)), Some(Mean { count: 4.0, beyond: 0.125, put: 0.125 }));
        assert_eq!(mean_of(at(2.0, 1.0, 0.5)), None);
        let mean = Mean { count: 4.0, beyond: 0.04, put: 1.0 };
        assert!(cost(mean, Duration::from_millis(9)).met);
        assert!(!cost(mean, Duration::from_millis(11)).met, "starting the command is part of it");
    }

    #[test]
    fn what_the_agent_and_pgbench_say_is_read() {
        let metrics = "# TYPE database_archive_uploads counter\n\
                       database_archive_uploads_total{database=\"a\",namespace=\"b\"} 21\n\
                       database_archive_upload_seconds_total{database=\"a\",namespace=\"b\"} 2.5\n\
                       database_archive_store_seconds_total{database=\"a\",namespace=\"b\"} 1.25\n";
        assert_eq!(uploads(metrics).unwrap(), Uploads { count: 21.0, handling: 2.5, storing: 1.25 });
        assert!(uploads("").is_err());
        assert_eq!(tps("latency = 1 ms\ntps = 1234.5 (without initial connection time)\n"), Some(1234.5));
    }

    #[test]
    fn what_is_left_must_go_at_once() {
        assert!(backlog(3, DRAIN).met);
        assert!(!backlog(0, DRAIN * 2).met);
    }
}
