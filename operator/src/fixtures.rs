//! Objects for tests.

use jiff::Timestamp;
use proto::{
    api::database::Database,
    identity::{Epoch, Ordinal},
    postgres::{Lsn, SystemIdentifier, Timeline, WalPosition},
    wire::{
        backup::{BackupKind, BackupSummary},
        http::{Role, State},
        peer::Status,
    },
};
use serde_json::{Value, json};

use crate::{build::Shape, cluster::Cluster};

/// `orders-db` in `prod` with three replicas; `changes` replace fields of the spec.
pub(crate) fn database(changes: &Value) -> Database {
    serde_json::from_value(stored_database(changes)).unwrap()
}

/// The same as the API server stores it.
pub(crate) fn stored_database(changes: &Value) -> Value {
    let mut spec = json!({
        "version": "16.3",
        "replicas": 3,
        "storage": {"size": "50Gi", "storageClassName": "fast-ssd"},
    });
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({
        "apiVersion": "db.example.com/v1alpha1",
        "kind": "Database",
        "metadata": {"name": "orders-db", "namespace": "prod", "uid": "4bd1", "generation": 1},
        "spec": spec,
    })
}

/// The sample, validated.
pub(crate) fn cluster() -> Cluster {
    cluster_with(&json!({}))
}

/// The sample with changes, validated.
pub(crate) fn cluster_with(changes: &Value) -> Cluster {
    Cluster::parse(&database(changes)).unwrap()
}

/// Three pods, initialised.
pub(crate) fn shape() -> Shape {
    Shape {
        system_identifier: Some(proto::postgres::SystemIdentifier(7_301_234_567_890_123_456)),
        pods: 3,
        template_size: "50Gi".to_owned(),
        accept_loss: None,
        agent_image: "example.com/matriarch-agent:1".to_owned(),
        restore: None,
    }
}

/// A good full backup of nothing, that took no time.
pub(crate) fn backup_summary(name: &str, at: Timestamp) -> BackupSummary {
    let position = WalPosition { timeline: Timeline::FIRST, lsn: Lsn(0) };
    BackupSummary {
        name: name.to_owned(),
        kind: BackupKind::Full,
        parent: None,
        depth: 0,
        fallback: None,
        started_at: at,
        stopped_at: at,
        start: position,
        stop: position,
        size_bytes: 0,
        stored_bytes: 0,
        server_version: 160_003,
        pod: "orders-db-1".to_owned(),
        from_standby: true,
        damage: None,
    }
}

/// An agent's word.
pub(crate) fn says(ordinal: u8, role: Role, state: State) -> Status {
    Status {
        pod: format!("orders-db-{ordinal}"),
        ordinal: Ordinal(ordinal),
        role,
        state,
        doing: None,
        epoch: Epoch(1),
        leader: None,
        data_id: None,
        system_identifier: Some(SystemIdentifier(77)),
        timeline: None,
        position: None,
        lag: None,
        replication: Vec::new(),
        durable: None,
        failover_blocked: None,
        server_version: Some(160_003),
        generation: crate::build::generation(&cluster()),
        pending_restart: Vec::new(),
        configuration_error: None,
        disk: None,
        last_takeover: None,
        archive: None,
        restore: None,
    }
}
