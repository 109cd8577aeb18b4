//! Restore drills of each Database for monitoring, from what its status says: so they survive this process.

use jiff::Timestamp;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use proto::api::{
    schedule::Schedule,
    status::{DatabaseStatus, DrillResult, RESTORE_PROVEN, RestoreDrill},
};

use super::metrics::{Ended, Of, ended, of};
use crate::cluster::Cluster;

/// The results there are.
const RESULTS: [&str; 2] = ["proven", "failed"];

/// Counters and gauges.
#[derive(Clone, Default)]
pub(crate) struct DrillMetrics {
    ended: Family<Ended, Counter>,
    proven: Family<Of, Gauge>,
    due: Family<Of, Gauge>,
    failed: Family<Of, Gauge>,
    duration: Family<Of, Gauge>,
}

impl DrillMetrics {
    /// Registered, with nothing in them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("restore_drills", "Restore drills that ended, by result", metrics.ended.clone());
        registry.register(
            "restore_drill_failed",
            "1 if the last restore drill proved nothing",
            metrics.failed.clone(),
        );
        let timed = [
            ("last_proven_restore_timestamp", "End of the last drill that proved a restore", &metrics.proven),
            ("restore_drill_due_timestamp", "When the next proof was to begin by schedule", &metrics.due),
            ("last_restore_drill_duration", "How long the last restore drill took", &metrics.duration),
        ];
        for (name, help, gauge) in timed {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        }
        metrics
    }

    /// A status was written.
    pub(crate) fn told(&self, cluster: &Cluster, before: Option<&DatabaseStatus>, now: &DatabaseStatus) {
        let Some(schedule) = cluster.spec.backup.as_ref().and_then(|backup| backup.drill.as_ref()) else {
            return self.forget(cluster.namespace(), cluster.name());
        };
        let of = of(cluster.namespace(), cluster.name());
        set(&self.due, &of, due(schedule, now));
        set(&self.proven, &of, now.last_proven_restore_time.as_ref().map(|time| time.0));
        // So that a rate over failures has a beginning.
        let [proven, failed] = RESULTS.map(|result| {
            self.ended.get_or_create_owned(&ended(cluster.namespace(), cluster.name(), result))
        });
        let Some(drill) = &now.restore_drill else { return };
        self.failed.get_or_create(&of).set(i64::from(drill.result == DrillResult::Failed));
        self.duration.get_or_create(&of).set(seconds(drill));
        if before.and_then(|before| before.restore_drill.as_ref()).map(|drill| &drill.job) != Some(&drill.job)
        {
            let counter = if drill.result == DrillResult::Proven { proven } else { failed };
            counter.inc();
        }
    }

    /// The Database is gone, or wants no drills any more.
    pub(crate) fn forget(&self, namespace: &str, database: &str) {
        let of = of(namespace, database);
        for gauge in [&self.proven, &self.due, &self.failed, &self.duration] {
            gauge.remove(&of);
        }
        for result in RESULTS {
            self.ended.remove(&ended(namespace, database, result));
        }
    }
}

fn set(gauge: &Family<Of, Gauge>, of: &Of, time: Option<Timestamp>) {
    match time {
        Some(time) => {
            gauge.get_or_create(of).set(time.as_second());
        }
        None => {
            gauge.remove(of);
        }
    }
}

fn seconds(drill: &RestoreDrill) -> i64 {
    let times = drill.started_at.as_ref().zip(drill.ended_at.as_ref());
    times.map_or(0, |(started, ended)| ended.0.duration_since(started.0).as_secs())
}

/// The first time of the schedule after the last proof, or after drills were asked for.
fn due(schedule: &Schedule, status: &DatabaseStatus) -> Option<Timestamp> {
    let asked = status.conditions.iter().find(|condition| condition.type_ == RESTORE_PROVEN);
    let asked = asked.map(|condition| &condition.last_transition_time);
    schedule.next_after(status.last_proven_restore_time.as_ref().or(asked)?.0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn status(job: &str, result: DrillResult, proven: Option<&str>) -> DatabaseStatus {
        let time = |text: &str| Time(text.parse().unwrap());
        DatabaseStatus {
            last_proven_restore_time: proven.map(time),
            restore_drill: Some(RestoreDrill { job: job.to_owned(), result, ..RestoreDrill::default() }),
            conditions: vec![Condition {
                type_: RESTORE_PROVEN.to_owned(),
                status: "False".to_owned(),
                reason: String::new(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: time("2026-03-04T00:00:00Z"),
            }],
            ..DatabaseStatus::default()
        }
    }

    #[test]
    fn a_drill_counts_once_and_the_next_is_due_after_the_last_proof() {
        let mut registry = Registry::default();
        let metrics = DrillMetrics::new(&mut registry);
        let store = json!({"destination": "s3://b/f", "drillSchedule": "0 6 * * 0"});
        let cluster = fixtures::cluster_with(&json!({"backup": store}));
        let failed = status("a", DrillResult::Failed, None);
        metrics.told(&cluster, None, &failed);
        metrics.told(&cluster, Some(&failed), &failed);
        let of = of("prod", "orders-db");
        let count = |result| metrics.ended.get_or_create(&ended("prod", "orders-db", result)).get();
        let due = || metrics.due.get_or_create(&of).get();
        let second = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        assert_eq!((count("failed"), count("proven")), (1, 0));
        assert_eq!(metrics.failed.get_or_create(&of).get(), 1);
        assert_eq!(due(), second("2026-03-08T06:00:00Z"), "since drills are asked for");
        let proven = status("b", DrillResult::Proven, Some("2026-03-08T06:20:00Z"));
        metrics.told(&cluster, Some(&failed), &proven);
        assert_eq!((count("failed"), count("proven")), (1, 1));
        assert_eq!(metrics.failed.get_or_create(&of).get(), 0);
        assert_eq!(due(), second("2026-03-15T06:00:00Z"));
    }
}
