//! `Database` as people write it and the API server stores it.

#![allow(unreachable_pub)] // KubeSchema repeats each struct inside a function, with its `pub`

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backup_rules,
    repository::{BackupPolicy, Restore},
    rules,
    status::DatabaseStatus,
};
use crate::{ha::profile::Profile, wire::config::Durability};

/// A PostgreSQL cluster that fails over by itself. Applications connect to the Service `<name>-rw`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "db.example.com",
    version = "v1alpha1",
    kind = "Database",
    plural = "databases",
    singular = "database",
    shortname = "db",
    namespaced,
    doc = "A PostgreSQL cluster that fails over by itself. Applications connect to the Service `<name>-rw`.",
    status = "DatabaseStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag"),
    printcolumn(name = "Backup", type_ = "date", json_path = ".status.lastBackupTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::name_fits_children()
)]
#[x_kube(
    validation = rules::sync_replicas_exist(),
    validation = rules::required_has_a_standby(),
    validation = rules::async_waits_for_nobody(),
    validation = rules::sync_timeout_needs_preferred(),
    validation = rules::max_lag_needs_async(),
    validation = rules::bootstrap_is_fixed(),
    validation = rules::last_backup_has_a_store(),
    validation = backup_rules::increments_can_be_taken(),
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Number of instances: one primary, the others standbys that can take over.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,

    /// PostgreSQL version: "16.3", or "16" for the newest minor release of 16 that the operator knows.
    #[schemars(length(max = 8))]
    #[x_kube(
        validation = rules::version_is_supported(),
        validation = rules::version_is_not_lowered(),
        validation = rules::version_skips_no_major(),
        validation = rules::version_keeps_its_major(),
    )]
    pub version: String,

    /// Image to run instead of `docker.io/library/postgres:<version>`. Any image that has PostgreSQL's programs
    /// of this version in its PATH or in the usual directories will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(validation = rules::image_is_a_reference())]
    pub image: Option<String>,

    /// Volume of each instance.
    pub storage: Storage,

    /// CPU and memory of the PostgreSQL container of each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// What an acknowledged commit means. `Preferred`: it is on a standby too, as long as there is one; with none
    /// for `failover.syncTimeout` the primary goes on alone and says so (condition Durable). `Required`: it is on
    /// a standby too, always; commits wait while there is none. `Async`: it is on the primary; a failover may
    /// lose the last commits.
    #[serde(default)]
    pub durability: Durability,

    /// Number of standbys that must have flushed a commit before it is acknowledged. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub min_sync_replicas: Option<i32>,

    /// When and to whom leadership passes.
    #[serde(default)]
    pub failover: Failover,

    /// Settings of the server.
    #[serde(default)]
    pub postgresql: Postgresql,

    /// What happens to the volumes when this resource is deleted. `Retain` keeps them, and applying a Database of
    /// the same name again takes them over; `Delete` deletes them and the data with them; `DeleteAfterBackup` takes a
    /// last backup first, and deletes nothing if that fails.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Backups and the archive of the write-ahead log. Without it there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupPolicy>,

    /// How the data directory is made. Used once; cannot change afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,

    /// Where instances may run, as in a pod. Without it they spread over nodes by preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Taints that instances tolerate, as in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub tolerations: Vec<Toleration>,

    /// How instances spread over nodes and zones, as `topologySpreadConstraints` in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub topology_spread: Vec<TopologySpreadConstraint>,

    /// The operator leaves everything as it is until this is false again. Failover goes on: the instances do it.
    #[serde(default)]
    pub paused: bool,
}

fn one() -> i32 {
    1
}

/// Volume of each instance.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = rules::storage_class_is_fixed())]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, such as 50Gi. It can grow if the StorageClass allows it, and never shrink.
    #[schemars(length(max = 30))]
    #[x_kube(validation = rules::size_is_enough(), validation = rules::size_is_not_lowered())]
    pub size: String,

    /// StorageClass of the volume; without it the cluster's default. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::storage_class_is_a_name())]
    pub storage_class_name: Option<String>,
}

/// CPU and memory, as in a pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = rules::resources_are_known(),
    validation = rules::resources_are_quantities(),
    validation = rules::requests_stay_below_limits(),
    validation = rules::memory_is_enough(),
)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What an instance is guaranteed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub requests: BTreeMap<String, Quantity>,

    /// What an instance may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub limits: BTreeMap<String, Quantity>,
}

/// Amounts by resource, bounded so that rules over them stay cheap to evaluate.
fn amounts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": { "x-kubernetes-int-or-string": true, "maxLength": 30 }
    })
}

/// When and to whom leadership passes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// How long the primary may be silent. `Fast`: another takes over after about 7 s, for quiet networks and
    /// control planes. `Standard`: 11 s. `Tolerant`: 31 s, for slow or busy control planes.
    #[serde(default)]
    pub profile: Profile,

    /// Only with `durability: Async`: how far behind the last known position of the primary an instance may be
    /// that takes over, in bytes. Default 16 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_099_511_627_776_i64))]
    pub max_lag_bytes: Option<i64>,

    /// Only with `durability: Preferred`: how long commits wait for missing standbys before the primary goes on
    /// alone. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = rules::sync_timeout_is_sensible())]
    pub sync_timeout: Option<String>,

    /// How long the volume of the primary may leave a write unanswered before another instance takes over. Default
    /// 6s: longer than a healthy volume stalls behind a checkpoint; raise it for storage that pauses for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = rules::io_timeout_is_sensible())]
    pub io_timeout: Option<String>,
}

/// Settings of the server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Postgresql {
    /// Settings of postgresql.conf by name, such as `work_mem: 64MB`. They are reloaded, or rolled out by a
    /// restart of one instance after another, as each needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "parameters")]
    pub parameters: BTreeMap<String, String>,

    /// Lines of pg_hba.conf, after those that the cluster itself needs. Without any, password logins (SCRAM) over
    /// the network are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 500)))]
    #[x_kube(validation = rules::hba_lines_are_records(), validation = rules::hba_trusts_nobody())]
    pub hba: Vec<String>,

    /// Libraries to load at start, such as pg_stat_statements. The image must contain them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 63)))]
    #[x_kube(validation = rules::libraries_are_names())]
    pub shared_preload_libraries: Vec<String>,
}

/// Settings by name, with the rules over them.
fn parameters(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut rules = vec![
        rules::parameter_names_are_plain(),
        rules::parameter_values_are_one_line(),
        rules::wal_level_replicates(),
        rules::streaming_has_room(),
    ];
    rules.extend(rules::parameters_are_free());
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 200,
        "additionalProperties": { "type": "string", "maxLength": 1000 },
        "x-kubernetes-validations": rules
    })
}

/// What happens to the volumes when the resource is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay, and a Database of the same name takes them over.
    #[default]
    Retain,
    /// They are deleted, and the data with them.
    Delete,
    /// The same, once a last backup is complete.
    DeleteAfterBackup,
}

impl DeletionPolicy {
    /// Whether volumes that nobody uses any more are deleted.
    pub fn deletes(self) -> bool {
        match self {
            Self::Retain => false,
            Self::Delete | Self::DeleteAfterBackup => true,
        }
    }
}

/// How the data directory is made.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// Start empty, by `initdb`.
    #[serde(default)]
    pub initdb: Initdb,

    /// Start with the backups of a Database instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// What a new data directory contains.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initdb {
    /// Database to create, owned by the role `app`. With `restore` nothing is created: it is the database that the
    /// Secret for applications names.
    #[serde(default = "app")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::database_name_is_free())]
    pub database: String,
}

impl Default for Initdb {
    fn default() -> Self {
        Self { database: app() }
    }
}

fn app() -> String {
    "app".to_owned()
}
