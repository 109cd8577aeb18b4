//! What a new instance begins with if there is a VolumeSnapshot that is new enough: a volume that is made of it, and a Job
//! that makes a standby's data of what it brings. Until the Job is done the volume carries a mark, and as long as it does
//! the instance gets no pod: the volume holds another one's data.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::{ConfigMap, Container, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec},
};
use kube::ResourceExt;
use proto::{
    api::valid::backup::ValidBackup, identity::Ordinal, pod::RESTORE_CONTAINER, postgres::SystemIdentifier,
};

use super::{
    pod::volumes,
    restoring_pod,
    stateful_set::{claim, volume_name},
};
use crate::{cluster::Cluster, volume_snapshot::data_source};

/// Annotation on a volume claim: the backup whose VolumeSnapshot it was made of, as long as no standby's data has been
/// made of that.
const ANNOTATION_UNFINISHED: &str = "db.example.com/unfinished-copy-of";
/// Annotation on the Job: UID of the volume claim that it is for.
const ANNOTATION_VOLUME: &str = "db.example.com/volume-uid";
/// One that has not come to its end after this long is given up, and the instance copies everything from the primary.
const LONGEST_SECONDS: i64 = 6 * 3_600;
/// Attempts after the first one, which go on where it was interrupted.
const MORE_ATTEMPTS: i32 = 2;
/// A Job that failed is remembered as long as this, so that it is not tried again at once: by then the instance has copied
/// its data.
const KEPT_SECONDS: i32 = 3_600;

/// Name of the Job and of its ConfigMap.
pub(crate) fn standby_name(cluster: &Cluster, ordinal: Ordinal) -> String {
    cluster.child(&format!("standby-{}", ordinal.0))
}

/// The backup whose data a volume holds as they were copied.
pub(crate) fn unfinished_copy(volume: &PersistentVolumeClaim) -> Option<&str> {
    volume.annotations().get(ANNOTATION_UNFINISHED).map(String::as_str)
}

/// Takes the mark off.
pub(crate) fn finished() -> serde_json::Value {
    serde_json::json!({"metadata": {"annotations": {ANNOTATION_UNFINISHED: null}}})
}

/// Whether the Job is for this volume, and not for an earlier one of its name.
pub(crate) fn is_for(job: &Job, volume: &PersistentVolumeClaim) -> bool {
    let of = job.annotations().get(ANNOTATION_VOLUME);
    of.is_some() && of == volume.metadata.uid.as_ref()
}

/// The volume, as the StatefulSet would make it but for the mark and what it is made of.
pub(crate) fn standby_volume(
    cluster: &Cluster,
    ordinal: Ordinal,
    snapshot: &str,
    backup: &str,
) -> PersistentVolumeClaim {
    let mut metadata = cluster.kept(volume_name(cluster, ordinal));
    metadata.annotations = Some(BTreeMap::from([(ANNOTATION_UNFINISHED.to_owned(), backup.to_owned())]));
    let claim = claim(cluster, &cluster.spec.storage_quantity);
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec { data_source: Some(data_source(snapshot)), ..claim }),
        ..PersistentVolumeClaim::default()
    }
}

/// What the Job is to make of what: everything that the archive has.
pub(crate) fn standby_config_map(
    cluster: &Cluster,
    ordinal: Ordinal,
    backups: &ValidBackup,
    backup: &str,
    system_identifier: Option<SystemIdentifier>,
) -> ConfigMap {
    let name = standby_name(cluster, ordinal);
    restoring_pod::config_map(cluster, name, backups, system_identifier, Some(backup.to_owned()))
}

/// The Job for a volume.
pub(crate) fn standby_job(cluster: &Cluster, ordinal: Ordinal, volume_uid: &str, agent_image: &str) -> Job {
    let mut metadata = cluster.owned(standby_name(cluster, ordinal));
    metadata.annotations = Some(BTreeMap::from([(ANNOTATION_VOLUME.to_owned(), volume_uid.to_owned())]));
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(MORE_ATTEMPTS),
            pod_failure_policy: Some(restoring_pod::undisturbed()),
            active_deadline_seconds: Some(LONGEST_SECONDS),
            ttl_seconds_after_finished: Some(KEPT_SECONDS),
            template: pod(cluster, ordinal, agent_image),
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// It works on the volume of the instance, so it goes where that may run.
fn pod(cluster: &Cluster, ordinal: Ordinal, agent_image: &str) -> PodTemplateSpec {
    let container = Container {
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..restoring_pod::container(cluster, RESTORE_CONTAINER, "standby")
    };
    let (map, claim) = (standby_name(cluster, ordinal), volume_name(cluster, ordinal));
    restoring_pod::pod(cluster, agent_image, container, volumes::of_standby_pod(cluster, map, claim))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_new_instance_of_a_snapshot_is_built_as_reviewed() {
        let cluster = fixtures::cluster_with(&json!({"backup": {
            "destination": "s3://my-backups/orders-db", "credentials": {"secretName": "s3-keys"},
        }}));
        let volume = standby_volume(&cluster, Ordinal(3), "orders-db-nightly", "nightly");
        assert_eq!(unfinished_copy(&volume), Some("nightly"));
        insta::assert_yaml_snapshot!("standby_volume", volume);
        let backups = cluster.spec.backup.as_ref().unwrap();
        let map = standby_config_map(&cluster, Ordinal(3), backups, "nightly", Some(SystemIdentifier(7)));
        insta::assert_yaml_snapshot!("standby_config_map", map);
        insta::assert_yaml_snapshot!("standby_job", standby_job(&cluster, Ordinal(3), "0a1b", "agent:1"));
    }

    #[test]
    fn a_job_is_of_one_volume() {
        let cluster = fixtures::cluster();
        let job = standby_job(&cluster, Ordinal(3), "0a1b", "agent:1");
        let mut volume = standby_volume(&cluster, Ordinal(3), "orders-db-nightly", "nightly");
        assert!(!is_for(&job, &volume) && !is_for(&Job::default(), &volume));
        volume.metadata.uid = Some("0a1b".to_owned());
        assert!(is_for(&job, &volume));
        volume.metadata.uid = Some("0a1c".to_owned());
        assert!(!is_for(&job, &volume));
    }
}
