//! How new instances get their data: of a VolumeSnapshot if there is one that is new enough, and otherwise, or if that
//! comes to nothing, from the primary. Pure, but for the carrying out at the end.
//!
//! A volume that was just made of a VolumeSnapshot holds another instance's data. It carries a mark, and no instance gets a
//! pod on it before a Job has made a standby's data of that and the mark is off.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use proto::identity::Ordinal;
use serde_json::json;

use super::{
    apply::{ApplyError, Writer, delete_exactly},
    context::News,
    observe::LiveNewcomers,
};
use crate::{
    build::{self, finished, is_for, standby_name, unfinished_copy, volume_name},
    cluster::Cluster,
    controller::plan::Plan,
    deadline::within,
    volume_snapshot::VolumeSnapshot,
};

/// Older ones are left alone: the log since then would take longer to replay than the data to copy. More than a day, so
/// that a daily one is always new enough.
const NEW_ENOUGH: SignedDuration = SignedDuration::from_hours(36);

/// A volume that is not there after this long does not come (its class may not know the snapshot), or comes later than a copy
/// of the data would.
const VOLUME_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// Label of a Job's pods, as Kubernetes puts it there.
const LABEL_JOB: &str = "batch.kubernetes.io/job-name";

/// What is to be done for an instance that has no pod yet. Instances that begin with an empty volume are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Newcomer {
    /// Its volume is to be made of this VolumeSnapshot, of this backup.
    Begin { snapshot: String, backup: String },
    /// The Job is to make a standby's data of it, or does.
    Making { backup: String, volume_uid: String, job: Option<String> },
    /// The Job of an earlier volume is in the way.
    Stale { job: String },
    /// The volume does not come: the Job is to end.
    Hopeless,
    /// The Job is done: the mark comes off, and the Job goes.
    Made { job: String },
    /// Nothing comes of it: the volume goes.
    Failed { volume_uid: String, why: String },
    /// The volume is on its way out.
    Leaving,
}

/// By instance.
pub(crate) type Newcomers = BTreeMap<Ordinal, Newcomer>;

/// Decides for all instances from `first` on that are wanted.
pub(crate) fn newcomers(
    cluster: &Cluster,
    first: Ordinal,
    volumes: &[PersistentVolumeClaim],
    live: &LiveNewcomers,
    now: Timestamp,
) -> Newcomers {
    let wanted = (first.0..cluster.spec.replicas).map(Ordinal);
    wanted.filter_map(|ordinal| Some((ordinal, newcomer(cluster, ordinal, volumes, live, now)?))).collect()
}

fn newcomer(
    cluster: &Cluster,
    ordinal: Ordinal,
    volumes: &[PersistentVolumeClaim],
    live: &LiveNewcomers,
    now: Timestamp,
) -> Option<Newcomer> {
    let name = volume_name(cluster, ordinal);
    let job = live.jobs.iter().find(|job| job.name_any() == standby_name(cluster, ordinal));
    match volumes.iter().find(|volume| volume.name_any() == name) {
        Some(volume) => copied(cluster, volume, unfinished_copy(volume)?, job, now),
        // It was tried a moment ago.
        None if job.is_some_and(|job| has(job, "Failed").is_some()) => None,
        None => best(cluster, ordinal, &live.snapshots, now),
    }
}

/// What becomes of a volume that carries the mark.
fn copied(
    cluster: &Cluster,
    volume: &PersistentVolumeClaim,
    backup: &str,
    job: Option<&Job>,
    now: Timestamp,
) -> Option<Newcomer> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(Newcomer::Leaving);
    }
    let volume_uid = volume.uid()?;
    let uid = |job: &Job| job.uid().unwrap_or_default();
    Some(match job {
        Some(job) if !is_for(job, volume) => Newcomer::Stale { job: uid(job) },
        Some(job) if has(job, "Complete").is_some() => Newcomer::Made { job: uid(job) },
        Some(job) if has(job, "Failed").is_some() => {
            let why = has(job, "Failed").unwrap_or_default();
            Newcomer::Failed { volume_uid, why: format!("Job {}: {why}", job.name_any()) }
        }
        Some(_) if is_overdue(volume, now) => Newcomer::Hopeless,
        None if cluster.spec.backup.is_none() => {
            Newcomer::Failed { volume_uid, why: "spec.backup no longer says where the archive is".to_owned() }
        }
        job => Newcomer::Making { backup: backup.to_owned(), volume_uid, job: job.map(uid) },
    })
}

/// Whether it should have been made by now.
fn is_overdue(volume: &PersistentVolumeClaim, now: Timestamp) -> bool {
    let pending = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
    let made = volume.creation_timestamp().map_or(now, |made| made.0);
    pending && now.duration_since(made) > VOLUME_LIMIT
}

/// What a Job's condition says, if it is met.
fn has(job: &Job, condition: &str) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let met = conditions.iter().find(|told| told.type_ == condition && told.status == "True")?;
    Some(met.message.clone().or_else(|| met.reason.clone()).unwrap_or_default())
}

/// The newest that can be used. Not one of the volume of this very instance: what it held when it was one before must
/// not come back under its name.
fn best(
    cluster: &Cluster,
    ordinal: Ordinal,
    snapshots: &[VolumeSnapshot],
    now: Timestamp,
) -> Option<Newcomer> {
    let own = volume_name(cluster, ordinal);
    let usable = |snapshot: &&VolumeSnapshot| {
        let taken = snapshot.taken_at();
        snapshot.is_ready()
            && snapshot.metadata.deletion_timestamp.is_none()
            && snapshot.is_of_repository(cluster)
            && snapshot.source() != Some(own.as_str())
            && snapshot.size().is_none_or(|size| size <= cluster.spec.storage_size)
            && taken.is_some_and(|taken| now.duration_since(taken) <= NEW_ENOUGH)
    };
    let newest = snapshots.iter().filter(usable).max_by_key(|snapshot| snapshot.taken_at())?;
    let (backup, uid) = newest.backup()?;
    (uid == cluster.spec.uid)
        .then(|| Newcomer::Begin { snapshot: newest.name_any(), backup: backup.to_owned() })
}

/// For people, while it is under way.
pub(crate) fn progress(cluster: &Cluster, newcomers: &Newcomers) -> Option<String> {
    let told = newcomers.iter().map(|(ordinal, newcomer)| {
        let pod = cluster.pod(*ordinal);
        match newcomer {
            Newcomer::Begin { snapshot, .. } => format!("{pod} is made of VolumeSnapshot {snapshot}"),
            Newcomer::Making { backup, .. } => {
                format!("{pod} is made of the VolumeSnapshot of {backup}: its log is replayed")
            }
            Newcomer::Stale { .. } | Newcomer::Made { .. } => format!("{pod} is made of a VolumeSnapshot"),
            Newcomer::Hopeless | Newcomer::Failed { .. } | Newcomer::Leaving => {
                format!("{pod} could not be made of a VolumeSnapshot and copies its data from the primary")
            }
        }
    });
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Takes the next step for each (client). Returns what is to be told.
pub(super) async fn receive(
    writer: &Writer<'_>,
    cluster: &Cluster,
    plan: &Plan,
) -> Result<Vec<News>, ApplyError> {
    let mut told = Vec::new();
    for (ordinal, newcomer) in &plan.newcomers {
        let volume = volume_name(cluster, *ordinal);
        match newcomer {
            Newcomer::Begin { snapshot, backup } => {
                writer.ensure(&build::standby_volume(cluster, *ordinal, snapshot, backup), None).await?;
            }
            Newcomer::Making { backup, volume_uid, job: None } => {
                begin(writer, cluster, plan, *ordinal, (backup, volume_uid)).await?;
            }
            Newcomer::Making { job: Some(_), .. } => {}
            Newcomer::Hopeless => {
                let at_once = json!({"spec": {"activeDeadlineSeconds": 1}});
                let (name, params) = (standby_name(cluster, *ordinal), PatchParams::default());
                writer.patch::<Job>(&name, &params, &Patch::Merge(&at_once)).await?;
            }
            Newcomer::Leaving => delete_pods(writer, cluster, *ordinal).await?,
            Newcomer::Stale { job } => delete_job(writer, cluster, *ordinal, job).await?,
            Newcomer::Made { job } => {
                let params = PatchParams::default();
                writer.patch::<PersistentVolumeClaim>(&volume, &params, &Patch::Merge(&finished())).await?;
                delete_job(writer, cluster, *ordinal, job).await?;
            }
            Newcomer::Failed { volume_uid, why } => {
                let (context, namespace) = (writer.context, writer.namespace);
                delete_exactly::<PersistentVolumeClaim>(context, namespace, &volume, volume_uid).await?;
                let message = format!(
                    "{} could not be made of a VolumeSnapshot and copies its data from the primary: {why}",
                    cluster.pod(*ordinal)
                );
                told.push(News::warning("SnapshotNotUsed", message));
            }
        }
    }
    Ok(told)
}

async fn begin(
    writer: &Writer<'_>,
    cluster: &Cluster,
    plan: &Plan,
    ordinal: Ordinal,
    (backup, volume_uid): (&str, &str),
) -> Result<(), ApplyError> {
    let Some(backups) = &cluster.spec.backup else { return Ok(()) };
    let shape = &plan.shape;
    let map = build::standby_config_map(cluster, ordinal, backups, backup, shape.system_identifier);
    writer.ensure::<ConfigMap>(&map, None).await?;
    writer.ensure(&build::standby_job(cluster, ordinal, volume_uid, &shape.agent_image), None).await
}

/// The pods of a Job that failed, which itself stays for a while: the volume does not go as long as they are there.
async fn delete_pods(writer: &Writer<'_>, cluster: &Cluster, ordinal: Ordinal) -> Result<(), ApplyError> {
    let (context, namespace) = (writer.context, writer.namespace);
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let job = standby_name(cluster, ordinal);
    let mine = ListParams::default().labels(&format!("{LABEL_JOB}={job}"));
    let failed = |source| ApplyError::Write { kind: "Pod".to_owned(), name: job.clone(), source };
    for pod in within(api.list(&mine)).await.map_err(failed)? {
        let uid = pod.uid().unwrap_or_default();
        delete_exactly::<Pod>(context, namespace, &pod.name_any(), &uid).await?;
    }
    Ok(())
}

/// With its pods, which the API would leave behind.
async fn delete_job(
    writer: &Writer<'_>,
    cluster: &Cluster,
    ordinal: Ordinal,
    uid: &str,
) -> Result<(), ApplyError> {
    let api: Api<Job> = Api::namespaced(writer.context.client.clone(), writer.namespace);
    let name = standby_name(cluster, ordinal);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match within(api.delete(&name, &params)).await {
        Err(error) if !error.is_conflict() && !error.is_not_found() => {
            Err(ApplyError::Write { kind: "Job".to_owned(), name, source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
