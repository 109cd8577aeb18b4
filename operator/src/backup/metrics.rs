//! Backups of each Database for monitoring. Ages are left to whoever asks: a point in time needs no refreshing.

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use proto::wire::backup::ArchiveStatus;

use super::RepositoryFacts;

/// Which Database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    namespace: String,
    database: String,
}

/// Which Database, and how a backup of it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    namespace: String,
    database: String,
    result: &'static str,
}

/// The results there are.
const RESULTS: [&str; 2] = ["completed", "failed"];

/// Counters and gauges.
#[derive(Clone, Default)]
pub(crate) struct BackupMetrics {
    ended: Family<Ended, Counter>,
    last: Family<Of, Gauge>,
    size: Family<Of, Gauge>,
    stored: Family<Of, Gauge>,
    repository_readable: Family<Of, Gauge>,
    archiving: Family<Of, Gauge>,
    waiting: Family<Of, Gauge>,
    last_archived: Family<Of, Gauge>,
}

impl BackupMetrics {
    /// Registered, with nothing in them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("backups", "Backups that ended, by result", metrics.ended.clone());
        let gauges = [
            ("last_backup_timestamp", "End of the newest good backup", Some(Unit::Seconds), &metrics.last),
            ("last_backup_size", "Size of the data in it", Some(Unit::Bytes), &metrics.size),
            ("last_backup_stored", "Size of it in the store", Some(Unit::Bytes), &metrics.stored),
            (
                "repository_readable",
                "1 if the repository was readable when last looked at",
                None,
                &metrics.repository_readable,
            ),
            ("archiving", "1 if the write-ahead log reaches the store", None, &metrics.archiving),
            (
                "archive_waiting_files",
                "Files of the write-ahead log that wait to be archived",
                None,
                &metrics.waiting,
            ),
            (
                "last_archived_timestamp",
                "When the store took the last file",
                Some(Unit::Seconds),
                &metrics.last_archived,
            ),
        ];
        for (name, help, unit, gauge) in gauges {
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge.clone()),
                None => registry.register(name, help, gauge.clone()),
            }
        }
        metrics
    }

    /// A backup ended.
    pub(crate) fn ended(&self, namespace: &str, database: &str, completed: bool) {
        let result = RESULTS[usize::from(!completed)];
        self.ended.get_or_create(&ended(namespace, database, result)).inc();
    }

    /// A look into the repository.
    pub(crate) fn looked(&self, namespace: &str, database: &str, facts: &RepositoryFacts) {
        let of = of(namespace, database);
        self.repository_readable.get_or_create(&of).set(i64::from(facts.error.is_none()));
        if let Some(newest) = facts.newest() {
            self.last.get_or_create(&of).set(newest.stopped_at.as_second());
            self.size.get_or_create(&of).set(amount(newest.size_bytes));
            self.stored.get_or_create(&of).set(amount(newest.stored_bytes));
        }
        // So that a rate over failures has a beginning.
        for result in RESULTS {
            drop(self.ended.get_or_create(&ended(namespace, database, result)));
        }
    }

    /// What the primary says of its archive.
    pub(crate) fn archives(&self, namespace: &str, database: &str, archive: &ArchiveStatus, works: bool) {
        let of = of(namespace, database);
        self.archiving.get_or_create(&of).set(i64::from(works));
        if let Some(waiting) = archive.waiting {
            self.waiting.get_or_create(&of).set(amount(waiting));
        }
        if let Some(last) = &archive.last_archived {
            self.last_archived.get_or_create(&of).set(Timestamp::as_second(last.at));
        }
    }

    /// The Database is gone, or takes no backups any more.
    pub(crate) fn forget(&self, namespace: &str, database: &str) {
        let of = of(namespace, database);
        let gauges = [
            &self.last,
            &self.size,
            &self.stored,
            &self.repository_readable,
            &self.archiving,
            &self.waiting,
            &self.last_archived,
        ];
        for gauge in gauges {
            gauge.remove(&of);
        }
        for result in RESULTS {
            self.ended.remove(&ended(namespace, database, result));
        }
    }
}

fn of(namespace: &str, database: &str) -> Of {
    Of { namespace: namespace.to_owned(), database: database.to_owned() }
}

fn ended(namespace: &str, database: &str, result: &'static str) -> Ended {
    Ended { namespace: namespace.to_owned(), database: database.to_owned(), result }
}

fn amount(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
