//! `backup.json`: what a backup is made of. Written last, so that what has none is no backup.

use proto::{postgres::SystemIdentifier, wire::backup::BackupSummary};
use serde::{Deserialize, Serialize};

/// Version of this file's form.
pub(crate) const FORMAT: u32 = 1;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Contents {
    /// Of this file.
    pub(crate) format: u32,
    /// For people and the operator.
    pub(crate) summary: BackupSummary,
    /// Whose data it is.
    pub(crate) system_identifier: SystemIdentifier,
    /// Bytes of a WAL segment.
    pub(crate) wal_segment_size: u64,
    /// What it is made of.
    pub(crate) archives: Vec<ArchiveContents>,
    /// Whether pages had checksums: an incremental backup of other pages does not fit.
    #[serde(default)]
    pub(crate) checksums: Option<bool>,
    /// Bytes of the databases' files at that time, which an incremental backup itself does not tell; absent if the
    /// server did not tell them either.
    #[serde(default)]
    pub(crate) data_bytes: Option<u64>,
    /// Whether its pieces are encrypted: then each ends with `.age`.
    #[serde(default)]
    pub(crate) encrypted: bool,
}

/// One archive: `<name>.zst/<number>`, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ArchiveContents {
    /// Such as `base.tar`, or `backup_manifest`.
    pub(crate) name: String,
    /// How many pieces.
    pub(crate) pieces: usize,
    /// Uncompressed bytes.
    pub(crate) size_bytes: u64,
}
