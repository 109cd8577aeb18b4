//! `VolumeSnapshot` of the CSI project, as far as it is used here, and what is written on those that Backups take. Pure.
//!
//! It belongs to nobody: with its Database or its Backup it would be deleted, and with it the data.

#![allow(unreachable_pub)] // the derived code is as public as the derive makes it

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::TypedLocalObjectReference,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use kube::{CustomResource, ResourceExt};
use proto::{api::quantity::Bytes, identity::Ordinal, pod::LABEL_DATABASE};
use serde::{Deserialize, Serialize};

use crate::{build, cluster::Cluster};

/// Its API group.
const GROUP: &str = "snapshot.storage.k8s.io";
/// Label: name of the backup in the repository.
const LABEL_BACKUP: &str = "db.example.com/backup";
/// Label: UID of the Database, since another one may have its name later.
const LABEL_DATABASE_UID: &str = "db.example.com/database-uid";
/// Annotation: `spec.backup.destination` of the repository that has its entry. Another repository does not know it, and
/// says nothing about it.
const ANNOTATION_DESTINATION: &str = "db.example.com/backup-destination";

/// What is to be copied, and by whom.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "snapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeSnapshot",
    namespaced,
    status = "VolumeSnapshotStatus",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSpec {
    /// How; the default of the volume's driver if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    volume_snapshot_class_name: Option<String>,
    source: VolumeSnapshotSource,
}

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    persistent_volume_claim_name: Option<String>,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    /// When the volume was copied: from then on it may change.
    #[serde(default)]
    creation_time: Option<Time>,
    /// Whether volumes can be made of it.
    #[serde(default)]
    ready_to_use: Option<bool>,
    /// Size that these have at least.
    #[serde(default)]
    restore_size: Option<Quantity>,
    #[serde(default)]
    error: Option<VolumeSnapshotError>,
}

/// Why it is not there; tried again by its controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshotError {
    #[serde(default)]
    message: Option<String>,
}

impl VolumeSnapshot {
    /// Whether the volume was copied.
    pub(crate) fn is_taken(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.creation_time.is_some()) || self.is_ready()
    }

    /// Whether volumes can be made of it.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.ready_to_use == Some(true))
    }

    /// When the volume was copied.
    pub(crate) fn taken_at(&self) -> Option<jiff::Timestamp> {
        Some(self.status.as_ref()?.creation_time.as_ref()?.0)
    }

    /// Name of the claim whose volume was copied.
    pub(crate) fn source(&self) -> Option<&str> {
        self.spec.source.persistent_volume_claim_name.as_deref()
    }

    /// Bytes that such volumes have at least.
    pub(crate) fn size(&self) -> Option<Bytes> {
        self.status.as_ref()?.restore_size.as_ref()?.0.parse().ok()
    }

    /// What is wrong, in the words of its controller.
    pub(crate) fn error(&self) -> Option<&str> {
        self.status.as_ref()?.error.as_ref()?.message.as_deref()
    }

    /// Name of the backup that it is the data of, and the UID of the Database, if a Backup took it.
    pub(crate) fn backup(&self) -> Option<(&str, &str)> {
        let label = |name: &str| self.labels().get(name).map(String::as_str);
        Some((label(LABEL_BACKUP)?, label(LABEL_DATABASE_UID)?))
    }

    /// Whether the repository that the Database has now is the one with its entry.
    pub(crate) fn is_of_repository(&self, cluster: &Cluster) -> bool {
        let entered = self.annotations().get(ANNOTATION_DESTINATION).map(String::as_str);
        entered.is_some() && entered == destination(cluster)
    }
}

/// Its name, by that of the backup, which has capitals.
pub(crate) fn snapshot_name(cluster: &Cluster, backup: &str) -> String {
    cluster.child(&backup.to_lowercase())
}

/// Selector of those of a Database.
pub(crate) fn snapshots_of(cluster: &Cluster) -> String {
    format!("{LABEL_DATABASE}={},{LABEL_DATABASE_UID}={}", cluster.name(), cluster.spec.uid)
}

/// A VolumeSnapshot of a member's volume.
pub(crate) fn volume_snapshot(cluster: &Cluster, member: Ordinal, backup: &str) -> VolumeSnapshot {
    let class = cluster.spec.backup.as_ref().and_then(|backup| backup.volume_snapshot_class.clone());
    let source =
        VolumeSnapshotSource { persistent_volume_claim_name: Some(build::volume_name(cluster, member)) };
    let spec = VolumeSnapshotSpec { volume_snapshot_class_name: class, source };
    let mut snapshot = VolumeSnapshot::new(&snapshot_name(cluster, backup), spec);
    snapshot.metadata = cluster.kept(snapshot_name(cluster, backup));
    let labels = [(LABEL_BACKUP, backup), (LABEL_DATABASE_UID, &cluster.spec.uid)];
    let labels: BTreeMap<_, _> =
        labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    snapshot.metadata.labels.get_or_insert_default().extend(labels);
    let entered = destination(cluster).map(|to| (ANNOTATION_DESTINATION.to_owned(), to.to_owned()));
    snapshot.metadata.annotations.get_or_insert_default().extend(entered);
    snapshot
}

fn destination(cluster: &Cluster) -> Option<&str> {
    cluster.spec.backup.as_ref().map(|backup| backup.store.archive.destination.as_str())
}

/// By which a claim says that its volume is made of this.
pub(crate) fn data_source(name: &str) -> TypedLocalObjectReference {
    TypedLocalObjectReference {
        api_group: Some(GROUP.to_owned()),
        kind: "VolumeSnapshot".to_owned(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    const BACKUP: &str = "20260301T030000Z-4bd1a2c3-1";

    /// As the API server has it, with this status.
    pub(crate) fn observed(status: &Value) -> VolumeSnapshot {
        let made = volume_snapshot(&fixtures::cluster(), Ordinal(1), BACKUP);
        let status = serde_json::from_value(status.clone()).unwrap();
        VolumeSnapshot { status: Some(status), ..made }
    }

    #[test]
    fn a_snapshot_is_built_as_reviewed() {
        let cluster = fixtures::cluster_with(&json!({"backup": {
            "destination": "s3://my-backups/orders-db", "volumeSnapshotClassName": "fast",
        }}));
        insta::assert_yaml_snapshot!(volume_snapshot(&cluster, Ordinal(1), BACKUP));
        let made = volume_snapshot(&fixtures::cluster(), Ordinal(1), BACKUP);
        assert_eq!(made.backup(), Some((BACKUP, "4bd1")));
        assert_eq!(made.spec.volume_snapshot_class_name, None, "the default of the driver");
    }

    #[test]
    fn only_the_repository_that_has_its_entry_speaks_of_it() {
        let to = |destination: &str| fixtures::cluster_with(&json!({"backup": {"destination": destination}}));
        let made = volume_snapshot(&to("s3://my-backups/orders-db"), Ordinal(1), BACKUP);
        assert!(made.is_of_repository(&to("s3://my-backups/orders-db")));
        assert!(!made.is_of_repository(&to("s3://other-backups/orders-db")));
        assert!(!made.is_of_repository(&fixtures::cluster_with(&json!({}))), "no backups any more");
    }

    #[test]
    fn its_state_is_read_from_what_the_controller_says() {
        let fresh = VolumeSnapshot { status: None, ..observed(&json!({})) };
        assert!(!fresh.is_taken() && !fresh.is_ready() && fresh.size().is_none());
        let taken = observed(&json!({"creationTime": "2026-03-01T03:00:10Z", "readyToUse": false}));
        assert!(taken.is_taken() && !taken.is_ready());
        let ready = observed(&json!({
            "creationTime": "2026-03-01T03:00:10Z", "readyToUse": true, "restoreSize": "50Gi",
        }));
        assert!(ready.is_taken() && ready.is_ready());
        assert_eq!(ready.size(), Some(Bytes(50 << 30)));
        let failed = observed(&json!({"error": {"time": "2026-03-01T03:00:10Z", "message": "no class"}}));
        assert!(!failed.is_taken() && failed.error() == Some("no class"));
    }

    #[test]
    fn somebody_elses_snapshot_is_no_backup() {
        let mut theirs = observed(&json!({}));
        theirs.metadata.labels = None;
        assert_eq!(theirs.backup(), None);
    }
}
