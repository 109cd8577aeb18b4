//! What the operator counts about itself, in the Prometheus text format.

use std::{sync::Arc, time::Duration};

use crate::backup::{BackupMetrics, DrillMetrics};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Buckets for one reconcile: from a pass over caches to several calls that hit their deadlines.
const SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// Label of a failed reconcile: the stable name of the step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    step: &'static str,
}

/// Label of a write: the kind of the object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
}

/// The operator's counters.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    reconciles: Counter,
    failures: Family<Failure, Counter>,
    duration: Histogram,
    writes: Family<Write, Counter>,
    leader: Gauge,
    pub(crate) backups: BackupMetrics,
    pub(crate) drills: DrillMetrics,
}

impl Metrics {
    /// Counters at zero, registered.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("matriarch_operator");
        let reconciles = Counter::default();
        let failures = Family::default();
        let duration = Histogram::new(SECONDS);
        let writes = Family::default();
        let leader = Gauge::default();
        registry.register("reconciles", "Reconciles of a Database begun", reconciles.clone());
        registry.register("reconcile_failures", "Reconciles that failed, by step", failures.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time from begin to end of one reconcile",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register(
            "writes",
            "Objects written, by kind; an unchanged world needs none",
            writes.clone(),
        );
        registry.register("leader", "1 while this replica leads", leader.clone());
        let backups = BackupMetrics::new(&mut registry);
        let drills = DrillMetrics::new(&mut registry);
        Self { registry: Arc::new(registry), reconciles, failures, duration, writes, leader, backups, drills }
    }

    /// A reconcile ended after `took`, in `failed_step` if it failed.
    pub(crate) fn reconciled(&self, took: Duration, failed_step: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(step) = failed_step {
            self.failures.get_or_create(&Failure { step }).inc();
        }
    }

    /// An object of `kind` was written.
    pub(crate) fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&Write { kind }).inc();
    }

    /// This replica began to lead.
    pub(crate) fn leading(&self) {
        self.leader.set(1);
    }

    /// Everything as text.
    pub(crate) fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_counted() {
        let metrics = Metrics::new();
        metrics.reconciled(Duration::from_millis(20), None);
        metrics.reconciled(Duration::from_millis(20), Some("apply"));
        metrics.wrote("Service");
        let text = metrics.render().unwrap();
        for line in [
            "matriarch_operator_reconciles_total 2",
            r#"matriarch_operator_reconcile_failures_total{step="apply"} 1"#,
            "matriarch_operator_reconcile_duration_seconds_count 2",
            r#"matriarch_operator_writes_total{kind="Service"} 1"#,
            "matriarch_operator_leader 0",
        ] {
            assert!(text.contains(line), "{line} missing in\n{text}");
        }
    }
}
