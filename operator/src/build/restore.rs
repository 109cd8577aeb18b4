//! What a Database that begins from backups has beyond others: a ConfigMap that says what to restore.
//!
//! The source is looked up once. From then on this ConfigMap is the record of it, so that a source that is
//! changed or deleted later changes nothing here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use kube::ResourceExt;
use proto::{identity::Ordinal, pod::RESTORE_KEY, wire::backup::RestoreConfig};

use super::{
    Shape,
    stateful_set::{claim, volume_name},
};
use crate::{cluster::Cluster, volume_snapshot::data_source};

/// Annotation on the ConfigMap: name of the Secret that opens the source's store.
const ANNOTATION_CREDENTIALS: &str = "db.example.com/credentials";
/// Annotation on the ConfigMap: name of the Secret that decrypts what lies there.
const ANNOTATION_ENCRYPTION: &str = "db.example.com/encryption";
/// Annotation on the ConfigMap: name of the VolumeSnapshot that holds the data.
const ANNOTATION_VOLUME_SNAPSHOT: &str = "db.example.com/volume-snapshot";

/// What to restore, and the Secrets that open its store and decrypt what lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestoreShape {
    pub(crate) config: RestoreConfig,
    pub(crate) credentials: Option<String>,
    pub(crate) encryption: Option<String>,
    /// The VolumeSnapshot that the first instance's volume is made of.
    pub(crate) volume_snapshot: Option<String>,
}

/// Name of the ConfigMap.
pub(crate) fn restore_name(cluster: &Cluster) -> String {
    cluster.child("restore")
}

/// The ConfigMap.
pub(super) fn restore_map(cluster: &Cluster, restore: &RestoreShape) -> ConfigMap {
    let mut metadata = cluster.owned(restore_name(cluster));
    let annotations = [
        (ANNOTATION_CREDENTIALS, &restore.credentials),
        (ANNOTATION_ENCRYPTION, &restore.encryption),
        (ANNOTATION_VOLUME_SNAPSHOT, &restore.volume_snapshot),
    ];
    let annotations =
        annotations.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    metadata.annotations = Some(annotations.collect()).filter(|map: &BTreeMap<_, _>| !map.is_empty());
    // Plain strings, numbers and lists: serialising them has no way to fail.
    let json = serde_json::to_string_pretty(&restore.config).unwrap_or_default();
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([(RESTORE_KEY.to_owned(), json)])),
        ..ConfigMap::default()
    }
}

/// What the ConfigMap says.
pub(crate) fn recorded_restore(map: &ConfigMap) -> Option<RestoreShape> {
    let json = map.data.as_ref()?.get(RESTORE_KEY)?;
    Some(RestoreShape {
        config: serde_json::from_str(json).ok()?,
        credentials: map.annotations().get(ANNOTATION_CREDENTIALS).cloned(),
        encryption: map.annotations().get(ANNOTATION_ENCRYPTION).cloned(),
        volume_snapshot: map.annotations().get(ANNOTATION_VOLUME_SNAPSHOT).cloned(),
    })
}

/// The first instance's volume, if it is made of a VolumeSnapshot: as the StatefulSet would make it, which takes one over
/// that is there already.
pub(super) fn restored_volume(cluster: &Cluster, shape: &Shape) -> Option<PersistentVolumeClaim> {
    let restore = shape.restore.as_ref().filter(|restore| !restore.config.completed)?;
    let snapshot = restore.volume_snapshot.as_ref()?;
    let claim = claim(cluster, &cluster.spec.storage_quantity);
    Some(PersistentVolumeClaim {
        metadata: cluster.kept(volume_name(cluster, Ordinal(0))),
        spec: Some(PersistentVolumeClaimSpec { data_source: Some(data_source(snapshot)), ..claim }),
        ..PersistentVolumeClaim::default()
    })
}
