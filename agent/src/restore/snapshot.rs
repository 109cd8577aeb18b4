//! The data directory that a VolumeSnapshot brought, until PostgreSQL recovers in it. There is no second copy, so an
//! attempt that was interrupted goes on with these files: recovery from the beginning of the backup makes the same of
//! them, however far it came, as long as the server was not promoted.

use std::path::{Path, PathBuf};

use proto::{postgres::Timeline, wire::supervisor::Data};

use crate::{
    archive::{
        layout::Root,
        names::WalName,
        store::{Store, StoreError},
    },
    backup::snapshot::entry::{self, Entry},
    supervisor::{
        Layout,
        durable::{self, DurableError},
    },
};

/// What a server leaves in its data directory and no other may find there.
const LEFT_BEHIND: [&str; 6] = [
    "backup_manifest",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
];

/// Why nothing can be recovered on the volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The store does not say what makes it a backup.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It expired, or lies elsewhere.
    #[error("the repository knows of no snapshot {0}: without its backup_label the files cannot be used")]
    Unknown(String),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The volume came otherwise.
    #[error("the volume was not made of the VolumeSnapshot {0}: it is empty")]
    Empty(String),
    /// The volume holds something.
    #[error("the volume was not made of the VolumeSnapshot {wanted}: {found}; nothing in it is touched")]
    Other {
        /// Which.
        wanted: String,
        /// Instead.
        found: String,
    },
    /// The server wrote already what nobody can take back.
    #[error(
        "an earlier attempt was interrupted when everything was recovered already: these files cannot be used any \
         more; delete this Database with its volumes and apply it again"
    )]
    Promoted,
}

/// What the repository says of it.
pub(super) async fn entry(store: &Store, root: &Root, name: &str) -> Result<Entry, SnapshotError> {
    let found = entry::entry(store, root, name).await?;
    let found = found.ok_or_else(|| SnapshotError::Unknown(name.to_owned()))?;
    let label = store.open_text(&root.snapshot_file(name), &found.label)?;
    Ok(Entry { label, ..found })
}

/// Whether the volume's data has been made of the snapshot already.
pub(super) fn is_restored(layout: &Layout, name: &str) -> Result<bool, DurableError> {
    let present = match layout.incoming_state().exists() {
        // Everything was done but the last step.
        true => durable::recover(layout)?,
        false => durable::read(layout)?,
    };
    let marker = durable::read_if_exists(&layout.snapshot_marker())?;
    Ok(matches!(present, Data::Present(_)) && marker.as_deref() == Some(name))
}

/// Takes the data over, and makes it what a backup is that was just unpacked. Returns where it is.
pub(super) fn take_over(
    layout: &Layout,
    entry: &Entry,
    timeline: Timeline,
) -> Result<PathBuf, SnapshotError> {
    let data = match durable::read(layout)? {
        Data::Present(found)
            if (found.data_id, found.system_identifier) == (entry.data_id, entry.system_identifier) =>
        {
            // Before anything else, so that what is there later was written by the recovering server.
            durable::clear(&layout.pg_wal())?;
            durable::swap_out(layout)?
        }
        Data::Empty if layout.incoming().join("PG_VERSION").exists() => layout.incoming(),
        Data::Empty => return Err(SnapshotError::Empty(entry.volume_snapshot.clone())),
        Data::Present(found) => return Err(other(entry, format!("it holds the data {}", found.data_id))),
        Data::Unusable { reason, .. } => return Err(other(entry, reason)),
        Data::Unread => return Err(other(entry, "it cannot be read".to_owned())),
    };
    if has_left(&data.join("pg_wal"), timeline)? {
        return Err(SnapshotError::Promoted);
    }
    durable::write_file(&layout.snapshot_marker(), entry.summary.name.as_bytes())?;
    durable::clear(&data.join("pg_replslot"))?;
    for name in LEFT_BEHIND {
        durable::remove_file(&data.join(name))?;
    }
    durable::write_file(&data.join("backup_label"), entry.label.as_bytes())?;
    Ok(data)
}

fn other(entry: &Entry, found: String) -> SnapshotError {
    SnapshotError::Other { wanted: entry.volume_snapshot.clone(), found }
}

/// Whether a server was promoted here: before anything else it writes the history of a timeline after the last one that
/// it was told to follow.
fn has_left(pg_wal: &Path, timeline: Timeline) -> Result<bool, DurableError> {
    let read = |source| DurableError::Read { path: pg_wal.to_owned(), source };
    for file in std::fs::read_dir(pg_wal).map_err(read)? {
        let name = file.map_err(read)?.file_name();
        if let Some(Ok(WalName::History(found))) = name.to_str().map(str::parse)
            && found > timeline
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::{identity::Epoch, postgres::SystemIdentifier};

    use super::*;
    use crate::{
        backup::{chain::tests::timeline, snapshot::entry::tests::made},
        supervisor::durable::HaState,
    };

    /// A volume as the snapshot brings it.
    fn volume(entry: &Entry) -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let layout = Layout {
            data_dir: path.clone(),
            run_dir: path.clone(),
            tls_dir: path,
            port: 5432,
            bin_dir: None,
        };
        for folder in ["global", "pg_wal/archive_status", "pg_replslot/member_1"] {
            fs::create_dir_all(layout.pgdata().join(folder)).unwrap();
        }
        let control = entry.system_identifier.0.to_ne_bytes();
        fs::write(layout.pgdata().join("global/pg_control"), control).unwrap();
        fs::write(layout.pgdata().join("PG_VERSION"), "17\n").unwrap();
        for name in ["pg_wal/00000001.history", "pg_wal/000000010000000000000003", "postmaster.pid"] {
            fs::write(layout.pgdata().join(name), "").unwrap();
        }
        let state = HaState { data_id: entry.data_id, ..HaState::of_new_data(Epoch(4)) };
        durable::store(&layout, &state).unwrap();
        (directory, layout)
    }

    #[test]
    fn the_data_is_taken_over_as_if_it_was_unpacked() {
        let entry = made(1, 1, 1);
        let (_directory, layout) = volume(&entry);
        assert!(!is_restored(&layout, "b1").unwrap(), "the data of the source is none of this Database");
        let data = take_over(&layout, &entry, timeline(1)).unwrap();
        assert!(!layout.pgdata().exists() && data == layout.incoming());
        assert_eq!(fs::read_to_string(data.join("backup_label")).unwrap(), entry.label);
        for gone in ["postmaster.pid", "pg_wal/000000010000000000000003", "pg_replslot/member_1"] {
            assert!(!data.join(gone).exists(), "{gone}");
        }
        assert!(data.join("pg_wal").exists() && !is_restored(&layout, "b1").unwrap());
    }

    #[test]
    fn an_interrupted_attempt_goes_on_until_the_server_was_promoted() {
        let entry = made(1, 1, 1);
        let (_directory, layout) = volume(&entry);
        let data = take_over(&layout, &entry, timeline(1)).unwrap();
        // The server has read it.
        fs::rename(data.join("backup_label"), data.join("backup_label.old")).unwrap();
        fs::write(data.join("pg_wal/000000010000000000000004"), "").unwrap();
        assert_eq!(take_over(&layout, &entry, timeline(1)).unwrap(), data);
        assert!(data.join("backup_label").exists() && data.join("pg_wal/000000010000000000000004").exists());
        fs::write(data.join("pg_wal/00000002.history"), "").unwrap();
        assert!(matches!(take_over(&layout, &entry, timeline(1)), Err(SnapshotError::Promoted)));
        assert!(take_over(&layout, &entry, timeline(2)).is_ok(), "that history is on the way");
    }

    #[test]
    fn what_was_restored_is_left_alone_and_a_swap_is_finished() {
        let entry = made(1, 1, 1);
        let (_directory, layout) = volume(&entry);
        take_over(&layout, &entry, timeline(1)).unwrap();
        let new = serde_json::to_vec(&HaState::of_new_data(Epoch::default())).unwrap();
        fs::write(layout.incoming_state(), new).unwrap();
        assert!(is_restored(&layout, "b1").unwrap());
        assert!(layout.pgdata().exists() && !layout.incoming().exists());
        assert!(!is_restored(&layout, "b2").unwrap(), "a snapshot of what was restored from a snapshot");
    }

    #[test]
    fn a_volume_with_anything_else_is_not_touched() {
        let entry = made(1, 1, 1);
        let (_directory, layout) = volume(&entry);
        let refused = |changed: &Entry| take_over(&layout, changed, timeline(1)).unwrap_err().to_string();
        let unlike = Entry { data_id: proto::identity::DataId(8), ..entry.clone() };
        assert!(refused(&unlike).contains("it holds the data"), "{}", refused(&unlike));
        let unlike = Entry { system_identifier: SystemIdentifier(9), ..entry.clone() };
        assert!(refused(&unlike).contains("it holds the data"));
        assert!(layout.pgdata().join("postmaster.pid").exists());
        fs::remove_dir_all(layout.pgdata()).unwrap();
        assert!(refused(&entry).contains("it is empty"));
    }
}
