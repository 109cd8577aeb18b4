//! Whole reconciles against an API server in memory: what is written, in which order, and what is not.

use serde_json::{Value, json};

use super::*;
use crate::{api_server::ApiServer, fixtures, metrics::Metrics};

const DATABASE: &str = "/apis/db.example.com/v1alpha1/namespaces/prod/databases/orders-db";
const STATEFUL_SET: &str = "/apis/apps/v1/namespaces/prod/statefulsets/orders-db";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/prod/leases/orders-db";
const CRON_JOB: &str = "/apis/batch/v1/namespaces/prod/cronjobs/orders-db-backup";
const SNAPSHOT_CRON_JOB: &str = "/apis/batch/v1/namespaces/prod/cronjobs/orders-db-snapshot";
const CORE: &str = "/api/v1/namespaces/prod";

struct World {
    server: ApiServer,
    context: Arc<Context>,
}

impl World {
    fn new(changes: &Value) -> Self {
        // As main does; the second test of the process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = ApiServer::default();
        server.put(DATABASE, fixtures::stored_database(changes));
        let context = Context::new(server.client(), Metrics::new(), "agent:1".to_owned(), "me".to_owned());
        Self { server, context: Arc::new(context) }
    }

    /// A Database whose children are all there.
    async fn settled(changes: &Value) -> Self {
        let world = Self::new(changes);
        for _ in 0..3 {
            world.reconcile().await.unwrap();
        }
        world.server.take_writes();
        world.server.take_events();
        world
    }

    async fn reconcile(&self) -> Result<Action, ReconcileError> {
        self.reconcile_at(DATABASE).await
    }

    async fn reconcile_at(&self, path: &str) -> Result<Action, ReconcileError> {
        let stored = self.server.get(path).unwrap();
        let guard: DeserializeGuard<Database> = serde_json::from_value(stored).unwrap();
        reconcile(Arc::new(guard), Arc::clone(&self.context)).await
    }

    /// Writes by kind of object and name.
    fn writes(&self) -> Vec<String> {
        let short = |write: String| {
            let (method, path) = write.split_once(' ').unwrap();
            let parts: Vec<_> = path.rsplitn(3, '/').collect();
            match method {
                "POST" => format!("POST {}", parts[0]),
                _ => format!("{method} {}/{}", parts[1], parts[0]),
            }
        };
        self.server.take_writes().into_iter().map(short).collect()
    }

    fn condition(&self, type_: &str) -> Value {
        let database = self.server.get(DATABASE).unwrap();
        let conditions = database["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
    }
}

#[tokio::test]
async fn children_are_made_in_order_and_the_stateful_set_last() {
    let world = World::new(&json!({}));
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), ["PATCH databases/orders-db"], "first the finalizer, alone");
    world.reconcile().await.unwrap();
    assert_eq!(
        world.writes(),
        [
            "POST secrets",
            "POST secrets",
            "POST secrets",
            "POST secrets",
            "PATCH serviceaccounts/orders-db",
            "PATCH roles/orders-db",
            "PATCH rolebindings/orders-db",
            "PATCH services/orders-db-headless",
            "PATCH services/orders-db-rw",
            "PATCH services/orders-db-ro",
            "PATCH configmaps/orders-db-config",
            "PATCH poddisruptionbudgets/orders-db",
            "POST leases",
            "PATCH statefulsets/orders-db",
            "PATCH orders-db/status",
        ]
    );
}

#[tokio::test]
async fn a_second_reconcile_of_an_unchanged_world_writes_nothing() {
    let world = World::settled(&json!({"resources": {"requests": {"cpu": "0.5"}}})).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.server.take_events(), Vec::<String>::new());
}

/// Two Databases of one name in two namespaces share the operator, and nothing that is written.
#[tokio::test]
async fn a_database_of_the_same_name_elsewhere_is_another() {
    let world = World::settled(&json!({})).await;
    let elsewhere = |path: &str| path.replace("/prod/", "/staging/");
    let twin = elsewhere(DATABASE);
    let mut stored = fixtures::stored_database(&json!({}));
    stored["metadata"]["namespace"] = json!("staging");
    stored["metadata"]["uid"] = json!("7c22");
    world.server.put(&twin, stored);
    for _ in 0..3 {
        world.reconcile_at(&twin).await.unwrap();
    }
    let stays_there = |writes: Vec<String>| {
        assert!(!writes.is_empty());
        assert!(writes.iter().all(|write| write.contains("/namespaces/staging/")), "{writes:?}");
    };
    stays_there(world.server.take_writes());
    let own = |path: &str, field: &str| {
        let [ours, theirs] = [path.to_owned(), elsewhere(path)]
            .map(|path| world.server.get(&path).and_then(|object| object.pointer(field).cloned()));
        assert!(
            ours.is_some() && theirs.is_some() && ours != theirs,
            "{field} of {path}: {ours:?}, {theirs:?}"
        );
    };
    own(LEASE, "/metadata/annotations/db.example.com~1never-initialised");
    own(&format!("{CORE}/secrets/orders-db-app"), "/data/password");
    // Members answer only who has a certificate of their own CA.
    own(&format!("{CORE}/secrets/orders-db-tls"), "/data/ca.crt");
    world.server.edit(&twin, |database| {
        database["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
    });
    world.reconcile_at(&twin).await.unwrap();
    stays_there(world.server.take_writes());
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new(), "nothing of the first one is missed");
}

#[tokio::test]
async fn what_somebody_changed_is_put_back_and_nothing_else_is_touched() {
    let world = World::settled(&json!({})).await;
    world.server.edit(&format!("{CORE}/services/orders-db-rw"), |service| {
        service["spec"]["selector"]["db.example.com/role"] = json!("replica");
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), ["PATCH services/orders-db-rw"]);
    let service = world.server.get(&format!("{CORE}/services/orders-db-rw")).unwrap();
    assert_eq!(service["spec"]["selector"]["db.example.com/role"], "primary");
}

#[tokio::test]
async fn deleted_children_come_back() {
    let world = World::settled(&json!({})).await;
    world.server.remove(&format!("{CORE}/secrets/orders-db-tls"));
    world.server.remove(&format!("{CORE}/configmaps/orders-db-config"));
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), ["POST secrets", "PATCH configmaps/orders-db-config"]);
}

#[tokio::test]
async fn passwords_are_made_once() {
    let world = World::settled(&json!({})).await;
    let password = |world: &World| {
        let secret = world.server.get(&format!("{CORE}/secrets/orders-db-app")).unwrap();
        secret["data"]["password"].clone()
    };
    let before = password(&world);
    world.server.edit(DATABASE, |database| database["spec"]["replicas"] = json!(5));
    world.reconcile().await.unwrap();
    assert_eq!(password(&world), before);
    assert!(before.is_string());
}

#[tokio::test]
async fn a_deleted_lease_is_never_made_again_once_data_exists() {
    let world = World::settled(&json!({})).await;
    world.server.edit(DATABASE, |database| database["status"]["systemIdentifier"] = json!("77"));
    world.server.remove(LEASE);
    world.reconcile().await.unwrap();
    assert!(world.server.get(LEASE).is_none());
    assert_eq!(world.condition("Degraded")["reason"], "LeaseMissing");
    assert!(world.server.take_events().contains(&"LeaseMissing".to_owned()));
    let set = world.server.get(STATEFUL_SET).unwrap();
    assert_eq!(set["metadata"]["annotations"]["db.example.com/system-identifier"], "77");
}

#[tokio::test]
async fn a_lease_made_at_the_same_moment_by_another_operator_is_left_alone() {
    let world = World::new(&json!({}));
    world.reconcile().await.unwrap();
    world.server.fail_once("POST /apis/coordination.k8s.io/v1/namespaces/prod/leases", 409);
    world.reconcile().await.unwrap();
    assert!(world.server.get(STATEFUL_SET).is_some());
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_in_the_status() {
    let world = World::new(&json!({}));
    world.reconcile().await.unwrap();
    world.server.fail_once(&format!("PATCH {STATEFUL_SET}"), 403);
    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.step(), "apply");
    let progressing = world.condition("Progressing");
    assert_eq!(progressing["reason"], "Refused");
    assert!(progressing["message"].as_str().unwrap().contains("StatefulSet orders-db"), "{progressing}");
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Progressing")["reason"], "Forming");
}

#[tokio::test]
async fn a_read_that_fails_makes_and_deletes_nothing() {
    let world = World::settled(&json!({})).await;
    let reads = [
        STATEFUL_SET.to_owned(),
        LEASE.to_owned(),
        format!("{CORE}/pods"),
        format!("{CORE}/persistentvolumeclaims"),
        format!("{CORE}/secrets/orders-db-tls"),
    ];
    for code in [401, 403, 409, 429, 500, 503, 504] {
        for read in &reads {
            world.server.fail_once(&format!("GET {read}"), code);
            assert!(world.reconcile().await.is_err(), "{code} to GET {read} is no answer");
            assert_eq!(world.writes(), Vec::<String>::new(), "{code} to GET {read}");
        }
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new(), "nothing had to be mended");
}

#[tokio::test]
async fn a_paused_database_is_only_described() {
    let world = World::settled(&json!({})).await;
    world.server.edit(DATABASE, |database| {
        database["spec"]["paused"] = json!(true);
        database["spec"]["replicas"] = json!(5);
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), ["PATCH orders-db/status"]);
}

#[tokio::test]
async fn a_spec_that_cannot_be_built_touches_no_child() {
    let world = World::settled(&json!({})).await;
    world.server.edit(DATABASE, |database| database["spec"]["replicas"] = json!(0));
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), ["PATCH orders-db/status"]);
    assert_eq!(world.condition("Progressing")["reason"], "InvalidSpec");
    assert_eq!(world.server.take_events(), ["InvalidSpec"]);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_and_harms_nobody() {
    let world = World::settled(&json!({})).await;
    world.server.edit(DATABASE, |database| database["spec"]["replicas"] = json!("three"));
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.server.take_events(), ["InvalidObject"]);
}

fn deleted(world: &World) {
    world.server.edit(DATABASE, |database| {
        database["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
    });
}

fn volume(world: &World) -> String {
    let path = format!("{CORE}/persistentvolumeclaims/data-orders-db-0");
    world.server.put(&path, json!({"metadata": {"name": "data-orders-db-0", "namespace": "prod"}}));
    path
}

fn initialised(world: &World) {
    let document = json!({
        "timeline": 1, "members": {}, "configurations": [], "history": [], "systemIdentifier": "77",
    });
    world.server.edit(LEASE, |lease| {
        lease["metadata"]["annotations"] = json!({"db.example.com/ha": document.to_string()});
    });
}

#[tokio::test]
async fn deletion_waits_for_the_instances_and_keeps_the_data() {
    let world = World::settled(&json!({})).await;
    initialised(&world);
    let volume = volume(&world);
    let pod = format!("{CORE}/pods/orders-db-0");
    world.server.put(&pod, json!({"metadata": {"name": "orders-db-0", "namespace": "prod"}}));
    deleted(&world);
    let waiting = world.reconcile().await.unwrap_err();
    assert!(waiting.waits().is_some(), "{waiting}");
    assert!(world.server.get(STATEFUL_SET).is_none());
    assert_eq!(world.server.get(DATABASE).unwrap()["status"]["phase"], "Deleting");
    world.server.remove(&pod);
    world.reconcile().await.unwrap();
    let secret = format!("{CORE}/secrets/orders-db-app");
    for kept in [volume.as_str(), LEASE, secret.as_str()] {
        assert!(world.server.get(kept).is_some(), "{kept}");
    }
    assert_eq!(world.server.get(DATABASE).unwrap()["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn deletion_with_delete_takes_data_lease_and_passwords() {
    let world = World::settled(&json!({"deletionPolicy": "Delete"})).await;
    initialised(&world);
    let volume = volume(&world);
    deleted(&world);
    world.reconcile().await.unwrap();
    let secret = format!("{CORE}/secrets/orders-db-app");
    for gone in [volume.as_str(), LEASE, secret.as_str()] {
        assert!(world.server.get(gone).is_none(), "{gone}");
    }
}

fn phase_of_last_backup(world: &World, status: Value) {
    let path = "/apis/db.example.com/v1alpha1/namespaces/prod/backups/orders-db-last-4bd1";
    world.server.edit(path, |backup| backup["status"] = status);
}

#[tokio::test]
async fn deletion_after_a_backup_takes_nothing_before_it_is_complete() {
    let spec = json!({"deletionPolicy": "DeleteAfterBackup", "backup": backup(true)});
    let world = World::settled(&spec).await;
    initialised(&world);
    let volume = volume(&world);
    deleted(&world);
    let untouched = || [STATEFUL_SET, LEASE, volume.as_str()].map(|path| world.server.get(path).is_some());
    assert!(matches!(world.reconcile().await, Err(ReconcileError::Finalize(FinalizeError::BackingUp))));
    assert_eq!(world.condition("Progressing")["reason"], "LastBackup");
    phase_of_last_backup(&world, json!({"phase": "Failed", "error": "the store says 403"}));
    for _ in 0..2 {
        let stopped = world.reconcile().await.unwrap_err();
        assert_eq!(stopped.waits(), Some(LATER));
        assert_eq!(untouched(), [true; 3]);
    }
    assert_eq!(world.condition("Degraded")["reason"], "LastBackupFailed");
    assert_eq!(world.server.take_events(), ["LastBackupFailed"], "once");
    let completed_at = Timestamp::now().to_string();
    phase_of_last_backup(&world, json!({"phase": "Completed", "completedAt": completed_at}));
    world.reconcile().await.unwrap();
    assert_eq!(untouched(), [false; 3]);
    assert_eq!(world.server.get(DATABASE).unwrap()["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn instances_have_their_time_after_a_long_backup() {
    let spec = json!({"deletionPolicy": "DeleteAfterBackup", "backup": backup(true)});
    let world = World::settled(&spec).await;
    initialised(&world);
    let volume = volume(&world);
    let pod = format!("{CORE}/pods/orders-db-0");
    world.server.put(&pod, json!({"metadata": {"name": "orders-db-0", "namespace": "prod"}}));
    world.server.edit(DATABASE, |database| {
        database["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.reconcile().await.unwrap_err();
    let completed_at = Timestamp::now().to_string();
    phase_of_last_backup(&world, json!({"phase": "Completed", "completedAt": completed_at}));
    for _ in 0..2 {
        let waiting = world.reconcile().await;
        assert!(matches!(waiting, Err(ReconcileError::Finalize(FinalizeError::Leaving(1)))));
        assert!(world.server.get(&volume).is_some());
    }
    world.server.remove(&pod);
    world.reconcile().await.unwrap();
    assert!(world.server.get(&volume).is_none());
}

#[tokio::test]
async fn what_never_had_data_needs_no_last_backup() {
    let world = World::settled(&json!({"deletionPolicy": "DeleteAfterBackup", "backup": backup(true)})).await;
    deleted(&world);
    world.reconcile().await.unwrap();
    assert!(world.server.get(LEASE).is_none());
}

#[tokio::test]
async fn a_person_may_go_on_without_the_last_backup_and_keep_the_volumes() {
    let world = World::settled(&json!({"deletionPolicy": "DeleteAfterBackup", "backup": backup(true)})).await;
    initialised(&world);
    let volume = volume(&world);
    deleted(&world);
    world.reconcile().await.unwrap_err();
    world.server.edit(DATABASE, |database| database["spec"]["deletionPolicy"] = json!("Retain"));
    world.reconcile().await.unwrap();
    assert!(world.server.get(&volume).is_some() && world.server.get(STATEFUL_SET).is_none());
}

#[tokio::test]
async fn a_lease_that_was_never_used_goes_with_its_database() {
    let world = World::settled(&json!({})).await;
    deleted(&world);
    world.reconcile().await.unwrap();
    assert!(world.server.get(LEASE).is_none());
}

fn backup(enabled: bool) -> Value {
    json!({"enabled": enabled, "destination": "s3://my-backups/orders-db"})
}

#[tokio::test]
async fn the_schedule_comes_is_suspended_and_goes_with_the_spec() {
    let world = World::settled(&json!({})).await;
    world.server.edit(DATABASE, |database| database["spec"]["backup"] = backup(true));
    world.reconcile().await.unwrap();
    let made = world.writes();
    assert!(made.contains(&"PATCH cronjobs/orders-db-backup".to_owned()), "{made:?}");
    for written in ["serviceaccounts", "roles", "rolebindings"] {
        assert!(made.contains(&format!("PATCH {written}/orders-db.backup")), "{written} in {made:?}");
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());

    world.server.edit(DATABASE, |database| {
        database["spec"]["backup"]["snapshotSchedule"] = json!("0 */4 * * *");
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.server.get(SNAPSHOT_CRON_JOB).unwrap()["spec"]["schedule"], json!("0 */4 * * *"));
    world.server.edit(SNAPSHOT_CRON_JOB, |object| object["metadata"]["uid"] = json!("c1"));

    world.server.edit(DATABASE, |database| database["spec"]["backup"] = backup(false));
    world.reconcile().await.unwrap();
    assert!(world.server.get(SNAPSHOT_CRON_JOB).is_none());
    assert_eq!(world.server.get(CRON_JOB).unwrap()["spec"]["suspend"], json!(true));
    world.writes();

    // As the API server gives them; the test's own does not.
    for path in [CRON_JOB, "/api/v1/namespaces/prod/serviceaccounts/orders-db.backup"] {
        world.server.edit(path, |object| object["metadata"]["uid"] = json!("c0"));
    }
    world.server.edit(DATABASE, |database| {
        database["spec"].as_object_mut().unwrap().remove("backup");
    });
    world.reconcile().await.unwrap();
    assert!(world.server.get(CRON_JOB).is_none());
    assert!(world.server.get(&format!("{CORE}/serviceaccounts/orders-db.backup")).is_none());
    world.writes();
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cron_job_of_somebody_else_is_left_alone() {
    let world = World::settled(&json!({})).await;
    let theirs = json!({"metadata": {"name": "orders-db-backup", "namespace": "prod", "uid": "c0"}});
    world.server.put(CRON_JOB, theirs);
    world.reconcile().await.unwrap();
    assert!(world.server.get(CRON_JOB).is_some());
}

#[tokio::test]
async fn a_drill_is_recorded_told_once_and_then_its_pod_goes_with_its_volume() {
    let mut wanted = backup(true);
    wanted["drillSchedule"] = json!("0 6 * * 0");
    let world = World::settled(&json!({"backup": wanted})).await;
    assert!(world.server.get("/apis/batch/v1/namespaces/prod/cronjobs/orders-db-drill").is_some());
    assert!(world.server.get(&format!("{CORE}/configmaps/orders-db-drill")).is_some());
    assert_eq!(world.condition("RestoreProven")["reason"], "NoDrillYet");
    let failed = json!({"type": "Failed", "status": "True", "lastTransitionTime": "2026-03-01T07:00:00Z"});
    world.server.put(
        "/apis/batch/v1/namespaces/prod/jobs/orders-db-drill-1",
        json!({"metadata": {"name": "orders-db-drill-1", "namespace": "prod", "uid": "j1", "ownerReferences":
            [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "orders-db-drill", "uid": "c1"}]},
            "status": {"conditions": [failed]}}),
    );
    let pod = format!("{CORE}/pods/orders-db-drill-1-x");
    world.server.put(
        &pod,
        json!({"metadata": {"name": "orders-db-drill-1-x", "namespace": "prod", "ownerReferences":
            [{"apiVersion": "batch/v1", "kind": "Job", "name": "orders-db-drill-1", "uid": "j1"}]}}),
    );
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("RestoreProven")["reason"], "DrillFailed");
    assert_eq!(world.server.take_events(), ["RestoreDrillFailed"]);
    assert!(world.server.get(&pod).is_none());
    world.writes();
    world.reconcile().await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.server.take_events(), Vec::<String>::new());

    world.server.edit(DATABASE, |database| database["spec"]["backup"] = backup(true));
    world.reconcile().await.unwrap();
    assert!(world.server.get("/apis/batch/v1/namespaces/prod/cronjobs/orders-db-drill").is_none());
    assert_eq!(world.condition("RestoreProven"), json!(null));
}

#[tokio::test]
async fn nothing_is_made_until_the_source_of_a_restore_is_there() {
    let restore = json!({"bootstrap": {"restore": {"from": {"database": "old"}}}});
    let world = World::new(&restore);
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert!(world.server.get(STATEFUL_SET).is_none());
    assert_eq!(world.condition("Progressing")["reason"], "RestoreSourceMissing");

    let mut source = fixtures::stored_database(&json!({"backup": backup(true)}));
    source["metadata"]["name"] = json!("old");
    source["metadata"]["uid"] = json!("01d");
    world.server.put("/apis/db.example.com/v1alpha1/namespaces/prod/databases/old", source);
    // What an earlier Database of this name began with, which has not been collected yet.
    let earlier = json!({"metadata": {"name": "orders-db-restore", "namespace": "prod", "ownerReferences":
        [{"apiVersion": "db.example.com/v1alpha1", "kind": "Database", "name": "orders-db", "uid": "earlier"}]}});
    world.server.put(&format!("{CORE}/configmaps/orders-db-restore"), earlier);
    world.reconcile().await.unwrap();
    let map = world.server.get(&format!("{CORE}/configmaps/orders-db-restore")).unwrap();
    assert!(map["data"]["restore.json"].as_str().unwrap().contains("01d"), "{map}");
    assert!(world.server.get(STATEFUL_SET).is_some());
}

#[tokio::test]
async fn backoff_grows_per_object_and_ends_with_success() {
    let world = World::new(&json!({}));
    let pauses: Vec<_> = (0..9).map(|_| world.context.backoff("a").as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(world.context.backoff("b").as_secs(), 1);
    world.context.succeeded("a");
    assert_eq!(world.context.backoff("a").as_secs(), 1);
}
