//! `agent drill`: restores the newest backup and everything archived since into a volume of its own, starts
//! PostgreSQL on it, reads everything, and says in the last words of the container how it went.
//!
//! It reads the store and nothing else: no Lease, no API server, no member of the Database. The server that it
//! starts archives nothing and listens on a socket only. Nothing outlives the pod.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use proto::{
    pod,
    wire::{
        backup::RestoreProgress,
        drill::{DrillReport, Proof, shortened},
        supervisor::Data,
    },
};
use tokio::signal::unix::{SignalKind, signal};

use super::{Purpose, RestoreArguments, file_name, progress::Progress, rebuild};
use crate::supervisor::durable;

/// Options of `agent drill`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DrillArguments {
    #[command(flatten)]
    restore: RestoreArguments,
    /// Where the report goes
    #[arg(long, default_value = pod::TERMINATION_FILE)]
    report: PathBuf,
}

/// Runs a drill; fails exactly if nothing was proven.
pub(crate) async fn run(arguments: DrillArguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("installing the handler of SIGTERM")?;
    let started_at = Timestamp::now();
    let restore = &arguments.restore;
    let progress = Progress::new(restore.layout.run_dir.join(file_name(pod::RESTORE_PROGRESS_FILE)));
    let outcome = tokio::select! {
        outcome = Box::pin(prove(restore, &progress)) => outcome,
        _ = terminate.recv() => Err(anyhow::anyhow!("the drill was interrupted")),
    };
    let report = report(started_at, &progress.now(), &outcome);
    let text = serde_json::to_vec(&report).context("writing the report")?;
    tracing::info!(?report, "the drill has ended");
    // In place: the file is mounted by the kubelet and cannot be replaced.
    tokio::fs::write(&arguments.report, text)
        .await
        .with_context(|| format!("writing {}", arguments.report.display()))?;
    outcome.map(drop)
}

async fn prove(arguments: &RestoreArguments, progress: &Progress) -> anyhow::Result<Proof> {
    let config = arguments.read().await?;
    match durable::read(&arguments.layout).context("looking at the volume")? {
        Data::Empty => {}
        Data::Present(_) | Data::Unread | Data::Unusable { .. } => {
            anyhow::bail!("the volume of a drill has to be empty, and this one is not")
        }
    }
    let recovered = rebuild(arguments, &config, progress, Purpose::Proof).await?;
    recovered.proof.context("nothing was checked")
}

fn report(started_at: Timestamp, progress: &RestoreProgress, outcome: &anyhow::Result<Proof>) -> DrillReport {
    DrillReport {
        started_at,
        ended_at: Timestamp::now(),
        backup: progress.backup.clone(),
        proof: outcome.as_ref().ok().cloned(),
        error: outcome.as_ref().err().map(|error| shortened(&format!("{error:#}")).to_owned()),
    }
}
