//! What the local server says about itself: one query, one JSON document.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::{
    postgres::{Lsn, Timeline},
    wire::http::Replication,
};
use serde::Deserialize;

use super::session::{Session, SqlError};

/// Everything at once, so that the facts belong together. A standby has no write position and a primary no
/// receive position; the parts that do not apply are null or empty.
const QUERY: &str = include_str!("facts.sql");

/// Facts of one moment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// `PG_VERSION_NUM`.
    pub(crate) version: u32,
    /// When the postmaster started, in seconds since 1970: names this life of the server.
    pub(crate) started: f64,
    /// Whether it is in recovery.
    pub(crate) in_recovery: bool,
    /// Whether it accepts writes: not in recovery and not read-only by default.
    pub(crate) writable: bool,
    /// Primary: flushed up to here.
    pub(crate) flushed: Option<Lsn>,
    /// Standby: flushed up to here by the WAL receiver.
    pub(crate) received: Option<Lsn>,
    /// Standby: timeline of what the WAL receiver writes.
    pub(crate) received_timeline: Option<Timeline>,
    /// Standby: end of WAL as the upstream last said.
    pub(crate) upstream_end: Option<Lsn>,
    /// Standby: replayed up to here.
    pub(crate) replayed: Option<Lsn>,
    /// Standby: commit time of the last replayed transaction.
    pub(crate) replayed_at: Option<Timestamp>,
    /// Standby: age of that commit, in seconds.
    pub(crate) replayed_age: Option<f64>,
    /// Timeline of the last checkpoint in `pg_control`.
    pub(crate) checkpoint_timeline: Option<Timeline>,
    /// Standby: whether the WAL receiver streams.
    pub(crate) streaming: bool,
    /// Standby: whether somebody paused replay.
    pub(crate) paused: bool,
    /// `synchronous_standby_names` as loaded.
    pub(crate) synchronous_standby_names: String,
    /// Attached standbys.
    #[serde(default)]
    pub(crate) replication: Vec<Replication>,
    /// Which slot each attached standby uses, by its `application_name`.
    #[serde(default)]
    pub(crate) users: BTreeMap<String, String>,
    /// Physical slots.
    #[serde(default)]
    pub(crate) slots: Vec<Slot>,
}

/// A physical replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slot {
    /// Its name.
    pub(crate) name: String,
    /// Whether a standby uses it now.
    pub(crate) active: bool,
    /// WAL is kept from here on.
    pub(crate) restart: Option<Lsn>,
    /// Whether the WAL that it needs is gone.
    pub(crate) lost: bool,
}

/// Reads the facts.
pub(super) async fn read(session: &Session) -> Result<Facts, SqlError> {
    let document = session.query(QUERY).await?.ok_or_else(|| SqlError::Unexpected("no row".into()))?;
    serde_json::from_str(&document).map_err(SqlError::Shape)
}
