//! Full backups: `pg_basebackup` to nothing, Matriarch's and pgBackRest's to the S3 server.

use std::time::Duration;

use anyhow::{Context, Result};
use proto::{
    api::quantity::Bytes,
    wire::backup::{BACKUPS_PATH, BackupState, BackupSummary},
};
use serde_json::json;

use super::{
    ROUNDS,
    figure::{self, Series},
    ground::Ground,
};
use crate::{bench::Line, scenario::wait::say};

/// Of what `pg_basebackup` reads in the same time, since it neither compresses nor stores anything.
const SHARE: f64 = 70.0;
/// Of the agent, while it takes backups.
const MEMORY: Bytes = Bytes(128 << 20);
/// With the log from its start to its stop, some 16 MiB: without it, it would wait for the archiver at the end, which
/// is no part of copying.
const PG_BASEBACKUP: &str = "pg_basebackup -Ft -X fetch -c fast -D -";

/// Measures; returns the last of Matriarch's.
pub(super) async fn measure(ground: &Ground<'_>, lines: &mut Vec<Line>) -> Result<BackupSummary> {
    let counted = ground.shell.run(&format!("{PG_BASEBACKUP} | wc -c"), "").await?;
    let bytes = counted.trim().parse().with_context(|| format!("no number of bytes: {counted:?}"))?;
    let mut plain = Series { bytes, ..Series::default() };
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    let mut last = None;
    for round in 1..=ROUNDS {
        ground.settle().await?;
        plain.times.push(ground.shell.timed("", &format!("{PG_BASEBACKUP} > /dev/null"), "").await?);
        ground.settle().await?;
        let summary = taken(ground, round).await?;
        ours.bytes = summary.size_bytes;
        ours.times.push(copying(&summary));
        let repository = ground.pgbackrest(round);
        ground.shell.run(&repository.create(), "").await?;
        ground.settle().await?;
        theirs.times.push(ground.shell.timed("", &repository.backup(), "").await?);
        say(&format!("backup {round}/{ROUNDS}: {}", told([&plain, &ours, &theirs])));
        last = Some(summary);
    }
    let last = last.context("no round")?;
    say(&format!("{} of data, {} of it stored", Bytes(last.size_bytes), Bytes(last.stored_bytes)));
    lines.push(figure::share("backup beside pg_basebackup to nothing", &ours, &plain, SHARE));
    lines.push(figure::faster("backup beside pgBackRest's", &ours, &theirs));
    let peak = Bytes(ground.agent_memory_peak().await?);
    lines.push(figure::at_most("memory of the agent with backups, peak", peak, MEMORY));
    Ok(last)
}

/// As a person asks for it; what it took is told by the agent.
async fn taken(ground: &Ground<'_>, round: u32) -> Result<BackupSummary> {
    let (name, source) = (format!("round-{round}"), &ground.source);
    let backup = json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Backup",
        "metadata": {"name": name, "namespace": source.namespace}, "spec": {"database": source.name},
    });
    source.kubectl.run_with(&["create", "-f", "-"], &backup.to_string()).await?;
    let status = ground.completed(&name).await?;
    let id = status["backupId"].as_str().with_context(|| format!("{name} has no backupId"))?;
    let answer = ground.peer.get(&format!("{BACKUPS_PATH}/{id}")).send().await?.error_for_status()?;
    let state: BackupState = answer.json().await?;
    state.summary.with_context(|| format!("{id} has no summary"))
}

/// From the question to the server until the last byte is stored. What follows is waiting for the archiver.
fn copying(backup: &BackupSummary) -> Duration {
    backup.stopped_at.duration_since(backup.started_at).unsigned_abs()
}

fn told(ways: [&Series; 3]) -> String {
    let [plain, ours, theirs] = ways.map(|way| way.times.last().copied().unwrap_or_default().as_secs_f64());
    format!("pg_basebackup {plain:.2} s, Matriarch {ours:.2} s, pgBackRest {theirs:.2} s")
}
