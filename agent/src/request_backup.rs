//! `agent request-backup`: makes a `Backup` and waits for its end. Runs in the Jobs of the schedule, which so
//! succeed exactly if the backup did.

use std::{env, time::Duration};

use anyhow::{Context, bail};
use kube::{Api, Client, Config, api::PostParams};
use proto::{
    api::backup::{Backup, BackupPhase, BackupSpec, BackupStatus},
    pod::{ENV_BACKUP, ENV_BACKUP_METHOD, ENV_DATABASE, ENV_POD_NAMESPACE},
    wire::snapshot::BackupMethod,
};
use tokio::time::{Instant, sleep, timeout};

use crate::chain::Chain;

/// Between two looks: a backup takes minutes at least.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For one call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The API server may be away for this long, as during its upgrade, before the Job gives up on it.
const PATIENCE: Duration = Duration::from_mins(10);
/// The operator fails a Backup long before; this only ends a Job whose operator is gone.
const LONGEST: Duration = Duration::from_hours(25);
/// The API server's answer about an object that exists already.
const EXISTS: u16 = 409;

/// Makes it and waits.
pub(crate) async fn run() -> anyhow::Result<()> {
    let variable = |name| env::var(name).with_context(|| format!("environment variable {name} is not set"));
    let name = variable(ENV_BACKUP)?;
    let spec =
        BackupSpec { database: variable(ENV_DATABASE)?, method: method(env::var(ENV_BACKUP_METHOD).ok())? };
    let config = Config::incluster().context("finding the API server")?;
    let client = Client::try_from(config).context("preparing to talk to the API server")?;
    let backups: Api<Backup> = Api::namespaced(client, &variable(ENV_POD_NAMESPACE)?);
    let waiting = Box::pin(wait(&backups, &name, &spec));
    match timeout(LONGEST, waiting).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("Backup {name} did not end within {} hours", LONGEST.as_secs() / 3_600),
    }
}

fn method(named: Option<String>) -> anyhow::Result<BackupMethod> {
    let Some(named) = named else { return Ok(BackupMethod::default()) };
    serde_json::from_value(named.as_str().into()).with_context(|| format!("{ENV_BACKUP_METHOD} is {named:?}"))
}

async fn wait(backups: &Api<Backup>, name: &str, spec: &BackupSpec) -> anyhow::Result<()> {
    let mut answered = Instant::now();
    let mut asked = false;
    loop {
        let step = match asked {
            false => ask(backups, name, spec).await.map(|()| None),
            true => look(backups, name).await,
        };
        match step {
            Ok(Some(status)) if status.phase.is_over() => return judge(name, &status),
            Ok(_) => {
                asked = true;
                answered = Instant::now();
            }
            Err(error) if answered.elapsed() > PATIENCE => return Err(error),
            Err(error) => tracing::warn!(error = %Chain(error.as_ref()), "trying again"),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A pod that was made again for the same Job finds what the first one made.
async fn ask(backups: &Api<Backup>, name: &str, spec: &BackupSpec) -> anyhow::Result<()> {
    let (backup, database) = (Backup::new(name, spec.clone()), &spec.database);
    let params = PostParams::default();
    match timeout(CALL_TIMEOUT, backups.create(&params, &backup))
        .await
        .context("the API server does not answer")?
    {
        Ok(_) => tracing::info!(name, database, "asked for a backup"),
        Err(kube::Error::Api(status)) if status.code == EXISTS => {
            tracing::info!(name, database, "waiting for the backup that was asked for before");
        }
        Err(error) => return Err(error).with_context(|| format!("making Backup {name}")),
    }
    Ok(())
}

async fn look(backups: &Api<Backup>, name: &str) -> anyhow::Result<Option<BackupStatus>> {
    let call = timeout(CALL_TIMEOUT, backups.get_opt(name));
    let backup = call.await.context("the API server does not answer")?;
    match backup.with_context(|| format!("reading Backup {name}"))? {
        Some(backup) => Ok(backup.status),
        // Deleted by somebody: what they did not want is not waited for.
        None => Ok(Some(BackupStatus {
            phase: BackupPhase::Failed,
            error: Some("it was deleted before it ended".to_owned()),
            ..BackupStatus::default()
        })),
    }
}

fn judge(name: &str, status: &BackupStatus) -> anyhow::Result<()> {
    match status.phase {
        BackupPhase::Completed => {
            let size = status.size.as_deref().unwrap_or("size not known");
            let took = status.duration.as_deref().unwrap_or("time not known");
            tracing::info!(name, size, took, "completed");
            Ok(())
        }
        _ => bail!(
            "Backup {name} failed: {}",
            status.error.as_deref().unwrap_or("the operator does not say why")
        ),
    }
}

#[cfg(test)]
mod tests;
