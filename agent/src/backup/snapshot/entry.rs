//! `snapshot/<name>.json`: what makes a VolumeSnapshot a backup. Without it the files in the snapshot are of no use, so
//! it lies in the store, where losing the cluster does not lose it.

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use proto::{identity::DataId, postgres::SystemIdentifier, wire::backup::BackupSummary};
use serde::{Deserialize, Serialize};

use super::super::contents::{self, Contents};
use crate::archive::{
    layout::Root,
    store::{Store, StoreError},
};

/// Version of this file's form.
pub(crate) const FORMAT: u32 = 1;
/// Files that are read at once.
const READS: usize = 8;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// Of this file.
    pub(crate) format: u32,
    /// For people and the operator.
    pub(crate) summary: BackupSummary,
    /// Whose data it is.
    pub(crate) system_identifier: SystemIdentifier,
    /// Bytes of a WAL segment.
    pub(crate) wal_segment_size: u64,
    /// The data on the volume. A volume with other data was not made of this snapshot, or is restored already.
    pub(crate) data_id: DataId,
    /// Name of the VolumeSnapshot.
    pub(crate) volume_snapshot: String,
    /// To be put into the data directory as `backup_label`, unless it is encrypted: then it is text that `age`
    /// decrypts.
    pub(crate) label: String,
}

impl Entry {
    /// As a backup whose files are there already.
    pub(crate) fn contents(&self) -> Contents {
        Contents {
            format: contents::FORMAT,
            summary: self.summary.clone(),
            system_identifier: self.system_identifier,
            wal_segment_size: self.wal_segment_size,
            archives: Vec::new(),
            checksums: None,
            data_bytes: None,
            encrypted: false,
        }
    }
}

/// One of them, if it is there.
pub(crate) async fn entry(store: &Store, root: &Root, name: &str) -> Result<Option<Entry>, StoreError> {
    let path = root.snapshot_file(name);
    match store.get_json::<Entry>(&path).await? {
        Some(entry) if entry.format != FORMAT => Err(StoreError::Contents {
            path: path.to_string(),
            message: format!("format {} is of another version", entry.format),
        }),
        found => Ok(found),
    }
}

/// All of them, oldest first.
pub(crate) async fn entries(store: &Store, root: &Root) -> Result<Vec<Entry>, StoreError> {
    let objects = store.list(&root.snapshots()).await?;
    let names = objects.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json"));
    let names: Vec<_> = names.map(str::to_owned).collect();
    let read = futures::stream::iter(names).map(|name| async move { entry(store, root, &name).await });
    let read: Vec<Option<Entry>> = read.buffered(READS).try_collect().await?;
    let mut entries: Vec<_> = read.into_iter().flatten().collect();
    entries.sort_by_key(|entry| entry.summary.stopped_at);
    Ok(entries)
}

/// Whether no time of the window needs it any more: it is older than the backup in the store that retention keeps from
/// before the window. For a snapshot itself nothing else is deleted: it is lost with the storage that backups are for.
pub(crate) fn is_superfluous(entry: &Entry, anchor: Option<Timestamp>) -> bool {
    anchor.is_some_and(|anchor| entry.summary.stopped_at < anchor)
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::wire::backup::BackupKind;

    use super::{super::label, *};
    use crate::backup::chain;

    pub(crate) fn made(hours: i64, number: u32, segment: u64) -> Entry {
        let of = chain::tests::backup(hours, number, segment);
        Entry {
            format: FORMAT,
            summary: BackupSummary { kind: BackupKind::Snapshot, ..of.summary },
            system_identifier: of.system_identifier,
            wal_segment_size: of.wal_segment_size,
            data_id: DataId(7),
            volume_snapshot: format!("db-b{hours}"),
            label: label::tests::LABEL.to_owned(),
        }
    }

    #[test]
    fn what_is_older_than_the_backup_in_the_store_goes() {
        let goes = |hours| is_superfluous(&made(hours, 1, 1), Some(chain::tests::at(25)));
        assert!(goes(1) && !goes(25) && !goes(49));
        assert!(!is_superfluous(&made(1, 1, 1), None), "as long as no backup in the store is old enough");
    }

    #[test]
    fn the_file_reads_back() {
        let entry = made(1, 1, 1);
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.contains(r#""volumeSnapshot":"db-b1""#), "{text}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }
}
