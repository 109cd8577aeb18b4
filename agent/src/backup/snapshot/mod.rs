//! A backup whose data is in a VolumeSnapshot. The operator takes the snapshot; here the server is held in backup mode
//! for as long as that needs, and what it says at the end is written into the store.
//!
//! Failure modes: an operator that does not come back ends the backup after [`HOLD_LIMIT`]; the end of this process or of
//! the server, and a promotion, end it at once. Then nothing is written, and the VolumeSnapshot is no backup.
//!
//! | file | one idea |
//! |---|---|
//! | [`entry`] | the file in the store |
//! | [`label`] | the server's `backup_label` |

pub(crate) mod entry;
pub(crate) mod label;

use std::time::Duration;

use entry::{Entry, FORMAT};
use jiff::Timestamp;
use label::Label;
use proto::{
    identity::DataId,
    postgres::WalPosition,
    wire::{
        backup::{BackupKind, BackupPhase, BackupSummary},
        snapshot::SnapshotTaken,
    },
};
use tokio::{sync::watch, time::timeout};

use super::{
    patience::patiently,
    run::{BackupError, Run},
};
use crate::{
    archive::{connection::Repository, names::SegmentSize},
    sql::{archiving, backup_mode::BackupMode},
};

/// For a snapshot to be taken, an operator that is replaced included. Backup mode costs a primary little, and a standby
/// nothing; but one that nobody ends would be no backup mode.
pub(crate) const HOLD_LIMIT: Duration = Duration::from_mins(10);

/// What the operator took, and for which backup.
pub(crate) type Taken = Option<(String, SnapshotTaken)>;

/// What only this kind of backup needs.
pub(crate) struct Hold<'a> {
    /// The data of this member; asked for at both ends.
    pub(crate) data: &'a (dyn Fn() -> Option<DataId> + Sync),
    /// What the operator took.
    pub(crate) taken: watch::Receiver<Taken>,
}

/// What the server held still for.
struct Held {
    taken: SnapshotTaken,
    label: String,
    start: WalPosition,
    stop: WalPosition,
    data_id: DataId,
}

impl Run<'_> {
    /// Makes it.
    pub(crate) async fn make_of_snapshot(
        &self,
        name: &str,
        hold: Hold<'_>,
    ) -> Result<BackupSummary, BackupError> {
        let started_at = Timestamp::now();
        let size = SegmentSize(archiving::segment_size(self.socket_directory).await?);
        let copied = self.hold(name, hold).await?;
        let stopped_at = Timestamp::now();
        self.note(|state| {
            state.phase = BackupPhase::WaitingForWal;
            (state.start, state.stop) = (Some(copied.start), Some(copied.stop));
        });
        self.await_wal(copied.start, copied.stop, size).await?;
        let summary = self.summary_of_snapshot(name, &copied, (started_at, stopped_at));
        let Repository { store, root } = self.repository;
        let path = root.snapshot_file(name);
        let entry = Entry {
            format: FORMAT,
            summary: summary.clone(),
            system_identifier: root.system_identifier(),
            wal_segment_size: size.0,
            data_id: copied.data_id,
            volume_snapshot: copied.taken.volume_snapshot,
            label: store.seal_text(&path, &copied.label)?,
        };
        patiently("the file of the snapshot", || store.put_json(&path, &entry)).await?;
        Ok(summary)
    }

    /// The server's part, in one session.
    async fn hold(&self, name: &str, hold: Hold<'_>) -> Result<Held, BackupError> {
        let mode = BackupMode::begin(self.socket_directory, self.server_version, name).await?;
        let data_id = (hold.data)();
        self.note(|state| state.phase = BackupPhase::AwaitingSnapshot);
        let taken = timeout(HOLD_LIMIT, taken(name, hold.taken)).await;
        let taken = taken.ok().flatten().ok_or(BackupError::NoSnapshot)?;
        let ended = mode.end().await?;
        if !ended.map.trim().is_empty() {
            return Err(BackupError::Tablespaces);
        }
        let label = Label::parse(&ended.label).ok_or(BackupError::Incomplete("backup_label"))?;
        let timeline = match label.from_standby {
            true => mode.timeline_of_standby().await?,
            // It ends if the primary is demoted.
            false => label.start.timeline,
        };
        let stop = WalPosition { timeline, lsn: ended.stop };
        match data_id.filter(|data_id| (hold.data)() == Some(*data_id)) {
            Some(data_id) => Ok(Held { taken, label: ended.label, start: label.start, stop, data_id }),
            None => Err(BackupError::Incomplete("data that is known by its name")),
        }
    }

    fn summary_of_snapshot(
        &self,
        name: &str,
        held: &Held,
        (started_at, stopped_at): (Timestamp, Timestamp),
    ) -> BackupSummary {
        BackupSummary {
            name: name.to_owned(),
            kind: BackupKind::Snapshot,
            parent: None,
            depth: 0,
            fallback: None,
            started_at,
            stopped_at,
            start: held.start,
            stop: held.stop,
            size_bytes: held.taken.size_bytes,
            stored_bytes: 0,
            server_version: self.server_version,
            pod: self.pod.to_owned(),
            from_standby: self.from_standby,
            damage: None,
        }
    }
}

/// Waits for it; `None` if nobody is left to tell.
async fn taken(name: &str, mut told: watch::Receiver<Taken>) -> Option<SnapshotTaken> {
    let mine = |told: &Taken| told.as_ref().is_some_and(|(of, _)| of == name);
    let told = told.wait_for(mine).await.ok()?;
    told.as_ref().map(|(_, taken)| taken.clone())
}
