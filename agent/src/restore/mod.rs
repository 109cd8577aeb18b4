//! `agent restore`: an empty volume becomes a database cluster as it was at some time (docs/backup-repository.md).
//!
//! Runs in an init container of the PostgreSQL image. Everything is built beside PGDATA and swapped in at the end,
//! with the state that the supervisor expects of data that never led; an attempt that was interrupted starts over.
//! It reads the source's repository and writes nothing to it.
//!
//! | file | one idea |
//! |---|---|
//! | [`choose`] | from the target to backup, timeline and WAL: pure |
//! | [`read`] | what the repository holds |
//! | [`unpack`] | pieces, several at once, to one stream |
//! | [`files`] | a tar to files |
//! | [`snapshot`] | the data directory that a VolumeSnapshot brought |
//! | [`assemble`] | one data directory, of one backup or of several that build on each other |
//! | [`fetching`] | WAL for the recovering server |
//! | [`mod@recover`] | the recovering server |
//! | [`progress`] | how far it is |
//! | [`standby`] | `agent standby`: the same, followed and not promoted, for a new instance of the same Database |
//! | [`drill`] | `agent drill`: the same into a volume that is thrown away, to prove that it works |
//! | [`check`] | reads everything that a recovered server holds |

mod assemble;
mod check;
mod choose;
pub(crate) mod drill;
mod fetching;
mod files;
mod progress;
mod read;
mod recover;
mod snapshot;
pub(crate) mod standby;
mod unpack;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use choose::{Plan, Unreachable};
use clap::Args;
use fetching::Fetching;
use progress::Progress;
use proto::{
    identity::Epoch,
    pod::{self, ENV_POD_NAME, pod_ordinal},
    wire::{
        backup::{RestoreConfig, RestorePhase},
        supervisor::Data,
    },
};
use recover::{Purpose, Recovered, Recovery};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    archive::{
        connection::Repository,
        destination::{self, Credentials},
        layout::Root,
        store::Store,
    },
    backup::snapshot::entry::Entry,
    supervisor::{
        Layout,
        durable::{self, HaState},
    },
};

/// Times that a missing file is looked for again.
const HOLE_LOOKS: u32 = 3;
/// Between two looks: an upload takes seconds.
const HOLE_PAUSE: Duration = Duration::from_secs(10);

/// Options of `agent restore`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RestoreArguments {
    /// What to restore, as JSON
    #[arg(long, default_value = pod::RESTORE_FILE)]
    config: PathBuf,
    /// Directory with the credentials of the store
    #[arg(long, default_value = pod::RESTORE_CREDENTIALS_DIR)]
    credentials: PathBuf,
    #[command(flatten)]
    layout: Layout,
}

impl RestoreArguments {
    async fn read(&self) -> anyhow::Result<RestoreConfig> {
        let path = self.config.display();
        let text = tokio::fs::read(&self.config).await.with_context(|| format!("reading {path}"))?;
        serde_json::from_slice(&text).with_context(|| format!("parsing {path}"))
    }
}

/// Restores, unless there is nothing to do.
pub(crate) async fn run(arguments: RestoreArguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("installing the handler of SIGTERM")?;
    let restoring = Box::pin(restore_if_empty(&arguments));
    tokio::select! {
        ended = restoring => ended,
        _ = terminate.recv() => anyhow::bail!("the restore was interrupted; it starts over with the next start"),
    }
}

async fn restore_if_empty(arguments: &RestoreArguments) -> anyhow::Result<()> {
    let layout = &arguments.layout;
    let config = arguments.read().await?;
    if let Some(reason) = nothing_to_do(&config, std::env::var(ENV_POD_NAME).ok().as_deref()) {
        tracing::info!(reason, "nothing is restored");
        return Ok(());
    }
    if is_restored(layout, &config).context("looking at the data volume")? {
        tracing::info!("nothing is restored: there is data");
        return Ok(());
    }
    let progress = Progress::new(layout.run_dir.join(file_name(pod::RESTORE_PROGRESS_FILE)));
    let restored = restore(arguments, &config, &progress).await;
    progress.note(|progress| match &restored {
        Ok(()) => progress.phase = RestorePhase::Completed,
        Err(error) => {
            progress.phase = RestorePhase::Failed;
            progress.error = Some(format!("{error:#}"));
        }
    });
    restored
}

/// Whether there is data that somebody may use.
fn is_restored(layout: &Layout, config: &RestoreConfig) -> anyhow::Result<bool> {
    if let Some(name) = &config.snapshot {
        return Ok(snapshot::is_restored(layout, name)?);
    }
    match durable::recover(layout)? {
        Data::Empty => Ok(false),
        Data::Unusable { reason, .. } => anyhow::bail!("the data volume is not empty: {reason}"),
        Data::Present(_) | Data::Unread => Ok(true),
    }
}

fn nothing_to_do(config: &RestoreConfig, pod: Option<&str>) -> Option<&'static str> {
    if config.completed {
        return Some("it was completed before");
    }
    let other = pod.and_then(pod_ordinal).is_some_and(|ordinal| ordinal.0 != 0);
    other.then_some("this member copies the data of the first one")
}

async fn restore(
    arguments: &RestoreArguments,
    config: &RestoreConfig,
    progress: &Progress,
) -> anyhow::Result<()> {
    let layout = &arguments.layout;
    Box::pin(rebuild(arguments, config, progress, Purpose::Use)).await?;
    durable::swap_in(layout, &HaState::of_new_data(Epoch::default())).context("putting the data in place")
}

/// Builds what the configuration says beside PGDATA.
async fn rebuild(
    arguments: &RestoreArguments,
    config: &RestoreConfig,
    progress: &Progress,
    purpose: Purpose,
) -> anyhow::Result<Recovered> {
    let layout = &arguments.layout;
    progress.note(|progress| progress.phase = RestorePhase::Choosing);
    let credentials = Credentials::read(&arguments.credentials)?;
    let (store, prefix) = destination::open(&config.source, &credentials)?;
    let root = read::root(&store, &prefix, config).await.context("finding the repository")?;
    let snapshot = match &config.snapshot {
        Some(name) => Some(snapshot::entry(&store, &root, name).await?),
        None => None,
    };
    let plan = plan(&store, &root, config, snapshot.as_ref()).await?;
    tracing::info!(
        repository = root.relative(),
        backup = plan.backup.summary.name,
        timeline = %plan.timeline,
        builds_on = plan.chain.len() - 1,
        wal = plan.wal.len(),
        "restoring"
    );
    progress.note(|progress| {
        progress.phase = RestorePhase::Copying;
        progress.backup = Some(plan.backup.summary.name.clone());
        progress.bytes_total = Some(assemble::unpacked(&plan));
    });
    let repository = Repository { store, root };
    let incoming = if let Some(entry) = &snapshot {
        snapshot::take_over(layout, entry, plan.timeline)?
    } else {
        let incoming = durable::clear_incoming(layout)?;
        assemble::assemble(layout, &repository, &plan, &incoming, progress).await?;
        incoming
    };
    let recovered = recover(layout, &incoming, repository, plan, progress, purpose).await?;
    progress.note(|progress| progress.timeline = Some(recovered.timeline));
    Ok(recovered)
}

/// Chooses. A source that is at work sends several files at once, and a later one may be there first: what is missing
/// is looked for again before it counts as a hole.
async fn plan(
    store: &Store,
    root: &Root,
    config: &RestoreConfig,
    snapshot: Option<&Entry>,
) -> anyhow::Result<Plan> {
    let mut looks = 1..=HOLE_LOOKS;
    loop {
        let mut known = read::known(store, root).await.context("reading the repository")?;
        if let Some(entry) = snapshot {
            known.backups = vec![entry.contents()];
        }
        let wanted = config.snapshot.as_deref().or(config.backup.as_deref());
        match (known.plan(&config.target, wanted), looks.next()) {
            (Err(hole @ Unreachable::Hole { .. }), Some(_)) => {
                tracing::warn!(%hole, "looking again");
                sleep(HOLE_PAUSE).await;
            }
            (planned, _) => return Ok(planned?),
        }
    }
}

async fn recover(
    layout: &Layout,
    incoming: &Path,
    repository: Repository,
    plan: Plan,
    progress: &Progress,
    purpose: Purpose,
) -> anyhow::Result<Recovered> {
    progress.note(|progress| progress.phase = RestorePhase::Recovering);
    let wal_socket = layout.run_dir.join("restore.sock");
    let serving = Fetching::new(repository, plan.clone(), purpose, progress.clone());
    let ended = serving.ended();
    let recovery = Recovery { layout, data: incoming, wal_socket: &wal_socket, plan: &plan, purpose, ended };
    tokio::select! {
        served = serving.serve(&wal_socket) => {
            served.with_context(|| format!("handing out WAL on {}", wal_socket.display()))?;
            anyhow::bail!("handing out WAL ended");
        }
        recovered = recovery.run() => recovered.context("recovering"),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
