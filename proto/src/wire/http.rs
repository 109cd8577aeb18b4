//! Bodies of the plain HTTP that every pod serves on [`crate::pod::HTTP_PORT`] (ha.md section 9).
//!
//! Paths, field names and meanings are those that load balancers and monitors written for Patroni expect.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    identity::{DataId, Epoch},
    postgres::{Lsn, SystemIdentifier, Timeline},
};

/// What a member is to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Leads, holds a valid lease, accepts writes.
    Primary,
    /// In recovery, accepting connections.
    Replica,
    /// Neither.
    None,
}

impl Role {
    /// Value of [`crate::pod::LABEL_ROLE`].
    pub const fn label(self) -> &'static str {
        match self {
            Self::Primary => crate::pod::ROLE_PRIMARY,
            Self::Replica => crate::pod::ROLE_REPLICA,
            Self::None => crate::pod::ROLE_NONE,
        }
    }
}

/// What the server process does. The words are Patroni's where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The supervisor does not answer, or has not yet.
    Unknown,
    /// No data yet: initdb or clone to come, or under way.
    Creating,
    /// Not running.
    Stopped,
    /// Recovering, not yet accepting connections.
    Starting,
    /// Accepting connections.
    Running,
    /// A standby that streams from the leader.
    Streaming,
    /// Shutting down.
    Stopping,
}

/// How far a standby is behind the leader.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Bytes of WAL not yet replayed here, measured against the last end of WAL known of the leader.
    pub bytes: u64,
    /// Age of the last replayed commit; zero when nothing is left to replay.
    pub seconds: f64,
}

/// Positions in the write-ahead log, as Patroni's `xlog`: a primary has `location`, a standby the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Xlog {
    /// Primary: current write position, as a number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub location: Option<u64>,
    /// Standby: flushed up to here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub received_location: Option<u64>,
    /// Standby: replayed up to here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replayed_location: Option<u64>,
    /// Standby: commit time of the last replayed transaction.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replayed_timestamp: Option<Timestamp>,
    /// Standby: whether somebody paused replay.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paused: Option<bool>,
}

/// Body of `GET /patroni`, and of `/primary`, `/replica`, `/health` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// What the server process does.
    pub state: State,
    /// What this member is to a client.
    pub role: Role,
    /// As `PG_VERSION_NUM`, such as 160003.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server_version: Option<u32>,
    /// Positions in the write-ahead log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub xlog: Option<Xlog>,
    /// Timeline of the last flushed record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<Timeline>,
    /// Standbys attached to this member.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub replication: Vec<Replication>,
    /// Standby: how far behind the leader.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag: Option<Lag>,
    /// Seconds since 1970 at which the Lease was last read or renewed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dcs_last_seen: Option<u64>,
    /// Identifier of the cluster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub database_system_identifier: Option<SystemIdentifier>,
    /// Whether settings wait for a restart.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub pending_restart: bool,
    /// Who answers.
    pub patroni: Scope,
    /// Term of leadership as last seen in the Lease.
    pub epoch: Epoch,
    /// Name of this member's data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data_id: Option<DataId>,
}

impl Member {
    /// A member that knows nothing of itself yet.
    pub fn unknown(patroni: Scope) -> Self {
        Self {
            state: State::Unknown,
            role: Role::None,
            server_version: None,
            xlog: None,
            timeline: None,
            replication: Vec::new(),
            lag: None,
            dcs_last_seen: None,
            database_system_identifier: None,
            pending_restart: false,
            patroni,
            epoch: Epoch::default(),
            data_id: None,
        }
    }
}

/// Who answers: `GET /patroni`'s `patroni`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Version of the agent.
    pub version: String,
    /// Name of the Database.
    pub scope: String,
    /// Name of the pod.
    pub name: String,
}

/// One attached standby: a row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// Data id of the standby, or the name of a foreign client.
    pub application_name: String,
    /// Address of the standby.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, ...
    pub state: String,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: String,
    /// Flushed by the standby.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flush_lsn: Option<Lsn>,
}

/// Body of `GET /cluster`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// All members that answered within the deadline, and the ones that did not (as `unknown`).
    pub members: Vec<ClusterMember>,
    /// Name of the Database.
    pub scope: String,
}

/// One member in [`Cluster`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// Name of the pod.
    pub name: String,
    /// `leader`, `sync_standby` or `replica`.
    pub role: String,
    /// What the server process does.
    pub state: State,
    /// URL of its `GET /patroni`.
    pub api_url: String,
    /// Name to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// Timeline of the last flushed record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<Timeline>,
    /// Bytes behind the leader.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag: Option<u64>,
}

/// Body of `GET /history`: one line per past switch, as Patroni's five-element lists.
pub type History = Vec<(Timeline, u64, String, Option<String>, Option<String>)>;
