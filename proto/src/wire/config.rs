//! What the operator tells every agent of a Database, through the `ConfigMap` `<db>-config`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::ArchiveConfig;
use crate::{
    ha::profile::Profile,
    identity::{Epoch, Ordinal},
    postgres::SystemIdentifier,
};

/// Contents of [`crate::pod::CONFIG_FILE`]. The agent reads the mounted file at start and the `ConfigMap`
/// through the API afterwards, because kubelet refreshes mounts only about once a minute.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// UID of the Database, so that an agent never mistakes a namesake's Lease for its own.
    pub database_uid: String,
    /// Wanted number of members, 1 to 9. Members with a higher ordinal leave cleanly.
    pub replicas: u8,
    /// What an acknowledged commit means.
    pub durability: Durability,
    /// k: standbys that must have flushed a commit before it is acknowledged; 1 or more.
    pub min_sync_replicas: u8,
    /// Lease and fence timing.
    pub profile: Profile,
    /// How long `Preferred` waits for missing standbys before it goes on alone, in milliseconds.
    pub sync_timeout_ms: u64,
    /// How long the data volume may leave a write unanswered before its primary gives the lead up, in milliseconds.
    #[serde(default = "io_timeout_ms")]
    pub io_timeout_ms: u64,
    /// `Async` only: how far behind the leader's last known LSN a candidate may be, in bytes.
    pub max_lag_bytes: u64,
    /// System identifier if one was ever recorded: initdb happens only without (W4).
    pub system_identifier: Option<SystemIdentifier>,
    /// Settings for `postgresql.conf` that the user may choose, already checked by name.
    pub parameters: BTreeMap<String, String>,
    /// The user's `pg_hba.conf` lines, placed after the ones that the cluster itself needs.
    pub hba: Vec<String>,
    /// Database to create at initdb, owned by [`crate::pod::APP_ROLE`].
    pub app_database: String,
    /// Size of the data volume in bytes: bounds `max_slot_wal_keep_size`.
    pub volume_bytes: u64,
    /// A human lets a member lead without those that have acknowledged commits and are away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_loss: Option<AcceptLoss>,
    /// Digest of everything that a restart applies; reported back, so that the operator sees who runs what.
    pub generation: String,
    /// Where WAL and backups go; `None` if nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveConfig>,
}

/// Longer than a healthy disk makes one small write wait behind a checkpoint, short enough for an outage of less
/// than ten seconds.
pub const IO_TIMEOUT: Duration = Duration::from_secs(6);

/// What an operator that does not say yet means.
fn io_timeout_ms() -> u64 {
    u64::try_from(IO_TIMEOUT.as_millis()).unwrap_or(u64::MAX)
}

/// A human gives up what only members that are away have ([`crate::pod::ANNOTATION_ACCEPT_DATA_LOSS`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AcceptLoss {
    /// Who may lead without them.
    pub member: Ordinal,
    /// The last epoch that was opened: once any other member has led, this means nothing.
    pub epoch: Epoch,
}

impl AgentConfig {
    /// [`AgentConfig::io_timeout_ms`] as a duration.
    pub fn io_timeout(&self) -> Duration {
        Duration::from_millis(self.io_timeout_ms)
    }

    /// [`AgentConfig::sync_timeout_ms`] as a duration.
    pub fn sync_timeout(&self) -> Duration {
        Duration::from_millis(self.sync_timeout_ms)
    }
}

/// `spec.durability` (ha.md section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// Commits wait for nobody; a failover may lose the last ones.
    Async,
    /// Commits wait for k standbys while there are any; falls back visibly when there are none.
    #[default]
    Preferred,
    /// Commits always wait for k standbys.
    Required,
}
