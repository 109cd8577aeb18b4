//! What a Database that begins from backups has beyond others: a ConfigMap that says what to restore.
//!
//! The source is looked up once. From then on this ConfigMap is the record of it, so that a source that is
//! changed or deleted later changes nothing here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use proto::{pod::RESTORE_KEY, wire::backup::RestoreConfig};

use crate::cluster::Cluster;

/// Annotation on the ConfigMap: name of the Secret that opens the source's store.
const ANNOTATION_CREDENTIALS: &str = "db.example.com/credentials";

/// What to restore, and the Secret that opens its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestoreShape {
    pub(crate) config: RestoreConfig,
    pub(crate) credentials: Option<String>,
}

/// Name of the ConfigMap.
pub(crate) fn restore_name(cluster: &Cluster) -> String {
    cluster.child("restore")
}

/// The ConfigMap.
pub(super) fn restore_map(cluster: &Cluster, restore: &RestoreShape) -> ConfigMap {
    let mut metadata = cluster.owned(restore_name(cluster));
    let credentials = restore.credentials.clone();
    metadata.annotations =
        credentials.map(|secret| BTreeMap::from([(ANNOTATION_CREDENTIALS.to_owned(), secret)]));
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
    })
}
