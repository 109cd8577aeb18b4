//! Every bad spec is refused by `kubectl apply` with a sentence that names the field and says what to change;
//! good ones are accepted. The API server's own evaluation of the rules decides, so this needs a cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::scenario::{kubectl::Kubectl, stage::Stage};
use serde_json::{Value, json};

/// A namespace without an operator's interest: everything in it is paused or refused.
const NAMESPACE: &str = "bad-specs";
/// The definition is served a moment after it was applied.
const SERVED_LIMIT: Duration = Duration::from_secs(30);

/// A change to a good spec, and words that the refusal must contain.
struct Bad {
    change: Value,
    says: &'static [&'static str],
}

fn bad(change: Value, says: &'static [&'static str]) -> Bad {
    Bad { change, says }
}

/// What every case starts from.
fn good() -> Value {
    json!({
        "replicas": 3, "version": "16.3", "paused": true,
        "storage": {"size": "50Gi", "storageClassName": "fast-ssd"},
    })
}

fn parameter(name: &str, value: &str) -> Value {
    json!({"postgresql": {"parameters": {name: value}}})
}

/// Refused when created.
fn refused_at_first() -> Vec<Bad> {
    let mut cases = numbers_and_words();
    cases.extend(storage_and_resources());
    cases.extend(combinations());
    cases.extend(server_settings());
    cases.extend(backups());
    cases.extend(restores());
    cases
}

fn backup(change: &Value) -> Value {
    let mut backup = json!({"destination": "s3://my-backups/orders-db"});
    merge(&mut backup, change);
    json!({"backup": backup})
}

fn backups() -> Vec<Bad> {
    let schedule = |schedule: &str| backup(&json!({"schedule": schedule}));
    let destination = |destination: &str| backup(&json!({"destination": destination}));
    let endpoint = |endpoint: &str| backup(&json!({"endpoint": endpoint}));
    let encryption = |encryption: Value| backup(&json!({"serverSideEncryption": encryption}));
    vec![
        bad(json!({"backup": {"enabled": true}}), &["spec.backup.destination", "Required"]),
        bad(schedule("daily"), &["spec.backup.schedule", "daily", "five fields"]),
        bad(schedule("@daily"), &["spec.backup.schedule", "five fields"]),
        bad(schedule("0 3 * *"), &["spec.backup.schedule", "five fields"]),
        bad(schedule("0 0 3 * * *"), &["spec.backup.schedule", "five fields"]),
        bad(schedule("60 3 * * *"), &["spec.backup.schedule", "60 3"]),
        bad(schedule("0 3 * * 7"), &["spec.backup.schedule", "five fields"]),
        bad(
            backup(&json!({"drillSchedule": "weekly"})),
            &["spec.backup.drillSchedule", "weekly", "five fields"],
        ),
        bad(
            backup(&json!({"snapshotSchedule": "hourly"})),
            &["spec.backup.snapshotSchedule", "hourly", "five fields"],
        ),
        bad(backup(&json!({"retention": 0})), &["spec.backup.retention", "greater than or equal to 1"]),
        bad(backup(&json!({"retention": 9999})), &["spec.backup.retention", "less than or equal to 3650"]),
        bad(backup(&json!({"retention": "14d"})), &["spec.backup.retention", "integer"]),
        bad(backup(&json!({"fullEvery": 0})), &["spec.backup.fullEvery", "greater than or equal to 1"]),
        bad(backup(&json!({"fullEvery": 15})), &["spec.backup.fullEvery", "less than or equal to 14"]),
        bad(backup(&json!({"fullEvery": 7})), &["spec.backup.fullEvery", "PostgreSQL 17 or newer", "remove"]),
        bad(destination("my-backups/orders-db"), &["destination my-backups", "s3://my-backups/orders-db"]),
        bad(destination("/var/backups"), &["destination /var/backups", "s3://"]),
        bad(destination("s3://My Backups"), &["destination s3://My Backups", "not a bucket"]),
        bad(destination("az://account"), &["destination az://account", "az://account/container"]),
        bad(endpoint("s3.example.com"), &["endpoint s3.example.com", "https://s3.example.com"]),
        bad(endpoint("https://s3.example.com/bucket"), &["endpoint", "without a path"]),
        bad(backup(&json!({"region": "Frankfurt am Main"})), &["region", "eu-central-1"]),
        bad(backup(&json!({"credentials": {}})), &["credentials.secretName", "Required"]),
        bad(
            backup(&json!({"credentials": {"secretName": "My Keys"}})),
            &["credentials.secretName", "Secret"],
        ),
        bad(encryption(json!({"algorithm": "Kms"})), &["serverSideEncryption", "keyId"]),
        bad(encryption(json!({"algorithm": "Aes256", "keyId": "x"})), &["serverSideEncryption", "keyId"]),
        bad(encryption(json!({"algorithm": "Rot13"})), &["serverSideEncryption.algorithm", "Aes256"]),
        bad(backup(&json!({"encryption": {}})), &["encryption.secretName", "Required"]),
        bad(
            backup(&json!({"encryption": {"secretName": "My Keys"}})),
            &["encryption.secretName", "name of a Secret"],
        ),
    ]
}

fn restore(from: &Value, target: &Value) -> Value {
    json!({"bootstrap": {"restore": {"from": from, "target": target}}})
}

fn restores() -> Vec<Bad> {
    let to = |target: Value| restore(&json!({"database": "old"}), &target);
    let from = |from: Value| restore(&from, &json!({"immediate": true}));
    let store = json!({"destination": "s3://my-backups/orders-db"});
    vec![
        bad(json!({"bootstrap": {"restore": {}}}), &["restore.from", "Required"]),
        bad(from(json!({})), &["restore.from", "either database"]),
        bad(from(json!({"database": "old", "repository": store})), &["restore.from", "either database"]),
        bad(from(json!({"repository": {"destination": "old"}})), &["destination old", "not a bucket"]),
        bad(to(json!({})), &["restore.target", "exactly one"]),
        bad(to(json!({"immediate": false})), &["restore.target", "exactly one"]),
        bad(to(json!({"xid": "7", "lsn": "0/1"})), &["restore.target", "exactly one"]),
        bad(to(json!({"time": "2026-03-01 12:00:00"})), &["target.time", "2026-03-01T12:00:00Z"]),
        bad(to(json!({"time": "yesterday"})), &["target.time yesterday", "with a zone"]),
        bad(to(json!({"lsn": "16B374D848"})), &["target.lsn 16B374D848", "16/B374D848"]),
        bad(to(json!({"xid": "-7"})), &["target.xid", "number"]),
    ]
}

fn numbers_and_words() -> Vec<Bad> {
    vec![
        bad(json!({"replicas": 0}), &["spec.replicas", "greater than or equal to 1"]),
        bad(json!({"replicas": 10}), &["spec.replicas", "less than or equal to 9"]),
        bad(json!({"replicas": -1}), &["spec.replicas"]),
        bad(json!({"replicas": "three"}), &["spec.replicas", "integer"]),
        bad(json!({"version": null}), &["spec.version", "Required"]),
        bad(json!({"version": ""}), &["spec.version", "write a major from 14 to 18"]),
        bad(json!({"version": "latest"}), &["spec.version latest", "write a major"]),
        bad(json!({"version": "13"}), &["spec.version 13", "14 to 18"]),
        bad(json!({"version": "19"}), &["spec.version 19", "14 to 18"]),
        bad(json!({"version": "16.3.1"}), &["spec.version 16.3.1", "16.3"]),
        bad(json!({"version": "16.03"}), &["spec.version 16.03"]),
        bad(json!({"version": 16}), &["spec.version", "string"]),
        bad(json!({"image": "post gres:16"}), &["spec.image", "without spaces"]),
        bad(json!({"image": ""}), &["spec.image"]),
        bad(json!({"deletionPolicy": "Keep"}), &["spec.deletionPolicy", "Retain"]),
        bad(json!({"deletionPolicy": "DeleteAfterBackup"}), &["spec.deletionPolicy", "needs spec.backup"]),
        bad(json!({"paused": "yes"}), &["spec.paused", "boolean"]),
        bad(json!({"replica": 3}), &["spec.replica", "unknown field"]),
        bad(json!({"bootstrap": {"initdb": {"database": "Orders"}}}), &["initdb.database", "lower-case"]),
        bad(json!({"bootstrap": {"initdb": {"database": "postgres"}}}), &["initdb.database", "not postgres"]),
        bad(json!({"tolerations": [{"effect": 5}]}), &["spec.tolerations", "string"]),
        bad(json!({"topologySpread": [{"maxSkew": 1}]}), &["spec.topologySpread", "Required"]),
    ]
}

fn storage_and_resources() -> Vec<Bad> {
    vec![
        bad(json!({"storage": null}), &["spec.storage", "Required"]),
        bad(json!({"storage": {"size": null}}), &["spec.storage.size", "Required"]),
        bad(json!({"storage": {"size": "lots"}}), &["spec.storage.size lots", "50Gi"]),
        bad(json!({"storage": {"size": "50GB"}}), &["spec.storage.size 50GB", "50Gi"]),
        bad(json!({"storage": {"size": "100Mi"}}), &["spec.storage.size 100Mi", "at least 1Gi"]),
        bad(json!({"storage": {"size": "-5Gi"}}), &["spec.storage.size -5Gi", "at least 1Gi"]),
        bad(json!({"storage": {"storageClassName": ""}}), &["storageClassName", "left out for the default"]),
        bad(
            json!({"storage": {"storageClassName": "Fast SSD"}}),
            &["storageClassName", "kubectl get storageclass"],
        ),
        bad(json!({"resources": {"requests": {"gpu": "1"}}}), &["spec.resources", "only cpu, memory"]),
        bad(json!({"resources": {"limits": {"memory": "much"}}}), &["spec.resources", "positive quantities"]),
        bad(json!({"resources": {"requests": {"cpu": -1}}}), &["spec.resources", "positive quantities"]),
        bad(
            json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}),
            &["spec.resources.requests", "lower the request or raise the limit"],
        ),
        bad(json!({"resources": {"limits": {"memory": "64Mi"}}}), &["limits.memory", "at least 128Mi"]),
    ]
}

fn combinations() -> Vec<Bad> {
    vec![
        bad(
            json!({"minSyncReplicas": 3}),
            &["spec.minSyncReplicas must be lower than spec.replicas", "raise"],
        ),
        bad(
            json!({"replicas": 1, "minSyncReplicas": 1}),
            &["spec.minSyncReplicas must be lower", "raise spec.replicas"],
        ),
        bad(json!({"minSyncReplicas": 0}), &["spec.minSyncReplicas", "greater than or equal to 1"]),
        bad(json!({"replicas": 1, "durability": "Required"}), &["spec.durability Required", "2 or more"]),
        bad(json!({"durability": "Sync"}), &["spec.durability", "Preferred"]),
        bad(json!({"durability": "Async", "minSyncReplicas": 1}), &["spec.minSyncReplicas", "remove it"]),
        bad(
            json!({"durability": "Async", "failover": {"syncTimeout": "10s"}}),
            &["spec.failover.syncTimeout", "remove it"],
        ),
        bad(
            json!({"durability": "Required", "failover": {"syncTimeout": "10s"}}),
            &["spec.failover.syncTimeout", "only with spec.durability Preferred"],
        ),
        bad(
            json!({"failover": {"maxLagBytes": 1}}),
            &["spec.failover.maxLagBytes", "only with spec.durability Async"],
        ),
        bad(
            json!({"durability": "Async", "failover": {"maxLagBytes": -1}}),
            &["spec.failover.maxLagBytes", "greater than or equal to 0"],
        ),
        bad(json!({"failover": {"profile": "Quick"}}), &["spec.failover.profile", "Fast"]),
        bad(json!({"failover": {"syncTimeout": "soon"}}), &["syncTimeout soon", "1s to 10m"]),
        bad(json!({"failover": {"syncTimeout": "10ms"}}), &["syncTimeout 10ms", "1s to 10m"]),
        bad(json!({"failover": {"syncTimeout": "1h"}}), &["syncTimeout 1h", "1s to 10m"]),
        bad(json!({"failover": {"ioTimeout": "1s"}}), &["ioTimeout 1s", "2s to 5m"]),
    ]
}

fn server_settings() -> Vec<Bad> {
    let hba = |line: &str| json!({"postgresql": {"hba": [line]}});
    let library = |name: &str| json!({"postgresql": {"sharedPreloadLibraries": [name]}});
    vec![
        bad(parameter("port", "5433"), &["parameters: port", "Services", "remove it"]),
        bad(parameter("listen_addresses", "*"), &["parameters: listen_addresses", "remove it"]),
        bad(parameter("data_directory", "/x"), &["parameters: data_directory", "operator lays out"]),
        bad(parameter("include", "/etc/passwd"), &["parameters: include", "remove it"]),
        bad(parameter("primary_conninfo", "host=x"), &["parameters: primary_conninfo", "agents run"]),
        bad(parameter("hot_standby", "off"), &["parameters: hot_standby", "remove it"]),
        bad(
            parameter("synchronous_standby_names", "*"),
            &["parameters: synchronous_standby_names", "spec.durability"],
        ),
        bad(parameter("synchronous_commit", "off"), &["parameters: synchronous_commit", "spec.durability"]),
        bad(parameter("archive_command", "true"), &["parameters: archive_command", "remove it"]),
        bad(parameter("recovery_target_time", "now"), &["parameters: recovery_target_time", "remove it"]),
        bad(parameter("ssl_key_file", "/x"), &["parameters: ssl_key_file", "certificates"]),
        bad(parameter("logging_collector", "on"), &["parameters: logging_collector", "kubectl logs"]),
        bad(
            parameter("shared_preload_libraries", "x"),
            &["shared_preload_libraries", "sharedPreloadLibraries"],
        ),
        bad(parameter("fsync", "off"), &["parameters: fsync", "protects the data"]),
        bad(parameter("wal_level", "minimal"), &["wal_level", "replica or logical"]),
        bad(parameter("max_wal_senders", "2"), &["max_wal_senders", "at least 12"]),
        bad(parameter("Work_Mem", "64MB"), &["spec.postgresql.parameters", "lower case"]),
        bad(parameter("work mem", "64MB"), &["spec.postgresql.parameters", "without spaces"]),
        bad(parameter("work_mem", "64MB\nport = 1"), &["parameters", "single line"]),
        bad(json!({"postgresql": {"parameters": {"work_mem": 64}}}), &["work_mem", "string"]),
        bad(hba("everybody"), &["spec.postgresql.hba", "everybody", "scram-sha-256"]),
        bad(hba("include /etc/passwd"), &["spec.postgresql.hba", "include"]),
        bad(hba("host all all all scram-sha-256\nlocal all all trust"), &["spec.postgresql.hba"]),
        bad(hba("host all all 0.0.0.0/0 trust"), &["spec.postgresql.hba", "without a password"]),
        bad(library("/tmp/x.so"), &["sharedPreloadLibraries", "without path"]),
        bad(library("a,b"), &["sharedPreloadLibraries", "comma"]),
    ]
}

/// Refused as a change of what is there ([`good`]).
fn refused_later() -> Vec<Bad> {
    vec![
        bad(json!({"version": "18"}), &["spec.version", "skip", "16.3", "18"]),
        bad(json!({"version": "17"}), &["spec.version", "16.3", "17", "create a new Database"]),
        bad(json!({"version": "15.4"}), &["spec.version", "back from 16.3 to 15.4"]),
        bad(json!({"storage": {"size": "20Gi"}}), &["spec.storage.size", "shrink from 50Gi to 20Gi"]),
        bad(
            json!({"storage": {"storageClassName": "slow"}}),
            &["storageClassName", "put the old value back"],
        ),
        bad(json!({"storage": {"storageClassName": null}}), &["storageClassName", "put the old value back"]),
        bad(json!({"bootstrap": {"initdb": {"database": "orders"}}}), &["spec.bootstrap", "used once"]),
        bad(
            json!({"bootstrap": {"restore": {"from": {"database": "old"}}}}),
            &["spec.bootstrap", "used once"],
        ),
    ]
}

/// Accepted when created.
fn accepted_at_first() -> Vec<Value> {
    vec![
        json!({}),
        json!({"replicas": 1, "version": "16"}),
        json!({"replicas": 9, "minSyncReplicas": 8, "durability": "Required"}),
        json!({"durability": "Async", "failover": {"maxLagBytes": 1_048_576, "profile": "Tolerant"}}),
        json!({"failover": {"profile": "Fast", "syncTimeout": "1m30s", "ioTimeout": "20s"}}),
        json!({"storage": {"storageClassName": null}}),
        json!({"resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}}}),
        json!({"resources": {"limits": {"cpu": "1500m", "hugepages-2Mi": "64Mi", "memory": "1Gi"}}}),
        json!({"image": "registry.example.com:5000/team/postgres:16.3@sha256:0123456789abcdef"}),
        json!({"bootstrap": {"initdb": {"database": "orders"}}}),
        json!({"postgresql": {
            "parameters": {"work_mem": "64MB", "pg_stat_statements.max": "1000", "max_wal_senders": "20"},
            "hba": ["hostssl all all 10.0.0.0/8 scram-sha-256", "local all all peer"],
            "sharedPreloadLibraries": ["pg_stat_statements"],
        }}),
        json!({"tolerations": [{"key": "db", "operator": "Exists"}], "affinity": {"nodeAffinity": {}}}),
        json!({"minSyncReplicas": null, "durability": null}),
        json!({"backup": {
            "enabled": true, "schedule": "0 3 * * *", "retention": 14, "destination": "s3://my-backups/orders-db",
        }}),
        backup(&json!({"schedule": "*/15 0-6/2 1,15 JAN-jun mon-fri", "destination": "s3://my-backups"})),
        backup(&json!({
            "endpoint": "http://s3.storage.svc:9000", "region": "eu-central-1", "pathStyle": false,
            "credentials": {"secretName": "s3-keys", "customCa": true},
            "serverSideEncryption": {"algorithm": "Kms", "keyId": "arn:aws:kms:eu-central-1:1:key/2"},
            "encryption": {"secretName": "orders-keys"},
        })),
        backup(&json!({"fullEvery": 1})),
        json!({"version": "17", "backup": {"destination": "s3://my-backups/orders-db", "fullEvery": 14}}),
        backup(&json!({"destination": "gs://my-backups/orders-db/"})),
        backup(&json!({"destination": "az://account/container/orders-db"})),
        restore(&json!({"database": "old"}), &json!({"time": "2026-03-01T12:00:00.5+01:00"})),
        restore(
            &json!({"repository": {"destination": "s3://b-1/x", "uid": "0d2c-1"}}),
            &json!({"lsn": "16/B374D848"}),
        ),
        json!({"bootstrap": {"restore": {"from": {"database": "old"}}}}),
    ]
}

/// Accepted as a change of what is there ([`good`]).
fn accepted_later() -> Vec<Value> {
    vec![
        json!({"version": "16.13"}),
        json!({"version": "16"}),
        json!({"replicas": 5}),
        json!({"storage": {"size": "51200Mi"}}),
        json!({"storage": {"size": "100Gi"}}),
        json!({"durability": "Required", "minSyncReplicas": 2}),
        backup(&json!({})),
    ]
}

fn object(name: &str, change: &Value) -> String {
    let mut spec = good();
    merge(&mut spec, change);
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    json!({"apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": metadata, "spec": spec})
        .to_string()
}

/// JSON merge patch (RFC 7396), except that a null is kept where it was a value: it removes the field.
fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, change) => *target = change.clone(),
    }
}

async fn is_refused(kubectl: &Kubectl, name: &str, case: &Bad) -> Result<()> {
    let ended = kubectl.try_with(&["apply", "-f", "-"], &object(name, &case.change)).await?;
    ensure!(!ended.success, "{} was accepted", case.change);
    for word in case.says {
        ensure!(ended.errors.contains(word), "{}: {word:?} is not in: {}", case.change, ended.errors);
    }
    Ok(())
}

async fn is_accepted(kubectl: &Kubectl, name: &str, change: &Value) -> Result<()> {
    let text = object(name, change);
    let ended = kubectl.try_with(&["apply", "--dry-run=server", "-f", "-"], &text).await?;
    ensure!(ended.success, "{change} was refused: {}", ended.errors);
    Ok(())
}

async fn prepare() -> Result<Kubectl> {
    let kubectl = Stage::attach().await?.kubectl;
    let definition = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds/databases.yaml");
    kubectl.run(&["apply", "--server-side", "--force-conflicts", "-f", definition]).await?;
    let served = format!("--timeout={}s", SERVED_LIMIT.as_secs());
    kubectl.run(&["wait", "--for=condition=Established", &served, "crd/databases.db.example.com"]).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    kubectl.run_with(&["apply", "-f", "-"], &namespace.to_string()).await?;
    Ok(kubectl)
}

/// Lists all that went wrong, so that one run tells everything.
fn none_of(failures: &[String]) -> Result<()> {
    ensure!(failures.is_empty(), "{} cases went wrong:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn kubectl_apply_refuses_bad_specs_and_says_what_to_change() -> Result<()> {
    let kubectl = prepare().await?;
    let cases = refused_at_first();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        failures.extend(is_refused(&kubectl, "fresh", case).await.err().map(|error| error.to_string()));
    }
    for change in accepted_at_first() {
        failures.extend(is_accepted(&kubectl, "fresh", &change).await.err().map(|error| error.to_string()));
    }
    none_of(&failures)
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn kubectl_apply_refuses_changes_that_cannot_be_made() -> Result<()> {
    let kubectl = prepare().await?;
    let name = "there";
    kubectl.run_with(&["apply", "-f", "-"], &object(name, &json!({}))).await.context("the good spec")?;
    let mut failures = Vec::new();
    for case in &refused_later() {
        failures.extend(is_refused(&kubectl, name, case).await.err().map(|error| error.to_string()));
    }
    for change in accepted_later() {
        failures.extend(is_accepted(&kubectl, name, &change).await.err().map(|error| error.to_string()));
    }
    let scaled = kubectl.try_with(&["-n", NAMESPACE, "scale", "db", name, "--replicas=12"], "").await?;
    if scaled.success || !scaled.errors.contains("less than or equal to 9") {
        failures.push(format!("kubectl scale to 12: {}", scaled.errors));
    }
    kubectl.run(&["-n", NAMESPACE, "delete", "db", name, "--wait=false"]).await?;
    none_of(&failures)
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn names_that_do_not_fit_children_are_refused() -> Result<()> {
    let kubectl = prepare().await?;
    let mut failures = Vec::new();
    for name in ["1db", "orders.db", "a-name-that-has-more-than-forty-characters"] {
        let case = bad(json!({}), &["metadata.name", "begin with a letter", "at most 40"]);
        failures.extend(is_refused(&kubectl, name, &case).await.err().map(|error| error.to_string()));
    }
    none_of(&failures)
}
