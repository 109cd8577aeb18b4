//! What the operator observed. Never more than that, and never read back as input.

#![allow(unreachable_pub)] // KubeSchema repeats each struct inside a function, with its `pub`

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Bytes;

/// Condition: a primary accepts writes.
pub const AVAILABLE: &str = "Available";
/// Condition: something is on its way to what the spec asks for.
pub const PROGRESSING: &str = "Progressing";
/// Condition: fewer instances work than the spec asks for, or something needs a person.
pub const DEGRADED: &str = "Degraded";
/// Condition: an acknowledged commit survives the loss of the primary, as the spec asks for.
pub const DURABLE: &str = "Durable";
/// Condition: nobody may take over at the moment; the reason says why and what to do.
pub const FAILOVER_BLOCKED: &str = "FailoverBlocked";

/// Condition: the write-ahead log reaches the store as it is written.
pub const CONTINUOUS_ARCHIVING: &str = "ContinuousArchiving";
/// Condition: there is a backup, and what is archived since makes every later point in time restorable.
pub const RESTORABLE: &str = "Restorable";
/// Condition: the last restore drill proved that what is stored restores.
pub const RESTORE_PROVEN: &str = "RestoreProven";

/// What was observed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// Generation of the spec that the rest of the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// One word for people, derived from the conditions.
    #[serde(default)]
    pub phase: Phase,

    /// Instances that serve, of those wanted, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Instances that serve: the primary, and standbys that stream.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Instances that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Pod that accepts writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,

    /// Version that the primary runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// How far the slowest standby is behind, in coarse steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,

    /// Timeline on which the primary writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,

    /// Term of leadership: grows with every take-over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,

    /// Identity of the data, given by initdb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,

    /// End of the newest complete backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_time: Option<Time>,

    /// First point in time that can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest_restorable_time: Option<Time>,

    /// Last point in time that can be restored, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_restorable_time: Option<Time>,

    /// End of the last restore drill that proved a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_proven_restore_time: Option<Time>,

    /// The last restore drill that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_drill: Option<RestoreDrill>,

    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Each instance as its agent describes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub instances: Vec<Instance>,

    /// Available, Progressing, Degraded, Durable, FailoverBlocked; with backups ContinuousArchiving and Restorable,
    /// with restore drills RestoreProven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How a restore drill ended.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreDrill {
    /// Name of its Job.
    pub job: String,

    /// Outcome.
    #[serde(default)]
    pub result: DrillResult,

    /// What was restored and checked, or why it failed.
    #[serde(default)]
    pub message: String,

    /// Name of the backup in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,

    /// Last transaction that was replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_to: Option<Time>,

    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,

    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

/// Outcome of a restore drill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DrillResult {
    /// The data was restored and every check passed.
    Proven,
    /// It was not, for the reason in `message`.
    #[default]
    Failed,
}

/// One word for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// No primary yet: the first instance is being made.
    #[default]
    Pending,
    /// All instances serve.
    Running,
    /// A primary accepts writes, but not all instances serve.
    Degraded,
    /// Nobody accepts writes: an instance is taking over.
    FailingOver,
    /// Instances restart one after another, for new settings or a new image.
    Updating,
    /// Instances are added or leave.
    Scaling,
    /// The operator leaves everything as it is, as `spec.paused` asks.
    Paused,
    /// The spec cannot be carried out; the condition Progressing says why.
    Invalid,
    /// Deleted, children are being removed.
    Deleting,
}

/// One instance as its agent describes it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Name of the pod.
    pub name: String,

    /// What it is.
    #[serde(default)]
    pub role: InstanceRole,

    /// Whether it serves: accepts writes, or streams and serves reads.
    #[serde(default)]
    pub ready: bool,

    /// Node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// Timeline of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,

    /// How far it is behind the primary, in coarse steps. Exact figures are on its HTTP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,

    /// What it is busy with, or why it does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What an instance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum InstanceRole {
    /// Accepts writes.
    Primary,
    /// Follows the primary.
    Replica,
    /// Neither: starting, fenced, cloning or unreachable.
    #[default]
    None,
}

/// A lag in steps of powers of two from 1 MiB, so that the status of a busy cluster does not change by the
/// second. Rounded up: the status never claims less lag than was observed.
pub fn coarse_lag(lag: Bytes) -> String {
    const STEP: u64 = 1 << 20;
    match lag.0 {
        0 => "0".to_owned(),
        bytes => Bytes(bytes.max(STEP).checked_next_power_of_two().unwrap_or(u64::MAX)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_rounded_up_to_a_step() {
        for (bytes, text) in
            [(0, "0"), (1, "1 MiB"), (1 << 20, "1 MiB"), ((1 << 20) + 1, "2 MiB"), (5 << 30, "8 GiB")]
        {
            assert_eq!(coarse_lag(Bytes(bytes)), text);
        }
    }
}
