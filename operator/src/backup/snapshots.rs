//! VolumeSnapshots of Backups (client): looks at them, makes them, and deletes those that are no backup, or none any
//! more.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use proto::{
    api::backup::{Backup, BackupPhase},
    identity::Ordinal,
    wire::{backup::Repository, snapshot::BackupMethod},
};

use super::plan::Sight;
use crate::{
    cluster::Cluster,
    controller::Context,
    deadline::{CallError, within},
    volume_snapshot::{VolumeSnapshot, snapshot_name, snapshots_of, volume_snapshot},
};

/// How old one is at least that is deleted: what the store was seen to hold is older than the list of VolumeSnapshots.
const YOUNG: SignedDuration = SignedDuration::from_hours(1);

fn api(context: &Context, cluster: &Cluster) -> Api<VolumeSnapshot> {
    Api::namespaced(context.client.clone(), cluster.namespace())
}

/// Those of a Database; `None` if the cluster has no VolumeSnapshots at all. A list tells that apart, a read does not.
async fn list(context: &Context, cluster: &Cluster) -> Result<Option<Vec<VolumeSnapshot>>, CallError> {
    let mine = ListParams::default().labels(&snapshots_of(cluster));
    match within(api(context, cluster).list(&mine)).await {
        Ok(list) => Ok(Some(list.items)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What there is of this Backup's; `None` if it is no such Backup.
pub(super) async fn look(
    context: &Context,
    cluster: &Cluster,
    backup: &Backup,
) -> Result<Option<Sight>, CallError> {
    if backup.spec.method != BackupMethod::VolumeSnapshot {
        return Ok(None);
    }
    let Some(all) = list(context, cluster).await? else { return Ok(Some(Sight::NotInstalled)) };
    let id = backup.status.as_ref().and_then(|status| status.backup_id.as_deref());
    let mine = |snapshot: &VolumeSnapshot| id.is_some() && snapshot.backup().map(|(of, _)| of) == id;
    Ok(Some(match all.into_iter().find(mine) {
        Some(found) => Sight::There(Box::new(found)),
        None => Sight::Absent(snapshot_name(cluster, id.unwrap_or_default())),
    }))
}

/// Makes one. That it is there already is as good.
pub(super) async fn take(
    context: &Context,
    cluster: &Cluster,
    member: Ordinal,
    backup: &str,
) -> Result<(), CallError> {
    let snapshot = volume_snapshot(cluster, member, backup);
    match within(api(context, cluster).create(&PostParams::default(), &snapshot)).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes what an attempt left behind that failed, and what retention took out of the repository.
pub(super) async fn tidy(
    context: &Context,
    cluster: &Cluster,
    repository: &Repository,
    backups: &[Backup],
    now: Timestamp,
) -> Result<(), CallError> {
    let all = list(context, cluster).await?.unwrap_or_default();
    let ours = all.iter().filter(|snapshot| snapshot.is_of_repository(cluster));
    for snapshot in ours.filter(|snapshot| is_outlived(snapshot, repository, backups, now)) {
        let only = Preconditions { uid: snapshot.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        tracing::info!(
            database = cluster.name(),
            snapshot = snapshot.name_any(),
            "deleting a VolumeSnapshot"
        );
        match within(api(context, cluster).delete(&snapshot.name_any(), &params)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether it is no backup: the repository does not know it, and no Backup is or was about to make it one.
fn is_outlived(
    snapshot: &VolumeSnapshot,
    repository: &Repository,
    backups: &[Backup],
    now: Timestamp,
) -> bool {
    let Some((id, _)) = snapshot.backup() else { return false };
    let wanted = |backup: &Backup| {
        let status = backup.status.as_ref().filter(|status| status.phase != BackupPhase::Failed);
        status.is_some_and(|status| status.backup_id.as_deref() == Some(id))
    };
    let leaving = snapshot.metadata.deletion_timestamp.is_some();
    let held = repository.snapshots.iter().any(|held| held.name == id);
    !leaving && !held && !backups.iter().any(wanted) && age(&snapshot.metadata, now) > YOUNG
}

fn age(metadata: &ObjectMeta, now: Timestamp) -> SignedDuration {
    metadata.creation_timestamp.as_ref().map_or(SignedDuration::ZERO, |made| now.duration_since(made.0))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;
    use crate::volume_snapshot::tests::observed;

    const ID: &str = "20260301T030000Z-4bd1a2c3-1";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backup(phase: &str, id: &str) -> Backup {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Backup", "metadata": {"name": "b"},
            "spec": {"database": "orders-db", "method": "VolumeSnapshot"},
            "status": {"phase": phase, "backupId": id},
        }))
        .unwrap()
    }

    fn holding(names: &[&str]) -> Repository {
        let position = json!({"timeline": 1, "lsn": "0/0"});
        let held = names.iter().map(|name| {
            json!({
                "name": name, "kind": "Snapshot", "startedAt": at(0), "stoppedAt": at(0), "start": position,
                "stop": position, "sizeBytes": 0, "storedBytes": 0, "serverVersion": 160_003, "pod": "orders-db-1",
                "fromStandby": true,
            })
        });
        serde_json::from_value(json!({"path": "", "backups": [], "snapshots": held.collect::<Vec<_>>()}))
            .unwrap()
    }

    #[test]
    fn a_snapshot_stays_as_long_as_the_store_or_a_backup_knows_it() {
        let mut snapshot = observed(&json!({"readyToUse": true}));
        snapshot.metadata.creation_timestamp = Some(Time(at(0)));
        let goes = |held: &[&str], backups: &[Backup], second| {
            is_outlived(&snapshot, &holding(held), backups, at(second))
        };
        assert!(goes(&[], &[], 4_000), "it expired, or its attempt failed");
        assert!(!goes(&[], &[], 3_000), "what was seen of the store may be older");
        assert!(!goes(&[ID], &[], 4_000));
        assert!(!goes(&[], &[backup("Running", ID)], 4_000));
        assert!(!goes(&[], &[backup("Completed", ID)], 4_000), "it goes with the store's entry first");
        assert!(goes(&[], &[backup("Failed", ID), backup("Running", "another")], 4_000));
        let theirs = VolumeSnapshot { metadata: ObjectMeta::default(), ..snapshot.clone() };
        assert!(!is_outlived(&theirs, &holding(&[]), &[], at(4_000)), "somebody else's");
    }
}
