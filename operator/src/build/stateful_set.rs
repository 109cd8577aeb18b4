//! The StatefulSet: names, volumes and pods of the members. It never restarts a pod by itself (`OnDelete`), and
//! it starts and ends them without waiting for each other: order is the agents' and the plan's business.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
            StatefulSetUpdateStrategy,
        },
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::LabelSelector},
};
use kube::api::ObjectMeta;
use proto::{identity::Ordinal, pod::ANNOTATION_SYSTEM_ID};

use super::{Shape, pod::pod_template};
use crate::cluster::Cluster;

/// Name of the volume claim template.
pub(crate) const VOLUME_DATA: &str = "data";

/// Name of a member's volume claim, as the StatefulSet controller makes it.
pub(crate) fn volume_name(cluster: &Cluster, ordinal: Ordinal) -> String {
    format!("{VOLUME_DATA}-{}", cluster.pod(ordinal))
}

/// The StatefulSet.
pub(super) fn stateful_set(cluster: &Cluster, shape: &Shape) -> StatefulSet {
    let mut metadata = cluster.owned(cluster.name().to_owned());
    metadata.annotations = shape
        .system_identifier
        .map(|identifier| BTreeMap::from([(ANNOTATION_SYSTEM_ID.to_owned(), identifier.to_string())]));
    StatefulSet { metadata, spec: Some(spec(cluster, shape)), ..StatefulSet::default() }
}

fn spec(cluster: &Cluster, shape: &Shape) -> StatefulSetSpec {
    let retain = || Some("Retain".to_owned());
    StatefulSetSpec {
        replicas: Some(i32::from(shape.pods)),
        service_name: Some(cluster.child("headless")),
        selector: LabelSelector { match_labels: Some(cluster.pod_selector()), ..LabelSelector::default() },
        pod_management_policy: Some("Parallel".to_owned()),
        update_strategy: Some(StatefulSetUpdateStrategy {
            type_: Some("OnDelete".to_owned()),
            ..StatefulSetUpdateStrategy::default()
        }),
        // Volumes are removed by the operator alone, by name, UID and policy.
        persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: retain(),
            when_scaled: retain(),
        }),
        revision_history_limit: Some(2), // ControllerRevisions are never rolled back here
        template: pod_template(cluster, shape),
        volume_claim_templates: Some(vec![claim_template(cluster, shape)]),
        ..StatefulSetSpec::default()
    }
}

fn claim_template(cluster: &Cluster, shape: &Shape) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME_DATA.to_owned()),
            labels: Some(cluster.labels()),
            ..ObjectMeta::default()
        },
        spec: Some(claim(cluster, &shape.template_size)),
        ..PersistentVolumeClaim::default()
    }
}

/// What a volume for the data has to be.
pub(super) fn claim(cluster: &Cluster, size: &str) -> PersistentVolumeClaimSpec {
    PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name: cluster.spec.storage_class.clone(),
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))])),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    }
}
