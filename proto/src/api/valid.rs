//! A Database parsed once: what comes out cannot be wrong, so that building children cannot fail.

pub mod backup;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};

use self::backup::{InvalidBackup, ValidBackup, ValidRestore};
use super::{
    database::{Database, DatabaseSpec, DeletionPolicy, Resources},
    quantity::{Bytes, InvalidBytes},
    reserved::reserved,
    version::{InvalidVersion, Version},
};
use crate::{
    ha::profile::Profile,
    wire::config::{Durability, IO_TIMEOUT},
};

/// Default of `spec.failover.syncTimeout`: longer than the restart of a standby's container, shorter than the
/// patience of most clients.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `spec.failover.maxLagBytes`: one segment of WAL, which a healthy standby never falls behind.
const MAX_LAG_BYTES: u64 = 16 << 20;
/// Default of `spec.minSyncReplicas`: losing one node loses nothing.
const MIN_SYNC_REPLICAS: u8 = 1;

/// A Database that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidDatabase {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// 1 to 9.
    pub replicas: u8,
    /// Complete version.
    pub version: Version,
    /// Image to run.
    pub image: String,
    /// Size of each volume.
    pub storage_size: Bytes,
    /// Size of each volume as the user wrote it.
    pub storage_quantity: String,
    /// StorageClass; `None` for the cluster's default.
    pub storage_class: Option<String>,
    /// Of the PostgreSQL container.
    pub resources: Option<ResourceRequirements>,
    /// What an acknowledged commit means.
    pub durability: Durability,
    /// k: at least 1; less than `replicas` unless there is one instance only.
    pub min_sync_replicas: u8,
    /// Lease and fence timing.
    pub profile: Profile,
    /// `Async` only.
    pub max_lag_bytes: u64,
    /// `Preferred` only.
    pub sync_timeout: Duration,
    /// How long the primary's volume may hang.
    pub io_timeout: Duration,
    /// Settings, `shared_preload_libraries` included.
    pub parameters: BTreeMap<String, String>,
    /// The user's lines of pg_hba.conf.
    pub hba: Vec<String>,
    /// Database to create.
    pub app_database: String,
    /// Backups, if any.
    pub backup: Option<ValidBackup>,
    /// What the first instance begins with, if not with nothing.
    pub restore: Option<ValidRestore>,
    /// What happens to the volumes.
    pub deletion_policy: DeletionPolicy,
    /// As in a pod.
    pub affinity: Option<Affinity>,
    /// As in a pod.
    pub tolerations: Vec<Toleration>,
    /// As in a pod.
    pub topology_spread: Vec<TopologySpreadConstraint>,
    /// Nothing is to be changed.
    pub paused: bool,
}

/// Why a Database cannot be built. The CEL rules refuse all of this on `kubectl apply`; an object that was
/// stored before a rule existed still may hold it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabase {
    /// Impossible on objects that an API server returned.
    #[error("metadata.{0} is missing: only an object read from the API server can be built")]
    Metadata(&'static str),
    /// Out of 1 to 9.
    #[error("spec.replicas is {0}: use 1 to 9")]
    Replicas(i32),
    /// Not below replicas.
    #[error(
        "spec.minSyncReplicas is {0} but there are {1} standbys: raise spec.replicas or lower spec.minSyncReplicas"
    )]
    MinSyncReplicas(i32, u8),
    /// Not a version that can be run.
    #[error("spec.version cannot be used")]
    Version(#[source] InvalidVersion),
    /// Not a size.
    #[error("spec.storage.size cannot be used")]
    Size(#[source] InvalidBytes),
    /// Not a duration.
    #[error("spec.failover.{0} {1:?} is not a duration: write one such as 10s")]
    Timeout(&'static str, String),
    /// Below zero.
    #[error("spec.failover.maxLagBytes is {0}: use 0 or more")]
    MaxLagBytes(i64),
    /// A setting that is not the user's.
    #[error("spec.postgresql.parameters: {0} {1}")]
    Reserved(String, &'static str),
    /// A last backup that goes nowhere.
    #[error("spec.deletionPolicy DeleteAfterBackup needs spec.backup: add it, or use Retain or Delete")]
    LastBackup,
    /// Where, when or for how long.
    #[error("backups cannot be configured")]
    Backup(#[source] InvalidBackup),
}

impl ValidDatabase {
    /// Checks everything that children are built from.
    pub fn parse(database: &Database) -> Result<Self, InvalidDatabase> {
        let (meta, spec) = (&database.metadata, &database.spec);
        let required = |value: &Option<String>, field| value.clone().ok_or(InvalidDatabase::Metadata(field));
        let replicas = instances(spec.replicas)?;
        let version: Version = spec.version.parse().map_err(InvalidDatabase::Version)?;
        let bootstrap = spec.bootstrap.clone().unwrap_or_default();
        let restore = bootstrap.restore.as_ref().map(ValidRestore::parse).transpose();
        let backup = spec.backup.as_ref().map(|backup| ValidBackup::parse(backup, version.major()));
        Ok(Self {
            name: required(&meta.name, "name")?,
            namespace: required(&meta.namespace, "namespace")?,
            uid: required(&meta.uid, "uid")?,
            generation: meta.generation.ok_or(InvalidDatabase::Metadata("generation"))?,
            replicas,
            version,
            image: spec.image.clone().unwrap_or_else(|| version.image()),
            storage_size: spec.storage.size.parse().map_err(InvalidDatabase::Size)?,
            storage_quantity: spec.storage.size.clone(),
            storage_class: spec.storage.storage_class_name.clone(),
            resources: spec.resources.clone().map(requirements),
            durability: spec.durability,
            min_sync_replicas: min_sync_replicas(spec.min_sync_replicas, replicas)?,
            profile: spec.failover.profile,
            max_lag_bytes: max_lag_bytes(spec.failover.max_lag_bytes)?,
            sync_timeout: timeout("syncTimeout", spec.failover.sync_timeout.as_deref(), SYNC_TIMEOUT)?,
            io_timeout: timeout("ioTimeout", spec.failover.io_timeout.as_deref(), IO_TIMEOUT)?,
            parameters: parameters(spec)?,
            hba: spec.postgresql.hba.clone(),
            app_database: bootstrap.initdb.database,
            backup: backup.transpose().map_err(InvalidDatabase::Backup)?,
            restore: restore.map_err(InvalidDatabase::Backup)?,
            deletion_policy: deletion_policy(spec)?,
            affinity: spec.affinity.clone(),
            tolerations: spec.tolerations.clone(),
            topology_spread: spec.topology_spread.clone(),
            paused: spec.paused,
        })
    }
}

fn instances(replicas: i32) -> Result<u8, InvalidDatabase> {
    let parsed = u8::try_from(replicas).ok().filter(|replicas| (1..=9).contains(replicas));
    parsed.ok_or(InvalidDatabase::Replicas(replicas))
}

fn min_sync_replicas(wanted: Option<i32>, replicas: u8) -> Result<u8, InvalidDatabase> {
    let Some(wanted) = wanted else { return Ok(MIN_SYNC_REPLICAS) };
    let standbys = replicas - 1;
    let parsed = u8::try_from(wanted).ok().filter(|wanted| (1..=standbys).contains(wanted));
    parsed.ok_or(InvalidDatabase::MinSyncReplicas(wanted, standbys))
}

fn max_lag_bytes(wanted: Option<i64>) -> Result<u64, InvalidDatabase> {
    let Some(wanted) = wanted else { return Ok(MAX_LAG_BYTES) };
    u64::try_from(wanted).map_err(|_| InvalidDatabase::MaxLagBytes(wanted))
}

fn timeout(
    field: &'static str,
    wanted: Option<&str>,
    default: Duration,
) -> Result<Duration, InvalidDatabase> {
    let Some(wanted) = wanted else { return Ok(default) };
    let parsed = wanted.parse::<kube::core::Duration>().ok().filter(|parsed| !parsed.is_negative());
    parsed.map(Duration::from).ok_or_else(|| InvalidDatabase::Timeout(field, wanted.to_owned()))
}

fn deletion_policy(spec: &DatabaseSpec) -> Result<DeletionPolicy, InvalidDatabase> {
    match (spec.deletion_policy, &spec.backup) {
        (DeletionPolicy::DeleteAfterBackup, None) => Err(InvalidDatabase::LastBackup),
        (policy, _) => Ok(policy),
    }
}

fn parameters(spec: &DatabaseSpec) -> Result<BTreeMap<String, String>, InvalidDatabase> {
    let mut parameters = spec.postgresql.parameters.clone();
    if let Some((name, group)) = parameters.keys().find_map(|name| Some((name, reserved(name)?))) {
        return Err(InvalidDatabase::Reserved(name.clone(), group.instead));
    }
    let libraries = &spec.postgresql.shared_preload_libraries;
    if !libraries.is_empty() {
        parameters.insert("shared_preload_libraries".to_owned(), libraries.join(","));
    }
    Ok(parameters)
}

fn requirements(resources: Resources) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(resources.requests),
        limits: Some(resources.limits),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    fn database(spec: Value) -> Database {
        Database {
            metadata: ObjectMeta {
                name: Some("orders-db".into()),
                namespace: Some("prod".into()),
                uid: Some("4bd1".into()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: serde_json::from_value(spec).unwrap(),
            status: None,
        }
    }

    fn parse(changes: &Value) -> Result<ValidDatabase, InvalidDatabase> {
        let mut spec = json!({"version": "16.3", "replicas": 3, "storage": {"size": "50Gi"}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ValidDatabase::parse(&database(spec))
    }

    #[test]
    fn the_smallest_spec_has_good_defaults() {
        let valid =
            ValidDatabase::parse(&database(json!({"version": "16", "storage": {"size": "1Gi"}}))).unwrap();
        assert_eq!(
            (valid.replicas, valid.durability, valid.min_sync_replicas),
            (1, Durability::Preferred, 1)
        );
        assert_eq!((valid.sync_timeout, valid.max_lag_bytes), (Duration::from_secs(10), 16 << 20));
        assert_eq!(valid.io_timeout, Duration::from_secs(6));
        assert_eq!((valid.app_database.as_str(), valid.deletion_policy), ("app", DeletionPolicy::Retain));
        assert_eq!(valid.image, "docker.io/library/postgres:16.15");
    }

    #[test]
    fn libraries_become_a_parameter() {
        let valid = parse(&json!({"postgresql": {
            "parameters": {"work_mem": "64MB"},
            "sharedPreloadLibraries": ["pg_stat_statements", "auto_explain"]
        }}));
        let parameters = valid.unwrap().parameters;
        assert_eq!(parameters["shared_preload_libraries"], "pg_stat_statements,auto_explain");
        assert_eq!(parameters["work_mem"], "64MB");
    }

    #[test]
    fn what_the_rules_missed_is_refused() {
        for (changes, part) in [
            (json!({"replicas": 0}), "spec.replicas is 0"),
            (json!({"minSyncReplicas": 3}), "spec.minSyncReplicas is 3 but there are 2"),
            (json!({"version": "13"}), "spec.version"),
            (json!({"storage": {"size": "huge"}}), "spec.storage.size"),
            (json!({"failover": {"syncTimeout": "-1s"}}), "spec.failover.syncTimeout"),
            (json!({"failover": {"ioTimeout": "6"}}), "spec.failover.ioTimeout"),
            (json!({"failover": {"maxLagBytes": -1}}), "spec.failover.maxLagBytes"),
            (json!({"deletionPolicy": "DeleteAfterBackup"}), "needs spec.backup"),
            (json!({"postgresql": {"parameters": {"port": "1"}}}), "port is fixed"),
        ] {
            let error = parse(&changes).unwrap_err().to_string();
            assert!(error.contains(part), "{changes}: {error}");
        }
    }
}
