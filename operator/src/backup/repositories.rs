//! What was seen in each Database's repository last. Looking costs requests to the store, so the reconcile of a
//! Database takes it from here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use proto::wire::backup::{BackupSummary, Repository};

/// Retention is asked for once a day, and after each backup.
const RETENTION_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// One repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RepositoryFacts {
    /// What it held when it was last readable.
    pub(crate) seen: Option<Repository>,
    /// Why it could not be read the last time.
    pub(crate) error: Option<String>,
}

impl RepositoryFacts {
    /// The newest backup that is worth restoring.
    pub(crate) fn newest(&self) -> Option<&BackupSummary> {
        self.seen.as_ref()?.backups.iter().rev().find(|backup| backup.damage.is_none())
    }
}

/// When retention was asked for, and the newest backup that there was.
type Retained = (Timestamp, Option<Timestamp>);

/// By namespace and name of the Database.
#[derive(Default)]
pub(crate) struct Repositories(Mutex<HashMap<(String, String), Kept>>);

#[derive(Default)]
struct Kept {
    facts: Option<Arc<RepositoryFacts>>,
    retained: Option<Retained>,
}

impl Repositories {
    /// What is known; `None` if this process has not looked yet.
    pub(crate) fn of(&self, namespace: &str, database: &str) -> Option<Arc<RepositoryFacts>> {
        self.locked().get(&key(namespace, database))?.facts.clone()
    }

    /// Remembers a look. One that failed leaves what was seen before.
    pub(crate) fn enter(&self, namespace: &str, database: &str, look: Result<Repository, String>) {
        let mut all = self.locked();
        let kept = all.entry(key(namespace, database)).or_default();
        let facts = match look {
            Ok(seen) => RepositoryFacts { seen: Some(seen), error: None },
            Err(error) => {
                let seen = kept.facts.as_ref().and_then(|facts| facts.seen.clone());
                RepositoryFacts { seen, error: Some(error) }
            }
        };
        kept.facts = Some(Arc::new(facts));
    }

    /// Whether it is time to ask for retention; if so, it is taken for asked now.
    pub(crate) fn retention_is_due(
        &self,
        namespace: &str,
        database: &str,
        newest: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let mut all = self.locked();
        let kept = all.entry(key(namespace, database)).or_default();
        let done = kept
            .retained
            .is_some_and(|(at, seen)| seen == newest && now.duration_since(at) < RETENTION_EVERY);
        if !done {
            kept.retained = Some((now, newest));
        }
        !done
    }

    /// Forgets a Database.
    pub(crate) fn forget(&self, namespace: &str, database: &str) {
        self.locked().remove(&key(namespace, database));
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Kept>> {
        // Every critical section is one map operation: a panic elsewhere leaves nothing half-done here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(namespace: &str, database: &str) -> (String, String) {
    (namespace.to_owned(), database.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository {
            path: "4bd1/77".to_owned(),
            backups: Vec::new(),
            snapshots: Vec::new(),
            earliest_restorable: None,
            latest_restorable: None,
        }
    }

    #[test]
    fn a_failed_look_leaves_what_was_seen() {
        let all = Repositories::default();
        assert_eq!(all.of("prod", "db"), None);
        all.enter("prod", "db", Ok(repository()));
        all.enter("prod", "db", Err("403".to_owned()));
        let facts = all.of("prod", "db").unwrap();
        assert_eq!((facts.seen.as_ref(), facts.error.as_deref()), (Some(&repository()), Some("403")));
        all.enter("prod", "db", Ok(repository()));
        assert_eq!(all.of("prod", "db").unwrap().error, None);
        all.forget("prod", "db");
        assert_eq!(all.of("prod", "db"), None);
    }

    #[test]
    fn retention_is_due_daily_and_after_each_backup() {
        let all = Repositories::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let due = |newest, now| all.retention_is_due("prod", "db", newest, at(now));
        assert!(due(None, 0));
        assert!(!due(None, 60));
        assert!(due(Some(at(90)), 100));
        assert!(!due(Some(at(90)), 86_400));
        assert!(due(Some(at(90)), 86_501));
    }
}
