//! What `agent drill` has to say at its end: JSON in [`crate::pod::TERMINATION_FILE`], which Kubernetes shows in the
//! status of the pod. So a drill needs no permission and no way to anybody.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::postgres::Lsn;

/// Kubernetes keeps 4096 bytes of a message; texts of others are cut to this many bytes, so that the whole fits.
pub const LONGEST_TEXT: usize = 2_000;

/// How a drill ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillReport {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Backup that was restored, once chosen.
    pub backup: Option<String>,
    /// What came of it, if it was restored and is sound.
    pub proof: Option<Proof>,
    /// Why not.
    pub error: Option<String>,
}

/// What was restored and looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Where replay ended.
    pub reached: Option<Lsn>,
    /// Commit time of the last transaction that was replayed; none if the log held no transaction.
    pub last_commit: Option<Timestamp>,
    /// Databases that were read.
    pub databases: u64,
    /// Tables in them that were read from end to end.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Why `pg_amcheck` did not check structure and indexes; `None` if it did, and found nothing.
    pub without_amcheck: Option<String>,
}

/// At most [`LONGEST_TEXT`] bytes of `text`.
pub fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}
