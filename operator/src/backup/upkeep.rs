//! Upkeep of one Database's repository: looks what is in it, asks for the deletion of what is too old, and for a
//! first backup where there is none. By its own clock: what failed once is asked again, whether or not there is
//! a new backup.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    core::DeserializeGuard,
    runtime::controller::Action,
};
use proto::{
    api::{
        backup::{Backup, BackupPhase, BackupSpec},
        database::Database,
        status::RESTORABLE,
    },
    wire::{
        backup::{Repository, Retention, RetentionReport},
        snapshot::BackupMethod,
    },
};

use super::{
    scene::{Scene, SceneError},
    snapshots,
};
use crate::{
    agents::AgentError,
    chain::chain,
    cluster::Cluster,
    controller::{Context, News},
    deadline::{CallError, within},
};

/// How old what the status says of the repository may be. A wrong bucket shows earlier, by the archive's own
/// word; a look costs the store a list and a few reads.
const LOOK_EVERY: Duration = Duration::from_secs(45);
/// Failed Backups say something for a while.
const FAILED_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Upkeep did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpkeepError {
    /// The instances.
    #[error("could not look at the instances")]
    Scene(#[source] SceneError),
    /// Backups.
    #[error("could not read or change the Backups of the Database")]
    Backups(#[source] CallError),
    /// VolumeSnapshots.
    #[error("could not read or delete the VolumeSnapshots of the Database")]
    Snapshots(#[source] CallError),
}

/// Called by the controller for each change and each requeue.
pub(super) async fn upkeep(
    guard: Arc<DeserializeGuard<Database>>,
    context: Arc<Context>,
) -> Result<Action, UpkeepError> {
    let Ok(database) = &guard.0 else { return Ok(Action::await_change()) };
    let deleted = database.metadata.deletion_timestamp.is_some();
    let cluster = Cluster::parse(database).ok().filter(|cluster| takes_backups(cluster) && !deleted);
    let Some(cluster) = cluster else {
        forget(&context, database);
        return Ok(Action::await_change());
    };
    Box::pin(look_after(&context, database, &cluster)).await?;
    Ok(Action::requeue(LOOK_EVERY))
}

/// Called by the controller when [`upkeep`] failed. What it does is repeated anyway.
#[allow(clippy::needless_pass_by_value)] // the controller's signature
pub(super) fn on_error(
    guard: Arc<DeserializeGuard<Database>>,
    error: &UpkeepError,
    _: Arc<Context>,
) -> Action {
    tracing::warn!(database = guard.name_any(), error = %chain(error), "upkeep of backups failed");
    Action::requeue(LOOK_EVERY)
}

fn takes_backups(cluster: &Cluster) -> bool {
    cluster.spec.backup.as_ref().is_some_and(|backup| backup.enabled)
}

fn forget(context: &Context, database: &Database) {
    let (namespace, name) = (database.namespace().unwrap_or_default(), database.name_any());
    context.repositories.forget(&namespace, &name);
    context.metrics.backups.forget(&namespace, &name);
}

async fn look_after(context: &Context, database: &Database, cluster: &Cluster) -> Result<(), UpkeepError> {
    let now = Timestamp::now();
    let scene = Box::pin(Scene::look(context, cluster, now)).await.map_err(UpkeepError::Scene)?;
    let Some(repository) = Box::pin(look(context, database, cluster, &scene, now)).await else {
        return Ok(());
    };
    let api: Api<Backup> = Api::namespaced(context.client.clone(), cluster.namespace());
    let backups = backups_of(&api, cluster).await?;
    if wants_first(&repository, &backups) {
        Box::pin(ask_for_first(&api, database, cluster)).await?;
    }
    let newest = repository.backups.last().map(|backup| backup.stopped_at);
    if context.repositories.retention_is_due(cluster.namespace(), cluster.name(), newest, now) {
        Box::pin(retain(context, database, cluster, &scene, now)).await;
    }
    Box::pin(prune(&api, &repository, &backups, now)).await?;
    let tidied = snapshots::tidy(context, cluster, &repository, &backups, now);
    Box::pin(tidied).await.map_err(UpkeepError::Snapshots)
}

/// Looks into the repository and remembers what is there. `None` if nobody could be asked, or the store does not
/// answer.
async fn look(
    context: &Context,
    database: &Database,
    cluster: &Cluster,
    scene: &Scene,
    now: Timestamp,
) -> Option<Repository> {
    let target = scene.target(cluster, now)?;
    let member = scene.address(scene.primary()?);
    let look = context.agents.repository(target, member).await.map_err(|error| chain(&error));
    let seen = look.as_ref().ok().cloned();
    context.repositories.enter(cluster.namespace(), cluster.name(), look);
    if let Some(facts) = context.repositories.of(cluster.namespace(), cluster.name()) {
        context.metrics.backups.looked(cluster, &facts, bare_since(database, now));
    }
    seen
}

/// Since when the status says that nothing can be restored.
fn bare_since(database: &Database, now: Timestamp) -> Timestamp {
    let conditions = database.status.iter().flat_map(|status| &status.conditions);
    let mut restorable = conditions.filter(|condition| condition.type_ == RESTORABLE);
    restorable.next().map_or(now, |condition| condition.last_transition_time.0)
}

async fn backups_of(api: &Api<Backup>, cluster: &Cluster) -> Result<Vec<Backup>, UpkeepError> {
    let all = within(api.list(&ListParams::default())).await.map_err(UpkeepError::Backups)?;
    Ok(all.items.into_iter().filter(|backup| backup.spec.database == cluster.name()).collect())
}

/// Before the first backup nothing can be restored, so it does not wait for the schedule. Once one was asked
/// for, by whomever, the schedule and people decide.
fn wants_first(repository: &Repository, backups: &[Backup]) -> bool {
    let in_store = |backup: &Backup| backup.spec.method == BackupMethod::Physical;
    repository.backups.is_empty() && !backups.iter().any(in_store)
}

async fn ask_for_first(api: &Api<Backup>, database: &Database, cluster: &Cluster) -> Result<(), UpkeepError> {
    let name = format!("{}-first", cluster.name());
    ask_for(api, database, cluster, &name).await.map_err(UpkeepError::Backups)
}

/// Makes a Backup; one of this name that is there already will do.
pub(crate) async fn ask_for(
    api: &Api<Backup>,
    database: &Database,
    cluster: &Cluster,
    name: &str,
) -> Result<(), CallError> {
    let spec = BackupSpec { database: cluster.name().to_owned(), method: BackupMethod::Physical };
    let mut backup = Backup::new(name, spec);
    backup.metadata.labels = Some(cluster.labels());
    backup.metadata.owner_references = database.owner_ref(&()).map(|owner| vec![owner]);
    match within(api.create(&PostParams::default(), &backup)).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// A failure is told and the repetition of tomorrow, or of the next backup, is the retry.
async fn retain(context: &Context, database: &Database, cluster: &Cluster, scene: &Scene, now: Timestamp) {
    let asked = scene.target(cluster, now).zip(scene.primary());
    let Some(((target, primary), backup)) = asked.zip(cluster.spec.backup.as_ref()) else { return };
    let request = Retention { days: backup.retention_days, dry_run: false };
    let report = context.agents.retention(target, scene.address(primary), request).await;
    if let Ok(report) = &report {
        tracing::info!(database = cluster.name(), ?report, "retention was applied");
    }
    for news in told(report) {
        tracing::info!(database = cluster.name(), reason = news.reason, "{}", news.message);
        context.tell(&database.object_ref(&()), &news).await;
    }
}

/// What a person would want to know of it. Pure.
fn told(report: Result<RetentionReport, AgentError>) -> Vec<News> {
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            let message =
                format!("old backups could not be deleted: {}; tried again tomorrow", chain(&error));
            return vec![News::warning("RetentionFailed", message)];
        }
    };
    let clocks = report.clocks.map(|clocks| News::warning("ClocksDiffer", clocks));
    let kept = (!report.not_deleted.is_empty()).then(|| {
        let what = report.not_deleted.join(", ");
        let message = format!("the store did not let go of {what}; tried again tomorrow");
        News::warning("RetentionIncomplete", message)
    });
    let gone = [report.backups, report.snapshots].concat();
    let deleted = (kept.is_none() && !gone.is_empty()).then(|| {
        let message =
            format!("deleted {} and {} files of the write-ahead log", gone.join(", "), report.wal_files);
        News::normal("BackupsExpired", message)
    });
    [clocks, kept, deleted].into_iter().flatten().collect()
}

/// A completed Backup goes when what it describes is no longer in the repository, a failed one after a week.
async fn prune(
    api: &Api<Backup>,
    repository: &Repository,
    backups: &[Backup],
    now: Timestamp,
) -> Result<(), UpkeepError> {
    for backup in backups.iter().filter(|backup| is_outlived(backup, repository, now)) {
        let only = Preconditions { uid: backup.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        match within(api.delete(&backup.name_any(), &params)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                return Err(UpkeepError::Backups(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_outlived(backup: &Backup, repository: &Repository, now: Timestamp) -> bool {
    let Some(status) = &backup.status else { return false };
    let age = status.completed_at.as_ref().map(|ended| now.duration_since(ended.0));
    match status.phase {
        // A while after its end, so that a look that began before it does not count.
        BackupPhase::Completed => {
            let mut held = repository.backups.iter().chain(&repository.snapshots);
            let there = held.any(|held| Some(&held.name) == status.backup_id.as_ref());
            !there && age.is_some_and(|age| age > SignedDuration::from_hours(1))
        }
        BackupPhase::Failed => age.is_some_and(|age| age > FAILED_KEPT),
        BackupPhase::Pending | BackupPhase::Running => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backup(phase: &str, id: &str) -> Backup {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Backup",
            "metadata": {"name": "b"}, "spec": {"database": "orders-db"},
            "status": {"phase": phase, "backupId": id, "completedAt": at(0).to_string()},
        }))
        .unwrap()
    }

    fn holding(name: &str) -> Repository {
        Repository {
            path: String::new(),
            backups: vec![fixtures::backup_summary(name, at(0))],
            snapshots: Vec::new(),
            earliest_restorable: None,
            latest_restorable: None,
        }
    }

    #[test]
    fn retention_tells_what_went_what_did_not_and_that_clocks_are_wrong() {
        let reasons = |report: RetentionReport| -> Vec<_> {
            told(Ok(report)).into_iter().map(|news| news.reason).collect()
        };
        let nothing = RetentionReport { wal_files: 7, ..RetentionReport::default() };
        assert!(reasons(nothing.clone()).is_empty());
        let gone = RetentionReport { backups: vec!["b1".to_owned()], ..nothing };
        assert_eq!(reasons(gone.clone()), ["BackupsExpired"]);
        let kept = RetentionReport { not_deleted: vec!["locked".to_owned()], ..gone };
        assert_eq!(reasons(kept.clone()), ["RetentionIncomplete"]);
        let wrong = RetentionReport { clocks: Some("ahead".to_owned()), ..kept };
        assert_eq!(reasons(wrong), ["ClocksDiffer", "RetentionIncomplete"]);
    }

    #[test]
    fn a_backup_goes_with_its_files_and_a_failure_after_a_week() {
        let repository = holding("kept");
        for (phase, id, second, outlived) in [
            ("Completed", "kept", 1_000_000, false),
            ("Completed", "gone", 60, false),
            ("Completed", "gone", 4_000, true),
            ("Failed", "gone", 600_000, false),
            ("Failed", "gone", 700_000, true),
            ("Running", "gone", 700_000, false),
        ] {
            let outcome = is_outlived(&backup(phase, id), &repository, at(second));
            assert_eq!(outcome, outlived, "{phase} {id} at {second}");
        }
    }

    #[test]
    fn a_first_backup_is_asked_for_once() {
        let empty = Repository { backups: Vec::new(), ..holding("x") };
        assert!(wants_first(&empty, &[]));
        assert!(!wants_first(&empty, &[backup("Failed", "x")]));
        let mut snapshot = backup("Completed", "x");
        snapshot.spec.method = BackupMethod::VolumeSnapshot;
        assert!(wants_first(&empty, &[snapshot]), "it is not in the store");
        assert!(!wants_first(&holding("x"), &[]));
    }
}
