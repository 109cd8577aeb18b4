//! `Backup`: one run, asked for by the schedule or by a person.

#![allow(unreachable_pub)] // KubeSchema repeats each struct inside a function, with its `pub`

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_rules as rules;
use crate::wire::{backup::BackupKind, snapshot::BackupMethod};

/// One physical backup of a Database. Create one to take a backup now.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "db.example.com",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    singular = "backup",
    shortname = "dbb",
    namespaced,
    doc = "One physical backup of a Database. Create one to take a backup now.",
    status = "BackupStatus",
    derive = "PartialEq",
    printcolumn(name = "Database", type_ = "string", json_path = ".spec.database"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".status.kind"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Instance", type_ = "string", json_path = ".status.instance"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::backup_is_fixed()
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// Name of a Database of the same namespace.
    #[schemars(length(min = 1, max = 40))]
    pub database: String,

    /// `Physical`: its files are copied into the store. `VolumeSnapshot`: a VolumeSnapshot is taken of the volume of one
    /// instance, which is as fast as the storage, and lost with it.
    #[serde(default)]
    pub method: BackupMethod,
}

/// What was observed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// Where it is.
    #[serde(default)]
    pub phase: BackupPhase,

    /// What is under way, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,

    /// Attempts begun.
    #[serde(default)]
    pub attempts: i32,

    /// Pod that takes the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,

    /// How much of the estimated size was read, in per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,

    /// How long the rest takes at the pace so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<String>,

    /// Name of the backup in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,

    /// Whether it holds everything, or what has changed since its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<BackupKind>,

    /// Name in the repository of the backup that it builds on. A restore needs that one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,

    /// How many backups it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<i32>,

    /// Why it is a full one although an incremental one was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,

    /// Name of the VolumeSnapshot with the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<String>,

    /// When the current attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When the instance was last heard of, to the quarter of a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<Time>,

    /// When the attempt last got further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advanced_at: Option<Time>,

    /// Bytes read from the server so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<i64>,

    /// When the next attempt begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,

    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,

    /// How long the successful attempt took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,

    /// Size of the data, and of what is stored of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,

    /// Bytes of data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<i64>,

    /// Bytes in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,

    /// Timeline of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,

    /// Where replaying the write-ahead log begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin_lsn: Option<String>,

    /// From where on the data is consistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_lsn: Option<String>,
}

/// Where a Backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BackupPhase {
    /// Not begun: another backup runs, or no instance can take it.
    #[default]
    Pending,
    /// An instance takes it.
    Running,
    /// It is complete, and every segment of the write-ahead log that it needs is archived.
    Completed,
    /// It did not come about; `error` says why.
    Failed,
}

impl BackupPhase {
    /// Whether nothing more happens.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}
