//! `agent standby`: a volume that was made of a VolumeSnapshot becomes that of a new standby of the same Database. Runs in
//! a Job before the instance has a pod, so that nobody ever sees the data of another instance on it.
//!
//! The log is replayed from the archive to its end, and the server is never promoted: what is missing then, the new
//! instance gets from the primary. That is less than copying everything from there.

use anyhow::Context;
use proto::{identity::Epoch, pod};
use tokio::signal::unix::{SignalKind, signal};

use super::{Purpose, RestoreArguments, file_name, progress::Progress, rebuild, snapshot};
use crate::supervisor::durable::{self, HaState};

/// Makes it, unless an earlier attempt has.
pub(crate) async fn run(arguments: RestoreArguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("installing the handler of SIGTERM")?;
    tokio::select! {
        made = Box::pin(make(&arguments)) => made,
        _ = terminate.recv() => anyhow::bail!("making the standby was interrupted; the next attempt goes on with it"),
    }
}

async fn make(arguments: &RestoreArguments) -> anyhow::Result<()> {
    let layout = &arguments.layout;
    let config = arguments.read().await?;
    let name = config.snapshot.as_deref().context("the configuration names no VolumeSnapshot's backup")?;
    if snapshot::is_restored(layout, name).context("looking at the volume")? {
        tracing::info!("nothing is to be done: an earlier attempt came to its end");
        return Ok(());
    }
    let progress = Progress::new(layout.run_dir.join(file_name(pod::RESTORE_PROGRESS_FILE)));
    Box::pin(rebuild(arguments, &config, &progress, Purpose::Follow)).await?;
    // A name of its own: nobody may take it for the data that was copied (docs/ha.md section 2).
    durable::swap_in(layout, &HaState::of_new_data(Epoch::default())).context("putting the data in place")
}
