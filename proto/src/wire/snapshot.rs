//! Backups whose data is in a VolumeSnapshot: the part of [`super::backup`] that only they need.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// After [`super::backup::BACKUPS_PATH`] and the name: path of [`SnapshotTaken`].
pub const SNAPSHOT_PATH: &str = "/snapshot";

/// How a backup is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BackupMethod {
    /// The files are copied into the store.
    #[default]
    Physical,
    /// A VolumeSnapshot is taken of the instance's volume, with the server in backup mode. What makes it a backup goes
    /// into the store; the data stays with the storage of the volume.
    VolumeSnapshot,
}

/// Body of `POST /backups/{name}/snapshot`: the volume is copied, and the server need not wait any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotTaken {
    /// Name of the VolumeSnapshot.
    pub volume_snapshot: String,
    /// Bytes of a volume that is made of it.
    pub size_bytes: u64,
}
