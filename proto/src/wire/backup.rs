//! Archive, backup and restore: what the operator configures, asks of agents and reads from them.
//!
//! Served beside [`super::peer`] on [`crate::pod::PEER_PORT`], to holders of a certificate of the Database's CA:
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /backups` | [`StartBackup`] | 202 and [`BackupState`]; 409 if another runs here or the name is taken, 503 if this member cannot, or no archive is configured: [`super::peer::Refused`] |
//! | `POST /backups/{name}/snapshot` | [`super::snapshot::SnapshotTaken`] | [`BackupState`]; 409 if no backup of this name waits for a snapshot here, or did: [`super::peer::Refused`] |
//! | `GET /backups/{name}` | | [`BackupState`], also of a completed one in the repository; 404 if there is none: a run that its agent's restart ended is none |
//! | `GET /repository` | | [`Repository`]; 503 and [`super::peer::Refused`] if the store does not say |
//! | `POST /retention` | [`Retention`] | [`RetentionReport`]; 503 and [`super::peer::Refused`] |
//!
//! `GET /status` has an [`ArchiveStatus`] and, while a restore runs in the pod, a [`RestoreProgress`].
//! Any member answers `/repository` and `/retention`; it reads the store, not its own disk.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::snapshot::BackupMethod;
use crate::postgres::{Lsn, SystemIdentifier, Timeline, WalPosition};

/// Path of [`StartBackup`]; with `/{name}` of [`BackupState`].
pub const BACKUPS_PATH: &str = "/backups";
/// Path of [`Repository`].
pub const REPOSITORY_PATH: &str = "/repository";
/// Path of [`Retention`].
pub const RETENTION_PATH: &str = "/retention";

/// Backups that may build on each other at most: a restore reads all of them and needs room for all at once, and
/// what is lost of one is lost for all after it. Two weeks of nightly ones.
pub const LONGEST_CHAIN: u32 = 14;

/// Where a store is and how it is reached. Never holds credentials: those are files (see
/// [`crate::pod::BACKUP_CREDENTIALS_DIR`]), or without them what the node or web identity gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveConfig {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://account/container/prefix` or `file:///path`.
    pub destination: String,
    /// Address of a store other than the provider's own, such as `https://s3.example.com:9000`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// S3: region; `us-east-1` if absent.
    #[serde(default)]
    pub region: Option<String>,
    /// S3: the bucket is in the path and not in the host name.
    #[serde(default)]
    pub path_style: bool,
    /// Whether `endpoint` may be plain HTTP.
    #[serde(default)]
    pub allow_http: bool,
    /// Whether the store's certificate is signed by the `ca.crt` among the credentials.
    #[serde(default)]
    pub custom_ca: bool,
    /// S3: how the store encrypts; the bucket's default if absent.
    #[serde(default)]
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// Whether agents encrypt what they write, with the identities in [`crate::pod::IDENTITIES_FILE`] among the
    /// credentials.
    #[serde(default)]
    pub encrypted: bool,
}

/// Encryption by the S3 server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerSideEncryption {
    /// SSE-S3: keys of the store.
    Aes256,
    /// SSE-KMS.
    Kms {
        /// Key of the KMS.
        key_id: String,
    },
}

/// Body of `POST /backups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartBackup {
    /// Unique in the repository, and a folder there: letters, digits, `-` and `.`, 1 to 63 of them, a letter
    /// or digit first.
    pub name: String,
    /// Each so-many-th backup is a full one, the others hold what changed since the one before. 1: all are full.
    #[serde(default = "always")]
    pub full_every: u32,
    /// How.
    #[serde(default)]
    pub method: BackupMethod,
}

fn always() -> u32 {
    1
}

/// Whether a backup holds everything, or what has changed since its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BackupKind {
    /// Everything.
    #[default]
    Full,
    /// What has changed since its parent.
    Incremental,
    /// Everything, in a VolumeSnapshot.
    Snapshot,
}

/// How far a backup is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupState {
    /// Its name.
    pub name: String,
    /// What it copies, as far as that is decided.
    pub kind: BackupKind,
    /// What it does now.
    pub phase: BackupPhase,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// Read from the server so far.
    pub bytes_done: u64,
    /// The server's estimate of what there is to read.
    pub bytes_total: Option<u64>,
    /// Written to the store so far, compressed.
    pub stored_bytes: u64,
    /// Where recovery from it begins, once known.
    pub start: Option<WalPosition>,
    /// Where it is consistent, once known.
    pub stop: Option<WalPosition>,
    /// Why it failed.
    pub error: Option<String>,
    /// What is in the repository, once completed.
    pub summary: Option<BackupSummary>,
}

impl BackupState {
    /// Asked for, and nothing done yet.
    #[must_use]
    pub fn begun(name: String, kind: BackupKind, started_at: Timestamp) -> Self {
        Self {
            name,
            kind,
            phase: BackupPhase::Starting,
            started_at,
            bytes_done: 0,
            bytes_total: None,
            stored_bytes: 0,
            start: None,
            stop: None,
            error: None,
            summary: None,
        }
    }
}

/// Stage of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BackupPhase {
    /// The server makes its checkpoint.
    Starting,
    /// Files are read, compressed and written.
    Copying,
    /// The server is in backup mode until a snapshot of its volume is taken, and not for long.
    AwaitingSnapshot,
    /// Everything is written but the WAL that makes it consistent.
    WaitingForWal,
    /// Can be restored.
    Completed,
    /// Came to nothing; the rest is removed by retention.
    Failed,
}

/// A backup in the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupSummary {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: BackupKind,
    /// The backup that an incremental one builds on: restoring it needs that one too, and all that one builds on.
    #[serde(default)]
    pub parent: Option<String>,
    /// How many backups it builds on.
    #[serde(default)]
    pub depth: u32,
    /// Why it is a full one although an incremental one was due.
    #[serde(default)]
    pub fallback: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When its copy ended: it can be restored to later times only.
    pub stopped_at: Timestamp,
    /// Recovery begins here.
    pub start: WalPosition,
    /// Consistent from here on.
    pub stop: WalPosition,
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// `PG_VERSION_NUM` of the server.
    pub server_version: u32,
    /// Pod that it was read from.
    pub pod: String,
    /// Whether that was a standby.
    pub from_standby: bool,
    /// What the server said about damaged pages, if it found any: restoring it restores the damage. Retention
    /// does not count it as a good one.
    #[serde(default)]
    pub damage: Option<String>,
}

/// Body of `GET /repository`: what could be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// Below the destination: `<Database UID>/<system identifier>`.
    pub path: String,
    /// Completed backups in the store, oldest first.
    pub backups: Vec<BackupSummary>,
    /// Those whose data is in VolumeSnapshots, oldest first.
    #[serde(default)]
    pub snapshots: Vec<BackupSummary>,
    /// Earliest time that can be restored to.
    pub earliest_restorable: Option<Timestamp>,
    /// Latest time that certainly can be.
    pub latest_restorable: Option<Timestamp>,
}

/// Body of `POST /retention`: keep what any time of the last days needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Length of the window.
    pub days: u32,
    /// Only say what would be deleted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionReport {
    /// Backups, oldest first.
    pub backups: Vec<String>,
    /// Backups whose data is in VolumeSnapshots, oldest first. The VolumeSnapshots themselves are the operator's to
    /// delete.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// Folders of backups that were never completed.
    pub unfinished: Vec<String>,
    /// Number of WAL files.
    pub wal_files: u64,
    /// What the store did not let go (object lock, permissions), for people. Tried again next time.
    pub not_deleted: Vec<String>,
    /// What is wrong with the clocks, for people.
    #[serde(default)]
    pub clocks: Option<String>,
}

/// The archive as one member sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// Whether WAL goes anywhere.
    pub mode: ArchiveMode,
    /// Whether the store can be read and written with these credentials; `None` if not tried yet.
    pub store: Option<StoreHealth>,
    /// Last WAL file that the store acknowledged to this member.
    pub last_archived: Option<ArchivedWal>,
    /// Primary: WAL files that wait to be archived.
    pub waiting: Option<u64>,
    /// Primary: since when the oldest of them waits.
    pub waiting_since: Option<Timestamp>,
    /// Primary: whether everything that earlier primaries left is in the archive; `None` while that is looked at.
    pub gap_free: Option<bool>,
    /// Last failure since the last success.
    pub last_error: Option<ArchiveFailure>,
    /// Backup under way here, or the last one.
    pub backup: Option<BackupState>,
}

/// Whether WAL is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ArchiveMode {
    /// No archive is configured: the server's WAL files are acknowledged and forgotten.
    Disabled,
    /// To the store.
    Continuous,
}

/// Whether the store works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreHealth {
    /// Since the last try.
    pub reachable: bool,
    /// Why not, for people, without any secret.
    pub why: Option<String>,
    /// When that was tried.
    pub at: Timestamp,
}

/// A WAL file in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchivedWal {
    /// Such as `000000010000000000000014`.
    pub name: String,
    /// When the store acknowledged it.
    pub at: Timestamp,
}

/// Why the archive did not take something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveFailure {
    /// What, on what, why.
    pub message: String,
    /// Another writer has archived something else under the same name: two primaries, or a cloned volume.
    #[serde(default)]
    pub conflict: bool,
    /// When.
    pub at: Timestamp,
}

/// Contents of [`crate::pod::RESTORE_FILE`]: what `agent restore` makes of an empty volume. It does nothing where
/// there is data, and nothing in pods other than the one with ordinal 0, whose data the others copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreConfig {
    /// Store to read. Credentials: [`crate::pod::RESTORE_CREDENTIALS_DIR`].
    pub source: ArchiveConfig,
    /// UID of the Database that wrote it; may be absent if the destination holds only one.
    #[serde(default)]
    pub database_uid: Option<String>,
    /// Its system identifier; may be absent if there is only one below the UID.
    #[serde(default)]
    pub system_identifier: Option<SystemIdentifier>,
    /// Where recovery ends.
    #[serde(default)]
    pub target: RestoreTarget,
    /// Backup to begin with; the newest that the target allows if absent.
    #[serde(default)]
    pub backup: Option<String>,
    /// The volume was made of the VolumeSnapshot of this backup: recovery begins with the files in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The operator sets it once the Database has been initialised: nothing is ever restored again.
    #[serde(default)]
    pub completed: bool,
}

/// Where recovery ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestoreTarget {
    /// At the end of the archive.
    #[default]
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// With the last commit up to this time.
    Time(Timestamp),
    /// With the first commit that ends at or after this position.
    Lsn(Lsn),
    /// With this transaction.
    Xid(u64),
    /// At this restore point (`pg_create_restore_point`).
    Name(String),
}

/// How far a restore is: contents of [`crate::pod::RESTORE_PROGRESS_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreProgress {
    /// What it does now.
    pub phase: RestorePhase,
    /// Backup that is restored, once chosen.
    pub backup: Option<String>,
    /// Bytes of files written so far.
    pub bytes_done: u64,
    /// Bytes of files in the backup, and in those that it builds on.
    pub bytes_total: Option<u64>,
    /// Last WAL file that recovery asked for.
    pub wal: Option<String>,
    /// Timeline that the restored server ended on, once done.
    pub timeline: Option<Timeline>,
    /// Why the last attempt failed. It is tried again from the start when the container restarts.
    pub error: Option<String>,
    /// When this was written.
    pub at: Timestamp,
}

/// Stage of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestorePhase {
    /// Reading the repository and choosing the backup.
    Choosing,
    /// Writing files.
    Copying,
    /// `pg_combinebackup` makes one data directory of a full backup and those that build on it.
    Combining,
    /// PostgreSQL replays WAL up to the target.
    Recovering,
    /// Can be started.
    Completed,
    /// Came to nothing.
    Failed,
}
