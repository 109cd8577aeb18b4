//! What members ask each other, and the operator them, over HTTPS with client certificates of the
//! Database's CA on [`crate::pod::PEER_PORT`].
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /question` | [`crate::ha::question::Question`] | [`crate::ha::question::Reply`] |
//! | `GET /status` | | [`Status`] |
//! | `GET /timeline` | | [`super::chronicle::Chronicle`] |
//! | `POST /switchover` | [`Switchover`] | when the leader has released: 202 and [`Accepted`]; 409 if another member leads, 412 if nobody could take over, 503 without an outcome: [`Refused`] |
//! | `POST /switch-wal` | | 204: the primary has begun a new WAL file, so that the one before is archived; 503: [`Refused`] |
//!
//! [`super::backup`] has more.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    backup::{ArchiveStatus, RestoreProgress},
    http::{Lag, Replication, Role, State},
    supervisor::Space,
};
use crate::{
    identity::{DataId, Epoch, Ordinal},
    postgres::{SystemIdentifier, Timeline, WalPosition},
};

/// Path of [`crate::ha::question::Question`].
pub const QUESTION_PATH: &str = "/question";
/// Path of [`Status`].
pub const STATUS_PATH: &str = "/status";
/// Path of [`Switchover`].
pub const SWITCHOVER_PATH: &str = "/switchover";
/// Path that has the primary begin a new WAL file.
pub const SWITCH_WAL_PATH: &str = "/switch-wal";

/// Everything that the operator wants to know of one member, from memory: asking costs neither disk nor SQL.
/// `None` means "not known", never "none".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of the pod.
    pub pod: String,
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// What it is to a client.
    pub role: Role,
    /// What its server does.
    pub state: State,
    /// What is under way, such as "cloning: copied 1.2 of 5.0 GiB", or why nothing moves.
    pub doing: Option<String>,
    /// Epoch of the Lease as this member last saw it.
    pub epoch: Epoch,
    /// Pod that holds a valid lease, as this member sees it.
    pub leader: Option<String>,
    /// Name of its data.
    pub data_id: Option<DataId>,
    /// Identifier of its cluster.
    pub system_identifier: Option<SystemIdentifier>,
    /// Timeline of the last flushed record.
    pub timeline: Option<Timeline>,
    /// End of the local write-ahead log.
    pub position: Option<WalPosition>,
    /// Standby: how far behind the leader.
    pub lag: Option<Lag>,
    /// Primary: the attached standbys.
    pub replication: Vec<Replication>,
    /// Primary: whether an acknowledged commit is on at least k standbys besides this member.
    pub durable: Option<bool>,
    /// Why no other member could take over now; `None` if one could, or if this member does not know.
    pub failover_blocked: Option<String>,
    /// Server version as `PG_VERSION_NUM`, such as 160003.
    pub server_version: Option<u32>,
    /// Digest of the configuration in effect ([`super::config::AgentConfig::generation`]).
    pub generation: String,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Why the server refused the wanted configuration, in its own words.
    pub configuration_error: Option<String>,
    /// Space on the data volume.
    pub disk: Option<Space>,
    /// The last failover or switchover that this member completed as the new primary.
    pub last_takeover: Option<Takeover>,
    /// The archive, once known.
    #[serde(default)]
    pub archive: Option<ArchiveStatus>,
    /// The restore that runs in this pod or made its data.
    #[serde(default)]
    pub restore: Option<RestoreProgress>,
}

/// How a member became primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// Whether it was asked for.
    pub planned: bool,
    /// Pod that led before, if known.
    pub from: Option<String>,
    /// Pod that leads now.
    pub to: String,
    /// Why the earlier leader lost it.
    pub reason: String,
    /// From the moment this member first saw the leader gone until it accepted writes, in seconds.
    pub seconds: f64,
    /// Timeline that began.
    pub timeline: Timeline,
    /// When it was completed.
    pub at: Timestamp,
}

/// Body of `POST /switchover`, as Patroni's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// Pod expected to lead now: the request is refused if another does.
    #[serde(default)]
    pub leader: Option<String>,
    /// Pod that should lead; any that is fit if absent.
    #[serde(default)]
    pub candidate: Option<String>,
}

/// The request was understood and begun; [`Status`] tells the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// For people.
    pub message: String,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What, on what, why, what to do.
    pub message: String,
}
