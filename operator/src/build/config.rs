//! The ConfigMap from which the agents learn what is wanted of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use proto::{api::valid::backup::ValidBackup, pod::CONFIG_FILE, wire::config::AgentConfig};

use super::Shape;
use crate::{cluster::Cluster, digest::digest};

/// What the server needs to take incremental backups: it notes which blocks change.
const SUMMARIES: [(&str, &str); 2] = [
    ("summarize_wal", "on"),
    // Longer than a month: the default of 10 days would make each backup of a rarer schedule a full one. They are
    // small beside the WAL that they tell of.
    ("wal_summary_keep_time", "35d"),
];

/// Name of the ConfigMap.
pub(crate) fn config_map_name(cluster: &Cluster) -> String {
    cluster.child("config")
}

/// The ConfigMap.
pub(super) fn config_map(cluster: &Cluster, shape: &Shape) -> ConfigMap {
    let config = agent_config(cluster, shape);
    // Plain strings, numbers and lists: serialising them has no way to fail.
    let json = serde_json::to_string_pretty(&config).unwrap_or_default();
    ConfigMap {
        metadata: cluster.owned(config_map_name(cluster)),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), json)])),
        ..ConfigMap::default()
    }
}

fn agent_config(cluster: &Cluster, shape: &Shape) -> AgentConfig {
    let settings = &cluster.spec;
    AgentConfig {
        database_uid: cluster.spec.uid.clone(),
        replicas: cluster.spec.replicas,
        durability: settings.durability,
        min_sync_replicas: settings.min_sync_replicas,
        profile: settings.profile,
        sync_timeout_ms: u64::try_from(settings.sync_timeout.as_millis()).unwrap_or(u64::MAX),
        io_timeout_ms: u64::try_from(settings.io_timeout.as_millis()).unwrap_or(u64::MAX),
        max_lag_bytes: settings.max_lag_bytes,
        system_identifier: shape.system_identifier,
        parameters: parameters(cluster),
        hba: hba(cluster),
        app_database: settings.app_database.clone(),
        volume_bytes: cluster.spec.storage_size.0,
        accept_loss: shape.accept_loss,
        generation: generation(cluster),
        archive: settings
            .backup
            .as_ref()
            .filter(|backup| backup.enabled)
            .map(|backup| backup.store.archive.clone()),
    }
}

/// The user's settings; what they do not say about summaries of the WAL, the backups do.
fn parameters(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut parameters = cluster.spec.parameters.clone();
    if cluster.spec.backup.as_ref().is_some_and(ValidBackup::increments) {
        for (name, value) in SUMMARIES {
            parameters.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    parameters
}

/// The user's rules, or passwords over TLS from anywhere that the network lets in.
fn hba(cluster: &Cluster) -> Vec<String> {
    match cluster.spec.hba.is_empty() {
        true => vec!["hostssl all all all scram-sha-256".to_owned()],
        false => cluster.spec.hba.clone(),
    }
}

/// Digest of what goes into the server's configuration files.
pub(crate) fn generation(cluster: &Cluster) -> String {
    let settings = &cluster.spec;
    digest(&format!("{:?}\n{:?}\n{}", parameters(cluster), settings.hba, settings.storage_size.0))
}
