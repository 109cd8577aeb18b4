//! What one member's archive and backups come to. A value that does not apply is absent: only a primary archives, and
//! only where there is an archive.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use proto::wire::backup::{ArchiveMode, ArchiveStatus, BackupPhase, BackupState};

use super::{Owner, optional, register};
use crate::archive::Counts;

/// A sum of times.
type Seconds = Counter<f64, AtomicU64>;

pub(super) struct ArchiveMetrics {
    archived: Family<Owner, Counter>,
    failed: Family<Owner, Counter>,
    uploads: Family<Owner, Counter>,
    handling: Family<Owner, Seconds>,
    storing: Family<Owner, Seconds>,
    waiting: Family<Owner, Gauge>,
    oldest_waiting: Family<Owner, Gauge>,
    last_archived: Family<Owner, Gauge>,
    gap_free: Family<Owner, Gauge>,
    store_reachable: Family<Owner, Gauge>,
    backup_running: Family<Owner, Gauge>,
    backup_failed: Family<Owner, Gauge>,
    backup_read: Family<Owner, Gauge>,
    backup_total: Family<Owner, Gauge>,
    backup_stored: Family<Owner, Gauge>,
    backup_duration: Family<Owner, Gauge>,
}

impl ArchiveMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            archived: register(r, "database_archive_files", "WAL files of this server that the store took"),
            failed: register(r, "database_archive_failures", "Attempts to archive a WAL file that failed"),
            uploads: register(
                r,
                "database_archive_uploads",
                "WAL files of this server that were written to the store, those sent ahead included",
            ),
            handling: register(
                r,
                "database_archive_upload_seconds",
                "What these took in all, compression and the store included",
            ),
            storing: register(r, "database_archive_store_seconds", "What of that the store took to answer"),
            waiting: register(r, "database_archive_waiting_files", "WAL files that wait to be archived"),
            oldest_waiting: register(
                r,
                "database_archive_oldest_waiting_seconds",
                "Age of the oldest WAL file that waits to be archived; 0 if none waits",
            ),
            last_archived: register(
                r,
                "database_archive_last_archived_timestamp_seconds",
                "When the store last took a WAL file of this server",
            ),
            gap_free: register(
                r,
                "database_archive_gap_free",
                "On the primary: 1 once everything that earlier primaries left is archived",
            ),
            store_reachable: register(
                r,
                "database_archive_store_reachable",
                "1 if the store could be read and written when last tried",
            ),
            backup_running: register(r, "database_backup_running", "1 while a backup is taken from here"),
            backup_failed: register(r, "database_backup_failed", "1 if the last backup from here failed"),
            backup_read: register(
                r,
                "database_backup_read_bytes",
                "Read for the last backup from here so far",
            ),
            backup_total: register(
                r,
                "database_backup_total_bytes",
                "Estimate of what there is to read for it",
            ),
            backup_stored: register(r, "database_backup_stored_bytes", "Written to the store for it so far"),
            backup_duration: register(
                r,
                "database_backup_duration_seconds",
                "How long it has taken so far, or took to copy everything",
            ),
        }
    }

    pub(super) fn set(&self, owner: &Owner, archive: Option<&ArchiveStatus>, counts: Counts, now: Timestamp) {
        let archive = archive.filter(|archive| archive.mode == ArchiveMode::Continuous);
        self.count(owner, archive.map(|_| counts));
        let waiting = archive.and_then(|archive| archive.waiting);
        let since = archive.and_then(|archive| archive.waiting_since);
        let oldest = waiting.map(|_| since.map_or(0, |since| seconds(since, now)));
        let last = archive.and_then(|archive| archive.last_archived.as_ref());
        let last = last.and_then(|last| u64::try_from(last.at.as_second()).ok());
        let store = archive.and_then(|archive| archive.store.as_ref());
        optional(&self.waiting, owner, waiting);
        optional(&self.oldest_waiting, owner, oldest);
        optional(&self.last_archived, owner, last);
        optional(&self.gap_free, owner, archive.and_then(|archive| archive.gap_free).map(u64::from));
        optional(&self.store_reachable, owner, store.map(|store| u64::from(store.reachable)));
        self.set_backup(owner, archive.and_then(|archive| archive.backup.as_ref()), now);
    }

    fn count(&self, owner: &Owner, counts: Option<Counts>) {
        let Some(counts) = counts else {
            self.archived.remove(owner);
            self.failed.remove(owner);
            self.uploads.remove(owner);
            self.handling.remove(owner);
            self.storing.remove(owner);
            return;
        };
        let sum = |family: &Family<Owner, Seconds>, time: Duration| {
            family.get_or_create(owner).inner().store(time.as_secs_f64().to_bits(), Ordering::Relaxed);
        };
        self.archived.get_or_create(owner).inner().store(counts.archived, Ordering::Relaxed);
        self.failed.get_or_create(owner).inner().store(counts.failed, Ordering::Relaxed);
        self.uploads.get_or_create(owner).inner().store(counts.uploads, Ordering::Relaxed);
        sum(&self.handling, counts.handling);
        sum(&self.storing, counts.storing);
    }

    fn set_backup(&self, owner: &Owner, backup: Option<&BackupState>, now: Timestamp) {
        let phase = backup.map(|backup| backup.phase);
        let is_over = |phase| matches!(phase, BackupPhase::Completed | BackupPhase::Failed);
        optional(&self.backup_running, owner, phase.map(|phase| u64::from(!is_over(phase))));
        optional(&self.backup_failed, owner, phase.map(|phase| u64::from(phase == BackupPhase::Failed)));
        optional(&self.backup_read, owner, backup.map(|backup| backup.bytes_done));
        optional(&self.backup_total, owner, backup.and_then(|backup| backup.bytes_total));
        optional(&self.backup_stored, owner, backup.map(|backup| backup.stored_bytes));
        optional(&self.backup_duration, owner, backup.and_then(|backup| duration(backup, now)));
    }
}

/// Of a failed one nobody knows when it ended.
fn duration(backup: &BackupState, now: Timestamp) -> Option<u64> {
    match backup.phase {
        BackupPhase::Failed => None,
        BackupPhase::Completed => Some(seconds(backup.started_at, backup.summary.as_ref()?.stopped_at)),
        _ => Some(seconds(backup.started_at, now)),
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use proto::wire::backup::{ArchivedWal, BackupKind, StoreHealth};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn archive() -> ArchiveStatus {
        ArchiveStatus {
            mode: ArchiveMode::Continuous,
            store: Some(StoreHealth { reachable: false, why: Some("403".to_owned()), at: at(0) }),
            last_archived: Some(ArchivedWal { name: "000000010000000000000014".to_owned(), at: at(100) }),
            waiting: Some(7),
            waiting_since: Some(at(160)),
            gap_free: Some(true),
            last_error: None,
            backup: None,
        }
    }

    fn backup(phase: BackupPhase) -> BackupState {
        BackupState {
            phase,
            bytes_done: 250,
            bytes_total: Some(1_000),
            stored_bytes: 60,
            ..BackupState::begun("b".to_owned(), BackupKind::Full, at(100))
        }
    }

    /// Name to value of everything that is shown at second 200.
    fn shown(archive: Option<&ArchiveStatus>) -> Vec<(String, String)> {
        let mut registry = Registry::default();
        let metrics = ArchiveMetrics::new(&mut registry);
        let owner = Owner { database: "db".to_owned(), namespace: "prod".to_owned() };
        // What was there before and is not now must not be shown for ever.
        metrics.set(
            &owner,
            Some(&ArchiveStatus { backup: Some(backup(BackupPhase::Copying)), ..self::archive() }),
            Counts::default(),
            at(0),
        );
        let (handling, storing) = (Duration::from_millis(2_500), Duration::from_millis(1_250));
        let counts = Counts { archived: 20, failed: 3, uploads: 21, handling, storing };
        metrics.set(&owner, archive, counts, at(200));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let values = text.lines().filter_map(|line| line.split_once("{database=\"db\",namespace=\"prod\"} "));
        values.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn has(shown: &[(String, String)], name: &str, value: &str) -> bool {
        shown.contains(&(name.to_owned(), value.to_owned()))
    }

    #[test]
    fn what_waits_is_told_with_its_age() {
        let shown = shown(Some(&archive()));
        for (name, value) in [
            ("database_archive_files_total", "20"),
            ("database_archive_failures_total", "3"),
            ("database_archive_uploads_total", "21"),
            ("database_archive_upload_seconds_total", "2.5"),
            ("database_archive_store_seconds_total", "1.25"),
            ("database_archive_waiting_files", "7"),
            ("database_archive_oldest_waiting_seconds", "40"),
            ("database_archive_last_archived_timestamp_seconds", "100"),
            ("database_archive_gap_free", "1"),
            ("database_archive_store_reachable", "0"),
        ] {
            assert!(has(&shown, name, value), "{name} {value} in {shown:?}");
        }
        assert!(shown.iter().all(|(name, _)| !name.starts_with("database_backup")), "{shown:?}");
    }

    #[test]
    fn what_does_not_apply_is_absent() {
        assert_eq!(shown(None), []);
        assert_eq!(shown(Some(&ArchiveStatus { mode: ArchiveMode::Disabled, ..archive() })), []);
        let nothing = ArchiveStatus { waiting: Some(0), waiting_since: None, ..archive() };
        assert!(has(&shown(Some(&nothing)), "database_archive_oldest_waiting_seconds", "0"));
        let standby = ArchiveStatus { waiting: None, waiting_since: None, ..archive() };
        assert!(shown(Some(&standby)).iter().all(|(name, _)| !name.contains("waiting")));
    }

    #[test]
    fn a_backup_is_told_while_it_runs_and_after() {
        let of = |phase| shown(Some(&ArchiveStatus { backup: Some(backup(phase)), ..archive() }));
        let copying = of(BackupPhase::Copying);
        for (name, value) in [
            ("running", "1"),
            ("failed", "0"),
            ("read_bytes", "250"),
            ("total_bytes", "1000"),
            ("stored_bytes", "60"),
            ("duration_seconds", "100"),
        ] {
            assert!(has(&copying, &format!("database_backup_{name}"), value), "{name} in {copying:?}");
        }
        let failed = of(BackupPhase::Failed);
        assert!(has(&failed, "database_backup_running", "0") && has(&failed, "database_backup_failed", "1"));
        assert!(failed.iter().all(|(name, _)| !name.contains("duration")));
    }
}
