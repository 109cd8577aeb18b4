//! One base backup, from the question to the server until `backup.json` is written.
//!
//! Failure modes: whatever fails before `backup.json` leaves pieces that retention removes and no backup; the WAL
//! that makes the copy consistent is awaited, and a backup without it is none.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use proto::{
    identity::Ordinal,
    postgres::WalPosition,
    wire::backup::{BackupPhase, BackupState, BackupSummary},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    chain,
    contents::{ArchiveContents, Contents, FORMAT},
    patience::patiently,
    pieces::{PieceError, Pieces, Room},
    protocol::{self, Event, Extent, ProtocolError, Walsender},
    snapshot::HOLD_LIMIT,
};
use crate::{
    archive::{
        connection::Repository,
        names::{Segment, SegmentSize, WalName},
        store::StoreError,
    },
    chain::Chain,
    peer::client::{AskError, Peers},
    sql::{SqlError, archiving},
};

/// The archiver needs a moment for the last segments; one that is stuck ends the backup.
const WAL_PATIENCE: Duration = Duration::from_mins(15);
/// Between two looks.
const WAL_EVERY: Duration = Duration::from_secs(2);
/// A segment that nobody ends is ended again: the leader may have been another one the first time.
const SWITCH_EVERY: Duration = Duration::from_secs(30);
/// A state is shown again after so many bytes.
const SHOW_EVERY: u64 = 8 << 20;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Piece(#[from] PieceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("cannot have the primary end its WAL segment")]
    Switch(#[from] AskError),
    #[error("tablespaces outside the data directory are not backed up; move their tables to pg_default")]
    Tablespaces,
    #[error("the copy has no {0}")]
    Incomplete(&'static str),
    #[error("no incremental backup is possible: {0}")]
    NotIncremental(String),
    #[error("{0}, which this backup builds on, was deleted meanwhile")]
    ParentGone(String),
    #[error("no VolumeSnapshot was taken within {HOLD_LIMIT:?}")]
    NoSnapshot,
    #[error("{0} is not in the archive {WAL_PATIENCE:?} after the copy; without it the backup is none")]
    Wal(String),
}

/// What a backup needs.
pub(crate) struct Run<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) peers: &'a Peers,
    pub(crate) socket_directory: &'a str,
    pub(crate) port: u16,
    /// Who leads; asked for each time.
    pub(crate) leader: &'a (dyn Fn() -> Option<Leader> + Sync),
    pub(crate) pod: &'a str,
    pub(crate) from_standby: bool,
    pub(crate) server_version: u32,
    /// Each so-many-th backup is a full one.
    pub(crate) full_every: u32,
    pub(crate) state: &'a watch::Sender<Option<BackupState>>,
}

/// Who can end a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// This member.
    Here,
    /// Another.
    There(Ordinal),
}

/// What the copy came to.
pub(super) struct Copied {
    start: WalPosition,
    stop: WalPosition,
    archives: Vec<ArchiveContents>,
    stored: u64,
    damage: Option<String>,
}

impl Run<'_> {
    /// Makes it.
    pub(crate) async fn make(&self, name: &str) -> Result<BackupSummary, BackupError> {
        let started_at = Timestamp::now();
        let size = SegmentSize(archiving::segment_size(self.socket_directory).await?);
        let checksums = archiving::has_checksums(self.socket_directory).await?;
        let (base, copied) = self.copy_on_base(name, checksums).await?;
        let stopped_at = Timestamp::now();
        self.note(|state| {
            state.phase = BackupPhase::WaitingForWal;
            state.stop = Some(copied.stop);
            state.stored_bytes = copied.stored;
        });
        self.await_wal(copied.start, copied.stop, size).await?;
        self.check_base(&base).await?;
        let (kind, parent, depth) = chain::link(base.parent());
        let summary = BackupSummary {
            name: name.to_owned(),
            kind,
            parent,
            depth,
            fallback: base.fallback(),
            started_at,
            stopped_at,
            start: copied.start,
            stop: copied.stop,
            size_bytes: copied.archives.iter().map(|archive| archive.size_bytes).sum(),
            stored_bytes: copied.stored,
            server_version: self.server_version,
            pod: self.pod.to_owned(),
            from_standby: self.from_standby,
            damage: copied.damage,
        };
        let contents = Contents {
            format: FORMAT,
            summary: summary.clone(),
            system_identifier: self.repository.root.system_identifier(),
            wal_segment_size: size.0,
            archives: copied.archives,
            checksums: Some(checksums),
            data_bytes: self.data_bytes().await,
            encrypted: self.repository.store.encrypts(),
        };
        let Repository { store, root } = self.repository;
        let file = root.backup_file(name);
        patiently("backup.json", || store.put_json(&file, &contents)).await?;
        Ok(summary)
    }

    /// Copies everything, or what changed since `parent`.
    pub(super) async fn copy(&self, name: &str, parent: Option<&Contents>) -> Result<Copied, BackupError> {
        let mut server = Walsender::connect(Path::new(self.socket_directory), self.port).await?;
        let start = match parent {
            Some(parent) => self.begin_increment(&mut server, name, parent).await?,
            None => begin_full(&mut server, name).await?,
        };
        self.note(|state| state.start = Some(start));
        let mut copy = Copy { room: Room::new(), current: None, archives: Vec::new(), stored: 0, shown: 0 };
        let (mut last, mut damage) = (None, None);
        loop {
            match server.next().await {
                Ok(Event::Row(row)) if copy.archives.is_empty() && copy.current.is_none() => {
                    self.prepare(&row)?;
                }
                Ok(Event::Row(row)) => last = Some(protocol::position(&row)?),
                Ok(Event::Archive(archive)) => copy.begin(self.repository, name, archive).await?,
                Ok(Event::Data(data)) => copy.add(data, self).await?,
                Ok(Event::Progress) => {}
                Ok(Event::Done) => break,
                // The copy is whole, and so is the damage in it.
                Err(error) if last.is_some() && error.damage().is_some() => {
                    damage = error.damage().map(str::to_owned);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        copy.end().await?;
        for needed in ["base.tar", protocol::MANIFEST] {
            if !copy.archives.iter().any(|archive| archive.name == needed) {
                return Err(BackupError::Incomplete(needed));
            }
        }
        let stop = last.ok_or(BackupError::Incomplete("end"))?;
        Ok(Copied { start, stop, archives: copy.archives, stored: copy.stored, damage })
    }

    fn prepare(&self, row: &[Option<String>]) -> Result<(), BackupError> {
        let bytes_total = data_size(row)?;
        self.note(|state| {
            state.phase = BackupPhase::Copying;
            state.bytes_total = bytes_total;
        });
        Ok(())
    }

    /// Everything from the start to the stop must be in the archive, with the history that leads there.
    pub(super) async fn await_wal(
        &self,
        start: WalPosition,
        stop: WalPosition,
        size: SegmentSize,
    ) -> Result<(), BackupError> {
        let deadline = Instant::now() + WAL_PATIENCE;
        let mut switch_at = Instant::now();
        for name in needed(start, stop, size) {
            let path = self.repository.root.wal_file(&name, self.pod);
            let store = &self.repository.store;
            while !patiently("looking for the WAL of the backup", || store.exists_as_either(&path)).await? {
                if Instant::now() >= deadline {
                    return Err(BackupError::Wal(name.to_string()));
                }
                if Instant::now() >= switch_at {
                    switch_at = Instant::now() + SWITCH_EVERY;
                    if let Err(error) = self.switch().await {
                        tracing::warn!(error = %Chain(&error), "the last WAL of the backup is not ended yet");
                    }
                }
                sleep(WAL_EVERY).await;
            }
        }
        Ok(())
    }

    async fn switch(&self) -> Result<(), BackupError> {
        match (self.leader)() {
            Some(Leader::Here) => Ok(archiving::switch_wal(self.socket_directory).await?),
            Some(Leader::There(member)) => Ok(self.peers.switch_wal(member).await?),
            None => Ok(()),
        }
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut BackupState)) {
        self.state.send_modify(|state| {
            if let Some(state) = state {
                change(state);
            }
        });
    }
}

async fn begin_full(server: &mut Walsender, name: &str) -> Result<WalPosition, BackupError> {
    server.base_backup(name, Extent::Everything).await?;
    first_row(server).await
}

/// Where the copy starts: the first that the server says of a backup that it takes.
pub(super) async fn first_row(server: &mut Walsender) -> Result<WalPosition, BackupError> {
    match server.next().await? {
        Event::Row(row) => Ok(protocol::position(&row)?),
        _ => Err(ProtocolError::Unexpected("no start").into()),
    }
}

/// Bytes of the data directory. A row for each tablespace: OID, place, size in KiB. Only the data directory itself has
/// no OID.
fn data_size(row: &[Option<String>]) -> Result<Option<u64>, BackupError> {
    if row.first().is_some_and(Option::is_some) {
        return Err(BackupError::Tablespaces);
    }
    let kibibytes: Option<u64> = row.get(2).and_then(Option::as_deref).and_then(|size| size.parse().ok());
    Ok(kibibytes.map(|kibibytes| kibibytes << 10))
}

/// Files of the archive that a backup cannot do without.
fn needed(start: WalPosition, stop: WalPosition, size: SegmentSize) -> Vec<WalName> {
    let first = Segment::holding(start.timeline, start.lsn, size).absolute(size);
    let last = Segment::up_to(stop.timeline, stop.lsn, size).absolute(size);
    let segments =
        (first..=last).map(|number| WalName::Segment(Segment::numbered(stop.timeline, number, size)));
    let history = (stop.timeline.0.get() > 1).then_some(WalName::History(stop.timeline));
    history.into_iter().chain(segments).collect()
}

/// The archive that comes now, and those that have come.
struct Copy {
    room: Room,
    current: Option<(String, Pieces)>,
    archives: Vec<ArchiveContents>,
    stored: u64,
    shown: u64,
}

impl Copy {
    async fn begin(
        &mut self,
        repository: &Repository,
        backup: &str,
        archive: String,
    ) -> Result<(), BackupError> {
        self.end().await?;
        let (root, of, name) = (repository.root.clone(), backup.to_owned(), archive.clone());
        let pieces = Pieces::new(repository.store.clone(), self.room.clone(), move |number| {
            root.piece(&of, &name, number)
        });
        self.current = Some((archive, pieces));
        Ok(())
    }

    async fn add(&mut self, data: bytes::Bytes, run: &Run<'_>) -> Result<(), BackupError> {
        let Some((_, pieces)) = &mut self.current else {
            return Err(ProtocolError::Unexpected("bytes of no archive").into());
        };
        pieces.add(data).await?;
        let sizes = pieces.sizes();
        let plain = self.archives.iter().map(|archive| archive.size_bytes).sum::<u64>() + sizes.plain;
        if plain >= self.shown + SHOW_EVERY {
            self.shown = plain;
            run.note(|state| {
                state.bytes_done = plain;
                state.stored_bytes = self.stored + sizes.stored;
            });
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), BackupError> {
        let Some((name, pieces)) = self.current.take() else { return Ok(()) };
        let sizes = pieces.finish().await?;
        self.stored += sizes.stored;
        self.archives.push(ArchiveContents { name, pieces: sizes.pieces, size_bytes: sizes.plain });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::postgres::{Lsn, Timeline};

    use super::*;

    #[test]
    fn a_backup_needs_its_wal_and_its_history() {
        let at = |timeline, lsn| WalPosition { timeline: Timeline::new(timeline).unwrap(), lsn: Lsn(lsn) };
        let names = |start, stop| {
            let needed = needed(start, stop, SegmentSize(1 << 24)).into_iter();
            needed.map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(at(1, 0x200_0028), at(1, 0x200_0100)), ["000000010000000000000002"]);
        // A position at a boundary ends the segment before it.
        assert_eq!(names(at(1, 0x200_0028), at(1, 0x300_0000)), ["000000010000000000000002"]);
        assert_eq!(
            names(at(3, 0x200_0028), at(3, 0x300_0001)),
            ["00000003.history", "000000030000000000000002", "000000030000000000000003"]
        );
    }

    #[test]
    fn a_tablespace_elsewhere_is_refused() {
        let row = |fields: [Option<&str>; 3]| data_size(&fields.map(|field| field.map(str::to_owned)));
        assert_eq!(row([None, None, Some("23")]).unwrap(), Some(23 << 10));
        assert_eq!(row([None, None, None]).unwrap(), None);
        let elsewhere = row([Some("16384"), Some("/mnt/fast"), Some("23")]);
        assert!(matches!(elsewhere, Err(BackupError::Tablespaces)));
    }
}
