//! One reconcile of one Backup: observe → plan → act → status.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::DeserializeGuard,
    runtime::controller::Action,
};
use proto::{
    api::{
        backup::{Backup, BackupPhase, BackupStatus},
        database::{Database, DeletionPolicy},
    },
    pod::LABEL_DATABASE,
};
use serde_json::json;

use super::{
    ask::ask,
    describe::{describe, rounded},
    plan::{Answer, Facts, Sight, Step, plan},
    scene::{Scene, SceneError},
    snapshots,
};
use crate::{
    chain::chain,
    cluster::Cluster,
    controller::{Context, News},
    deadline::{CallError, within},
};

/// Owner of the status in server-side apply.
const STATUS_MANAGER: &str = "matriarch-operator/status";
/// Owner of what else is set on a Backup.
const OWNER_MANAGER: &str = "matriarch-operator/backups";
/// Next look at a Backup under way: what agents say does not come by watch.
const POLL: std::time::Duration = std::time::Duration::from_secs(4);

/// A reconcile that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// Reading.
    #[error("could not read what a Backup needs")]
    Read(#[source] CallError),
    /// The instances.
    #[error("could not look at the instances")]
    Scene(#[source] SceneError),
    /// Writing.
    #[error("could not write the Backup")]
    Write(#[source] CallError),
}

/// Called by the controller for each change and each requeue.
pub(super) async fn reconcile(
    guard: Arc<DeserializeGuard<Backup>>,
    context: Arc<Context>,
) -> Result<Action, BackupError> {
    // What cannot be read cannot be carried out; the API server's schema lets nobody write it.
    let Ok(cached) = &guard.0 else { return Ok(Action::await_change()) };
    if cached.status.as_ref().is_some_and(|status| status.phase.is_over()) {
        return Ok(Action::await_change());
    }
    let action = Box::pin(step(&context, cached)).await?;
    context.succeeded(&key(guard.as_ref()));
    Ok(action)
}

/// Called by the controller when [`reconcile`] failed.
#[allow(clippy::needless_pass_by_value)] // the controller's signature
pub(super) fn on_error(
    guard: Arc<DeserializeGuard<Backup>>,
    error: &BackupError,
    context: Arc<Context>,
) -> Action {
    let pause = context.backoff(&key(guard.as_ref()));
    tracing::warn!(backup = key(guard.as_ref()), error = %chain(error), ?pause, "reconcile failed");
    Action::requeue(pause)
}

fn key(object: &impl Resource) -> String {
    format!("backup {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

async fn step(context: &Context, cached: &Backup) -> Result<Action, BackupError> {
    let namespace = cached.namespace().unwrap_or_default();
    let backups: Api<Backup> = Api::namespaced(context.client.clone(), &namespace);
    // Read anew: a decision on an old status would begin an attempt twice.
    let all = within(backups.list(&ListParams::default())).await.map_err(BackupError::Read)?.items;
    let Some(backup) = all.iter().find(|backup| backup.uid() == cached.uid()) else {
        return Ok(Action::await_change());
    };
    let status = backup.status.clone().unwrap_or_default();
    let observed = Box::pin(observe(context, backup)).await?;
    Box::pin(adopt(&backups, backup, &observed)).await?;
    let facts = observed.facts(backup, &status, ahead(backup, &all));
    let step = plan(&facts);
    let described = describe(&step, &status, observed.now);
    Box::pin(write(context, &backups, backup, &described)).await?;
    if let Ok((cluster, scene)) = &observed.cluster
        && let Some(trouble) =
            Box::pin(ask(context, cluster, scene, (&step, backup.spec.method), observed.now)).await
    {
        let told = BackupStatus { message: Some(trouble), ..described };
        Box::pin(write(context, &backups, backup, &told)).await?;
    }
    Ok(match step {
        Step::Nothing | Step::Complete(_) | Step::Fail(_) => Action::await_change(),
        _ => Action::requeue(POLL),
    })
}

/// What was read around a Backup.
struct Observed {
    now: Timestamp,
    database: Option<Database>,
    /// The Database and its instances, if it takes backups.
    cluster: Result<(Cluster, Scene), String>,
    answer: Answer,
    snapshot: Option<Sight>,
}

impl Observed {
    fn facts<'a>(&self, backup: &'a Backup, status: &'a BackupStatus, ahead: Option<String>) -> Facts<'a> {
        Facts {
            now: self.now,
            created: backup.creation_timestamp().map_or(self.now, |time| time.0),
            uid: backup.metadata.uid.as_deref().unwrap_or_default(),
            status,
            refusal: self.cluster.as_ref().err().cloned(),
            ahead,
            candidates: self.cluster.as_ref().map(|(_, scene)| scene.candidates()).unwrap_or_default(),
            answer: self.answer.clone(),
            snapshot: self.snapshot.clone(),
        }
    }
}

async fn observe(context: &Context, backup: &Backup) -> Result<Observed, BackupError> {
    let now = Timestamp::now();
    let namespace = backup.namespace().unwrap_or_default();
    let api: Api<Database> = Api::namespaced(context.client.clone(), &namespace);
    let database = within(api.get_opt(&backup.spec.database)).await.map_err(BackupError::Read)?;
    let cluster = match takes_backup(backup, database.as_ref()) {
        Ok(cluster) => {
            let scene = Box::pin(Scene::look(context, &cluster, now)).await.map_err(BackupError::Scene)?;
            Ok((cluster, scene))
        }
        Err(refusal) => Err(refusal),
    };
    let (answer, snapshot) = match &cluster {
        Ok((cluster, scene)) => {
            let snapshot = Box::pin(snapshots::look(context, cluster, backup)).await;
            let answer = Box::pin(answer(context, cluster, scene, backup, now)).await;
            (answer, snapshot.map_err(BackupError::Read)?)
        }
        Err(_) => (Answer::NotAsked, None),
    };
    Ok(Observed { now, database, cluster, answer, snapshot })
}

/// The Database, or why it does not take this backup.
fn takes_backup(backup: &Backup, database: Option<&Database>) -> Result<Cluster, String> {
    let name = &backup.spec.database;
    let database = database.ok_or_else(|| format!("there is no Database {name} in this namespace"))?;
    let cluster = Cluster::parse(database).map_err(|error| chain(&error))?;
    if database.metadata.deletion_timestamp.is_some() && !outlasts(backup, &cluster) {
        return Err(format!("Database {name} is being deleted"));
    }
    match &cluster.spec.backup {
        None => Err(format!("Database {name} has no spec.backup, which says where backups go")),
        Some(backup) if !backup.enabled => Err(format!("Database {name} has spec.backup.enabled: false")),
        Some(_) => Ok(cluster),
    }
}

/// Whether it goes on although the Database is being deleted: the last backup, and one that runs before that, since
/// the instance would not begin another meanwhile.
fn outlasts(backup: &Backup, cluster: &Cluster) -> bool {
    let awaited = cluster.spec.deletion_policy == DeletionPolicy::DeleteAfterBackup;
    backup.name_any() == cluster.last_backup() || awaited && phase(backup) == BackupPhase::Running
}

async fn answer(
    context: &Context,
    cluster: &Cluster,
    scene: &Scene,
    backup: &Backup,
    now: Timestamp,
) -> Answer {
    let Some(status) = backup.status.as_ref().filter(|status| status.phase == BackupPhase::Running) else {
        return Answer::NotAsked;
    };
    let pod = status.instance.as_deref().unwrap_or_default();
    let asked = cluster.ordinal_of(pod).zip(status.backup_id.as_ref()).zip(scene.target(cluster, now));
    let Some(((ordinal, id), target)) = asked else { return Answer::NotAsked };
    match context.agents.backup(target, scene.address(ordinal), id).await {
        Ok(Some(state)) => Answer::State(Box::new(state)),
        Ok(None) => Answer::Unknown,
        Err(error) => Answer::Silent(format!("{pod}: {}", chain(&error))),
    }
}

/// The Backup of the same Database whose turn it is before this one's: one that runs, else the oldest.
fn ahead(this: &Backup, all: &[Backup]) -> Option<String> {
    let rank = |backup: &Backup| {
        let runs = phase(backup) == BackupPhase::Running;
        (!runs, backup.creation_timestamp().map(|time| time.0), backup.name_any())
    };
    let mine = rank(this);
    let others = all.iter().filter(|other| other.spec.database == this.spec.database);
    let first =
        others.filter(|other| !phase(other).is_over() && rank(other) < mine).min_by_key(|other| rank(other));
    first.map(ResourceExt::name_any)
}

fn phase(backup: &Backup) -> BackupPhase {
    backup.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// A Backup goes with its Database, and is found by its label.
async fn adopt(api: &Api<Backup>, backup: &Backup, observed: &Observed) -> Result<(), BackupError> {
    let Some(owner) = observed.database.as_ref().and_then(|database| database.owner_ref(&())) else {
        return Ok(());
    };
    if backup.owner_references().iter().any(|reference| reference.uid == owner.uid) {
        return Ok(());
    }
    let body = json!({
        "apiVersion": Backup::api_version(&()),
        "kind": Backup::kind(&()),
        "metadata": {
            "uid": backup.uid(),
            "labels": {LABEL_DATABASE: backup.spec.database},
            "ownerReferences": [owner],
        },
    });
    let params = PatchParams::apply(OWNER_MANAGER).force();
    within(api.patch(&backup.name_any(), &params, &Patch::Apply(body))).await.map_err(BackupError::Write)?;
    Ok(())
}

/// Writes the status if it changed, and tells how it ended.
async fn write(
    context: &Context,
    api: &Api<Backup>,
    backup: &Backup,
    status: &BackupStatus,
) -> Result<(), BackupError> {
    if backup.status.as_ref() == Some(status) {
        return Ok(());
    }
    let body = json!({
        "apiVersion": Backup::api_version(&()),
        "kind": Backup::kind(&()),
        // A Backup made anew under this name does not get this status.
        "metadata": {"uid": backup.uid()},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let name = backup.name_any();
    within(api.patch_status(&name, &params, &Patch::Apply(body))).await.map_err(BackupError::Write)?;
    context.metrics.wrote("Backup/status");
    if let Some(news) = news(backup, status) {
        tracing::info!(backup = key(backup), reason = news.reason, "{}", news.message);
        context.tell(&backup.object_ref(&()), &news).await;
        if status.phase.is_over() {
            tell_database(context, backup, &news).await;
        }
    }
    if status.phase.is_over() {
        let namespace = backup.namespace().unwrap_or_default();
        let completed = status.phase == BackupPhase::Completed;
        context.metrics.backups.ended(&namespace, &backup.spec.database, completed);
    }
    Ok(())
}

/// People look at the Database, not at each of its Backups.
async fn tell_database(context: &Context, backup: &Backup, news: &News) {
    let owner = backup.owner_references().iter().find(|owner| owner.kind == Database::kind(&()));
    let Some(owner) = owner else { return };
    let object = k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: backup.namespace(),
        uid: Some(owner.uid.clone()),
        ..k8s_openapi::api::core::v1::ObjectReference::default()
    };
    context.tell(&object, news).await;
}

fn news(backup: &Backup, status: &BackupStatus) -> Option<News> {
    let name = backup.name_any();
    let before = backup.status.clone().unwrap_or_default();
    let error = status.error.clone().unwrap_or_default();
    match status.phase {
        BackupPhase::Running if before.phase == BackupPhase::Pending => {
            let instance = status.instance.clone().unwrap_or_default();
            Some(News::normal("BackupStarted", format!("{name}: {instance} takes it")))
        }
        BackupPhase::Pending if before.phase == BackupPhase::Running => {
            Some(News::warning("BackupAttemptFailed", format!("{name}: {error}")))
        }
        BackupPhase::Completed => {
            let took = status.duration.clone().unwrap_or_else(|| rounded(SignedDuration::ZERO));
            let size = status.size.clone().unwrap_or_default();
            let fallback = status.fallback.as_ref().map(|why| format!("; a full one, since {why}"));
            let message = format!("{name}: {size} in {took}{}", fallback.unwrap_or_default());
            Some(News::normal("BackupCompleted", message))
        }
        BackupPhase::Failed => Some(News::warning("BackupFailed", format!("{name}: {error}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn backup(name: &str, second: i64, phase: &str) -> Backup {
        let created = Timestamp::from_second(second).unwrap().to_string();
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Backup",
            "metadata": {"name": name, "namespace": "prod", "creationTimestamp": created},
            "spec": {"database": "orders-db"},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn the_running_one_goes_first_then_the_oldest_and_the_ended_hold_up_nobody() {
        let all = [
            backup("failed", 1, "Failed"),
            backup("old", 2, "Pending"),
            backup("new", 3, "Pending"),
            backup("running", 4, "Running"),
        ];
        assert_eq!(ahead(&all[3], &all), None);
        assert_eq!(ahead(&all[1], &all).as_deref(), Some("running"));
        assert_eq!(ahead(&all[2], &all[..3]).as_deref(), Some("old"));
        assert_eq!(ahead(&all[1], &all[..3]), None);
    }

    #[test]
    fn a_database_without_backups_says_what_is_missing() {
        let asked = backup("asked", 1, "Pending");
        let refusal = |spec: Value| {
            let database = crate::fixtures::database(&spec);
            takes_backup(&asked, Some(&database)).err()
        };
        let store = json!({"destination": "s3://bucket/folder"});
        assert_eq!(refusal(json!({"backup": store})), None);
        assert!(refusal(json!({})).unwrap().contains("has no spec.backup"));
        let off = json!({"backup": {"destination": "s3://bucket/folder", "enabled": false}});
        assert!(refusal(off).unwrap().contains("enabled: false"));
        assert!(takes_backup(&asked, None).unwrap_err().contains("no Database orders-db"));
    }

    #[test]
    fn a_database_that_is_deleted_takes_its_last_backup_only() {
        let takes = |policy: &str, name, phase| {
            let spec = json!({"backup": {"destination": "s3://b/f"}, "deletionPolicy": policy});
            let mut stored = crate::fixtures::stored_database(&spec);
            stored["metadata"]["deletionTimestamp"] = json!("2026-03-01T00:00:00Z");
            takes_backup(&backup(name, 1, phase), Some(&serde_json::from_value(stored).unwrap())).is_ok()
        };
        assert!(takes("DeleteAfterBackup", "orders-db-last-4bd1", "Pending"));
        assert!(!takes("DeleteAfterBackup", "orders-db-last-0001", "Pending"));
        assert!(takes("DeleteAfterBackup", "nightly", "Running"), "the last one waits for it");
        assert!(!takes("DeleteAfterBackup", "nightly", "Pending"));
        assert!(!takes("Retain", "nightly", "Running"));
    }
}
