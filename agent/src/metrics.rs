//! Prometheus metrics of one member. Names are an interface: alerts and dashboards use them.
//!
//! Gauges are set from what the driver shows at the moment of the scrape; counters and histograms are fed by it
//! as things happen.

mod archive;

use std::{fmt, sync::Mutex};

use archive::ArchiveMetrics;
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};
use proto::{
    clock::BootTime,
    wire::{
        backup::ArchiveStatus,
        http::{Role, State},
    },
};

use crate::{archive::Counts, published::Published};

/// Failovers end between a second and, with the slow profile, a minute.
const OUTAGE_BUCKETS: [f64; 12] = [0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0, 30.0, 60.0];
/// A write of the Lease takes milliseconds; the fence begins after seconds.
const CALL_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Owner {
    database: String,
    namespace: String,
}

type Float = Gauge<f64, std::sync::atomic::AtomicU64>;

/// All metrics of this process.
pub(crate) struct Metrics {
    registry: Registry,
    owner: Owner,
    failovers: Family<Owner, Counter>,
    switchovers: Family<Owner, Counter>,
    outage: Family<Owner, Histogram>,
    lease_calls: Family<Owner, Histogram>,
    fences: Family<Owner, Counter>,
    reclones: Family<Owner, Counter>,
    promises: Family<Owner, Counter>,
    relays: Family<Owner, Counter>,
    gauges: Gauges,
    archive: ArchiveMetrics,
    /// Fence count of the supervisor run seen last, to count what is added.
    fences_seen: Mutex<u64>,
}

struct Gauges {
    primary: Family<Owner, Gauge>,
    by_promise: Family<Owner, Gauge>,
    promised: Family<Owner, Gauge>,
    replica: Family<Owner, Gauge>,
    running: Family<Owner, Gauge>,
    streaming: Family<Owner, Gauge>,
    timeline: Family<Owner, Gauge>,
    epoch: Family<Owner, Gauge>,
    durable: Family<Owner, Gauge>,
    standbys: Family<Owner, Gauge>,
    pending_restart: Family<Owner, Gauge>,
    failover_blocked: Family<Owner, Gauge>,
    lag_bytes: Family<Owner, Gauge>,
    lag_seconds: Family<Owner, Float>,
    lease_age: Family<Owner, Float>,
    lateness: Family<Owner, Float>,
    tick_age: Family<Owner, Float>,
    volume_available: Family<Owner, Gauge>,
    volume_size: Family<Owner, Gauge>,
}

impl Metrics {
    /// Metrics of the member of one Database.
    pub(crate) fn new(database: &str, namespace: &str) -> Self {
        let mut registry = Registry::default();
        let owner = Owner { database: database.to_owned(), namespace: namespace.to_owned() };
        // The library appends `_total` to counters.
        let failovers = register(&mut registry, "database_failover", "Unplanned take-overs by this member");
        let switchovers = register(&mut registry, "database_switchover", "Planned take-overs by this member");
        let fences =
            register(&mut registry, "database_fence", "Times that a missed renewal ended the server here");
        let reclones =
            register(&mut registry, "database_reclone", "Times that this member copied its data anew");
        let promises = register(
            &mut registry,
            "database_promise",
            "Promises to a primary that could not renew, since this member could not write its renewal either",
        );
        let relays = register(
            &mut registry,
            "database_relay",
            "Renewals of a primary that this member was asked to write, and then saw in the Lease",
        );
        let outage: Family<Owner, Histogram> =
            Family::new_with_constructor(|| Histogram::new(OUTAGE_BUCKETS));
        registry.register_with_unit(
            "database_failover_duration",
            "From the leader last known alive until this member accepted writes in its place",
            Unit::Seconds,
            outage.clone(),
        );
        let lease_calls: Family<Owner, Histogram> =
            Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS));
        registry.register_with_unit(
            "database_lease_write_duration",
            "Answer time of the API server to writes of the Lease",
            Unit::Seconds,
            lease_calls.clone(),
        );
        // Present from the start, so that a first failover shows as an increase.
        for family in [&failovers, &switchovers, &fences, &reclones, &promises, &relays] {
            let family: &Family<Owner, Counter> = family;
            drop(family.get_or_create(&owner));
        }
        let gauges = Gauges::new(&mut registry);
        let archive = ArchiveMetrics::new(&mut registry);
        Self {
            registry,
            owner,
            failovers,
            switchovers,
            outage,
            lease_calls,
            fences,
            reclones,
            promises,
            relays,
            gauges,
            archive,
            fences_seen: Mutex::new(0),
        }
    }

    /// This member took over from another one.
    pub(crate) fn took_over(&self, planned: bool, seconds: f64) {
        let counter = if planned { &self.switchovers } else { &self.failovers };
        counter.get_or_create(&self.owner).inc();
        self.outage.get_or_create(&self.owner).observe(seconds);
    }

    /// A write of the Lease was answered.
    pub(crate) fn lease_written(&self, seconds: f64) {
        self.lease_calls.get_or_create(&self.owner).observe(seconds);
    }

    /// This member begins to copy its data anew.
    pub(crate) fn recloning(&self) {
        self.reclones.get_or_create(&self.owner).inc();
    }

    /// This member promised a primary to wait.
    pub(crate) fn promised(&self) {
        self.promises.get_or_create(&self.owner).inc();
    }

    /// A primary's renewal that this member was asked to write has landed.
    pub(crate) fn relayed(&self) {
        self.relays.get_or_create(&self.owner).inc();
    }

    /// The supervisor's count of fences in its run.
    pub(crate) fn fences(&self, in_run: u64) {
        let mut seen = self.fences_seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let added = if in_run < *seen { in_run } else { in_run - *seen };
        *seen = in_run;
        self.fences.get_or_create(&self.owner).inc_by(added);
    }

    /// The metrics as text.
    pub(crate) fn encode(
        &self,
        shown: &Published,
        (archive, counts): (Option<ArchiveStatus>, Counts),
        now: BootTime,
    ) -> Result<String, fmt::Error> {
        self.gauges.set(&self.owner, shown, now);
        self.archive.set(&self.owner, archive.as_ref(), counts, Timestamp::now());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Gauges {
    fn new(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            primary: register(r, "database_primary", "1 while this member leads and accepts writes"),
            by_promise: register(
                r,
                "database_led_by_promise",
                "1 while this member leads by promise of others, since its renewals of the Lease do not land",
            ),
            promised: register(
                r,
                "database_promised",
                "1 while this member takes no part in an election, having promised that to a primary",
            ),
            replica: register(r, "database_replica", "1 while this member is a standby"),
            running: register(r, "database_running", "1 while the server takes connections"),
            streaming: register(r, "database_streaming", "1 while this standby streams from the leader"),
            timeline: register(r, "database_timeline", "Timeline of the last flushed record"),
            epoch: register(r, "database_epoch", "Epoch of the Lease as last seen here"),
            durable: register(r, "database_durable", "On the primary: 1 while commits wait for a standby"),
            standbys: register(r, "database_standbys_streaming", "On the primary: standbys that stream"),
            pending_restart: register(r, "database_pending_restart", "Settings that wait for a restart"),
            failover_blocked: register(r, "database_failover_blocked", "1 while nobody else could take over"),
            lag_bytes: register(
                r,
                "database_replication_lag_bytes",
                "WAL that this standby has not replayed",
            ),
            lag_seconds: register(r, "database_replication_lag_seconds", "Age of the last replayed commit"),
            lease_age: register(
                r,
                "database_lease_age_seconds",
                "Since the Lease was last seen or written by this member",
            ),
            lateness: register(
                r,
                "database_supervisor_worst_lateness_seconds",
                "Largest delay of PID 1's own timer",
            ),
            tick_age: register(r, "database_agent_tick_age_seconds", "Since the agent's loop last ran"),
            volume_available: register(r, "database_volume_available_bytes", "Space left on the data volume"),
            volume_size: register(r, "database_volume_size_bytes", "Size of the data volume"),
        }
    }

    fn set(&self, owner: &Owner, shown: &Published, now: BootTime) {
        let (status, role) = (&shown.status, shown.role(now));
        let flag = |family: &Family<Owner, Gauge>, on: bool| {
            family.get_or_create(owner).set(i64::from(on));
        };
        let number = |family: &Family<Owner, Gauge>, value: u64| {
            family.get_or_create(owner).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        flag(&self.primary, role == Role::Primary);
        flag(&self.by_promise, role == Role::Primary && shown.by_promise);
        flag(&self.promised, shown.promised_until.is_some_and(|until| now < until));
        flag(&self.replica, role == Role::Replica);
        flag(&self.running, shown.running());
        flag(&self.streaming, status.state == State::Streaming);
        flag(&self.failover_blocked, status.failover_blocked.is_some());
        number(&self.timeline, status.timeline.map_or(0, |timeline| u64::from(timeline.0.get())));
        number(&self.epoch, u64::from(status.epoch.0));
        number(&self.pending_restart, status.pending_restart.len() as u64);
        let streams = status.replication.iter().filter(|standby| standby.state == "streaming").count();
        optional(&self.standbys, owner, (role == Role::Primary).then_some(streams as u64));
        optional(&self.durable, owner, status.durable.map(u64::from));
        optional(&self.lag_bytes, owner, status.lag.map(|lag| lag.bytes));
        optional(&self.volume_available, owner, status.disk.map(|space| space.available_bytes));
        optional(&self.volume_size, owner, status.disk.map(|space| space.total_bytes));
        match status.lag {
            Some(lag) => {
                self.lag_seconds.get_or_create(owner).set(lag.seconds);
            }
            None => {
                self.lag_seconds.remove(owner);
            }
        }
        if let Some(seen) = shown.lease_seen_at {
            self.lease_age.get_or_create(owner).set(now.since(seen).as_secs_f64());
        }
        self.lateness.get_or_create(owner).set(shown.worst_lateness.as_secs_f64());
        self.tick_age.get_or_create(owner).set(now.since(shown.at).as_secs_f64());
    }
}

/// A value that does not apply is absent, not zero.
fn optional(family: &Family<Owner, Gauge>, owner: &Owner, value: Option<u64>) {
    match value {
        Some(value) => {
            family.get_or_create(owner).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        None => {
            family.remove(owner);
        }
    }
}
