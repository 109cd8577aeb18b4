//! Backups of each Database for monitoring. Ages are left to whoever asks: a point in time needs no refreshing.

use jiff::{SignedDuration, Timestamp};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use proto::wire::backup::ArchiveStatus;

use super::RepositoryFacts;
use crate::cluster::Cluster;

/// Which Database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Of {
    namespace: String,
    database: String,
}

/// Which Database, and how a backup of it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    namespace: String,
    database: String,
    result: &'static str,
}

/// The control plane begins a backup by its own clock, and the instance's may be behind that.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(1);
/// The results there are.
const RESULTS: [&str; 2] = ["completed", "failed"];

/// Counters and gauges.
#[derive(Clone, Default)]
pub(crate) struct BackupMetrics {
    ended: Family<Ended, Counter>,
    last: Family<Of, Gauge>,
    due: Family<Of, Gauge>,
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
            (
                "backup_due_timestamp",
                "When the next good backup was to begin by schedule",
                Some(Unit::Seconds),
                &metrics.due,
            ),
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

    /// A look into the repository; without any backup nothing could be restored since `bare`.
    pub(crate) fn looked(&self, cluster: &Cluster, facts: &RepositoryFacts, bare: Timestamp) {
        let (namespace, database) = (cluster.namespace(), cluster.name());
        let of = of(namespace, database);
        if let Some(due) = due(cluster, facts, bare) {
            self.due.get_or_create(&of).set(due.as_second());
        }
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
            &self.due,
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

/// The first time of the schedule after the newest good backup, so that an alert needs not know how rare backups are
/// meant to be. The first backup is due at once.
fn due(cluster: &Cluster, facts: &RepositoryFacts, bare: Timestamp) -> Option<Timestamp> {
    let schedule = &cluster.spec.backup.as_ref()?.schedule;
    match (facts.newest(), &facts.seen) {
        (Some(newest), _) => schedule.next_after(newest.started_at + CLOCKS_DIFFER),
        (None, Some(_)) => Some(bare),
        (None, None) => None,
    }
}

pub(super) fn of(namespace: &str, database: &str) -> Of {
    Of { namespace: namespace.to_owned(), database: database.to_owned() }
}

pub(super) fn ended(namespace: &str, database: &str, result: &'static str) -> Ended {
    Ended { namespace: namespace.to_owned(), database: database.to_owned(), result }
}

fn amount(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proto::wire::backup::{BackupSummary, Repository};
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn holding(backups: &[(&str, Option<&str>)]) -> RepositoryFacts {
        let summary = |(started, damage): &(&str, Option<&str>)| BackupSummary {
            damage: damage.map(str::to_owned),
            ..fixtures::backup_summary("b", at(started))
        };
        let seen = Repository {
            path: String::new(),
            backups: backups.iter().map(summary).collect(),
            snapshots: Vec::new(),
            earliest_restorable: None,
            latest_restorable: None,
        };
        RepositoryFacts { seen: Some(seen), error: None }
    }

    #[test]
    fn a_backup_is_due_by_its_own_schedule() {
        let bare = at("2026-03-01T12:00:00Z");
        let due = |schedule: &str, backups: &[(&str, Option<&str>)]| {
            let backup = json!({"destination": "s3://b/f", "schedule": schedule});
            due(&fixtures::cluster_with(&json!({"backup": backup})), &holding(backups), bare)
        };
        let monday = ("2026-03-02T03:00:04Z", None);
        assert_eq!(due("0 3 * * *", &[monday]), Some(at("2026-03-03T03:00:00Z")));
        assert_eq!(due("0 3 * * 1", &[monday]), Some(at("2026-03-09T03:00:00Z")));
        // By hand, and by a clock that is behind.
        assert_eq!(due("0 3 * * *", &[("2026-03-02T12:00:00Z", None)]), Some(at("2026-03-03T03:00:00Z")));
        assert_eq!(due("0 3 * * *", &[("2026-03-02T02:59:58Z", None)]), Some(at("2026-03-03T03:00:00Z")));
        let damaged = ("2026-03-03T03:00:04Z", Some("page 7"));
        assert_eq!(due("0 3 * * *", &[monday, damaged]), Some(at("2026-03-03T03:00:00Z")));
        assert_eq!(due("0 3 * * *", &[]), Some(bare));
    }
}
