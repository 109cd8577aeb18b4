//! The backup before the end: of a Database with `deletionPolicy: DeleteAfterBackup`, before anything of it goes.
//!
//! It is a `Backup` like others and ends by the same limits. If it fails, everything stays as it is, instances
//! included, until a person has decided: nothing here ever goes on without it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use proto::api::{
    backup::{Backup, BackupPhase, BackupStatus},
    database::{Database, DeletionPolicy},
};

use super::{context::Context, finalize::FinalizeError, record::Identity};
use crate::{backup::ask_for, cluster::Cluster, deadline::within};

/// Finalizer of a deletion that takes the children first.
const CHILDREN_FIRST: &str = "foregroundDeletion";

/// How it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LastBackup {
    /// Not wanted, or there is nothing that could be lost.
    None,
    /// To be asked for.
    Missing,
    /// Not over; how far it is.
    Underway(String),
    /// Complete since.
    Complete(Timestamp),
    /// Nothing is deleted; why, and how to go on.
    Failed(String),
}

/// Looks, and asks for it.
pub(crate) async fn last_backup(
    context: &Context,
    database: &Database,
    cluster: &Cluster,
    identity: &Identity,
) -> Result<LastBackup, FinalizeError> {
    if cluster.spec.deletion_policy != DeletionPolicy::DeleteAfterBackup || *identity == Identity::Unborn {
        return Ok(LastBackup::None);
    }
    let api: Api<Backup> = Api::namespaced(context.client.clone(), cluster.namespace());
    let name = cluster.last_backup();
    let backup = within(api.get_opt(&name)).await.map_err(FinalizeError::LastBackup)?;
    let stands = judge(database, cluster, backup.as_ref());
    if stands == LastBackup::Missing {
        ask_for(&api, database, cluster, &name).await.map_err(FinalizeError::LastBackup)?;
    }
    Ok(stands)
}

fn judge(database: &Database, cluster: &Cluster, backup: Option<&Backup>) -> LastBackup {
    let status = backup.map(|backup| backup.status.clone().unwrap_or_default());
    match status {
        Some(status) if status.phase == BackupPhase::Completed => {
            LastBackup::Complete(status.completed_at.map_or(Timestamp::UNIX_EPOCH, |Time(at)| at))
        }
        _ if database.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == CHILDREN_FIRST) => {
            let why = "the Database was deleted with --cascade=foreground, which ends the instances first";
            LastBackup::Failed(stopped(cluster, why))
        }
        Some(BackupStatus { phase: BackupPhase::Failed, error, .. }) => {
            let why = error.unwrap_or_else(|| "it does not say why".to_owned());
            LastBackup::Failed(stopped(cluster, &why))
        }
        Some(status) => LastBackup::Underway(describe(cluster, &status)),
        None => LastBackup::Missing,
    }
}

fn stopped(cluster: &Cluster, why: &str) -> String {
    let (backup, name) = (cluster.last_backup(), cluster.name());
    format!(
        "the last backup {backup} failed, so nothing is deleted: {why}. To try again: kubectl delete backup {backup}. \
         To go on without it and keep the volumes: kubectl patch db {name} --type merge -p \
         '{{\"spec\":{{\"deletionPolicy\":\"Retain\"}}}}'; with Delete instead of Retain the data is gone"
    )
}

fn describe(cluster: &Cluster, status: &BackupStatus) -> String {
    let message = status.message.as_deref().unwrap_or("waits for its turn");
    let progress = status.progress.as_ref().map(|progress| format!(", {progress}")).unwrap_or_default();
    let rest = status.remaining.as_ref().map(|rest| format!(", {rest} left")).unwrap_or_default();
    format!("the last backup {}: {message}{progress}{rest}", cluster.last_backup())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn stands(status: Option<Value>, finalizer: &str) -> LastBackup {
        let backup = json!({"destination": "s3://b/f"});
        let mut stored =
            fixtures::stored_database(&json!({"backup": backup, "deletionPolicy": "DeleteAfterBackup"}));
        stored["metadata"]["finalizers"] = json!([finalizer]);
        let database = serde_json::from_value(stored).unwrap();
        let backup = status.map(|status| {
            serde_json::from_value(json!({
                "apiVersion": "db.example.com/v1alpha1", "kind": "Backup", "metadata": {"name": "x"},
                "spec": {"database": "orders-db"}, "status": status,
            }))
            .unwrap()
        });
        judge(&database, &Cluster::parse(&database).unwrap(), backup.as_ref())
    }

    #[test]
    fn only_a_complete_backup_lets_anything_go() {
        let ours = "db.example.com/operator";
        assert_eq!(stands(None, ours), LastBackup::Missing);
        let running =
            json!({"phase": "Running", "message": "copies", "progress": "45%", "remaining": "2m0s"});
        let told = "the last backup orders-db-last-4bd1: copies, 45%, 2m0s left".to_owned();
        assert_eq!(stands(Some(running), ours), LastBackup::Underway(told));
        let complete = json!({"phase": "Completed", "completedAt": "1970-01-01T00:00:07Z"});
        let at = Timestamp::from_second(7).unwrap();
        assert_eq!(stands(Some(complete.clone()), ours), LastBackup::Complete(at));
        assert_eq!(stands(Some(complete), CHILDREN_FIRST), LastBackup::Complete(at));
        for (status, finalizer, why) in [
            (Some(json!({"phase": "Failed", "error": "the store says 403"})), ours, "the store says 403"),
            (None, CHILDREN_FIRST, "--cascade=foreground"),
        ] {
            let LastBackup::Failed(message) = stands(status, finalizer) else { panic!("{why}") };
            for part in [why, "nothing is deleted", "kubectl delete backup orders-db-last-4bd1", "Retain"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}
