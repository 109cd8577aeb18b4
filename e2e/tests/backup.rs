//! A backup is what restores: every test here ends with a new Database that holds exactly the rows of a moment.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    fault::{cluster::Fault, container::Container},
    images,
    s3::{self, ACCESS_KEY, Bucket, SECRET_KEY, Server},
    scenario::{
        database::Database,
        fault,
        session::Session,
        stage::Stage,
        trial::{create_tables, written},
        verdict, wait,
        wait::say,
        writer::Writer,
    },
};
use proto::api::status::{CONTINUOUS_ARCHIVING, RESTORABLE};
use serde_json::{Value, json};

#[path = "backup/drill.rs"]
mod drill;
#[path = "backup/encryption.rs"]
mod encryption;
#[path = "backup/filling.rs"]
mod filling;
#[path = "backup/in_place.rs"]
mod in_place;
#[path = "backup/killed.rs"]
mod killed;
#[path = "backup/snapshots.rs"]
mod snapshots;
#[path = "backup/weeks.rs"]
mod weeks;

/// From one state to the next on a machine that also builds.
const LIMIT: Duration = Duration::from_mins(4);
/// What is wrong with the store shows within this (the promise to users).
const TELL_LIMIT: Duration = Duration::from_mins(1);
/// A statement on a busy machine.
const QUERY_LIMIT: Duration = Duration::from_secs(30);
const BUCKET: &str = "my-backups";
/// In the bucket: each Database has a folder of its own in it.
const FOLDER: &str = "orders-db";
const SECRET: &str = "s3-keys";

/// A namespace with a store in it.
struct Ground {
    stage: Stage,
    namespace: &'static str,
    server: Server,
}

impl Ground {
    /// `None` on a cluster that cannot have the store's image.
    async fn prepare(namespace: &'static str) -> Result<Option<Self>> {
        let stage = Stage::with_operator().await?;
        let Some(lab) = stage.cluster.lab_for(Fault::Container) else { return Ok(None) };
        images::ensure(lab, &["s3".parse()?]).await?;
        stage.without(namespace).await?;
        stage.namespace(namespace).await?;
        let server = Server::start(&stage.client, namespace, &[BUCKET]).await?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": namespace},
            "stringData": {
                "accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY, "ca.crt": server.authority,
            },
        });
        stage.kubectl.run_with(&["apply", "-f", "-"], &secret.to_string()).await?;
        Ok(Some(Self { stage, namespace, server }))
    }

    async fn database(&self, name: &str) -> Result<Database> {
        self.stage.database(self.namespace, name).await
    }

    /// The sample of the documentation, with the store of the lab.
    fn sample(&self, replicas: usize) -> Value {
        json!({
            "replicas": replicas, "version": "16", "storage": {"size": "1Gi"},
            "backup": {
                "enabled": true, "schedule": "0 3 * * *", "retention": 14,
                "destination": format!("s3://{BUCKET}/{FOLDER}"),
                "endpoint": self.server.endpoint, "credentials": {"secretName": SECRET},
            },
        })
    }

    /// What is stored, as the test sees it.
    fn bucket(&self) -> Result<Bucket> {
        self.server.bucket(BUCKET)
    }

    /// Where a Database that is gone has left its backups, as a restore names it.
    fn repository(&self, uid: &str) -> Value {
        let backup = &self.sample(1)["backup"];
        let mut repository = json!({"uid": uid});
        for field in ["destination", "endpoint", "credentials"] {
            repository[field] = backup[field].clone();
        }
        repository
    }

    /// A Database of one instance that begins at `target` of `source`, or, if that is null, with everything of it;
    /// returns when it serves.
    async fn restored(&self, name: &str, source: &str, target: &Value) -> Result<Database> {
        let database = self.database(name).await?;
        let mut spec = self.sample(1);
        spec["bootstrap"] = json!({"restore": {"from": {"database": source}}});
        if !target.is_null() {
            spec["bootstrap"]["restore"]["target"] = target.clone();
        }
        database.apply(&spec).await?;
        let took = verdict::whole(&database, 1, LIMIT).await?;
        say(&format!("{name} serves {:.1} s after it was applied", took.as_secs_f64()));
        Ok(database)
    }

    /// The store stands still, as a store that is down looks to its clients.
    async fn store(&self) -> Result<Container> {
        let lab = self.stage.cluster.lab_for(Fault::Container).context("the store runs on the lab only")?;
        Container::find(lab, self.namespace, s3::NAME, s3::NAME).await
    }

    async fn clear(&self) -> Result<()> {
        self.stage.without(self.namespace).await
    }
}

async fn query(database: &Database, statement: &str) -> Result<Vec<tokio_postgres::Row>> {
    let session = Session::open_patiently(&database.superuser_on(&database.primary().await?).await?).await?;
    session.query(statement, &[], QUERY_LIMIT).await
}

async fn text(database: &Database, statement: &str) -> Result<String> {
    let rows = query(database, statement).await?;
    Ok(rows.first().context("no row")?.try_get(0)?)
}

async fn uid(database: &Database) -> Result<String> {
    database.kubectl(&["get", "db", &database.name, "-o", "jsonpath={.metadata.uid}"]).await
}

/// A moment with a second of silence on each side, by the server's clock.
async fn moment(database: &Database) -> Result<String> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let moment = text(database, now).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(moment)
}

/// Everything that was written so far is in the store.
async fn archived(database: &Database) -> Result<()> {
    let file = text(database, "SELECT pg_walfile_name(pg_switch_wal())").await?;
    let there = async || {
        let query = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
        let last = text(database, query).await?;
        ensure!(last >= file, "{file} is not archived yet, {last:?} is");
        Ok(())
    };
    wait::until("the write-ahead log to be archived", LIMIT, there).await.map(drop)
}

async fn condition(database: &Database, type_: &str, status: &str) -> Result<String> {
    let read = database.status().await?;
    let found = read.conditions.iter().find(|condition| condition.type_ == type_);
    let found = found.with_context(|| format!("no condition {type_}"))?;
    ensure!(found.status == status, "{type_} is {} ({}: {})", found.status, found.reason, found.message);
    Ok(found.message.clone())
}

async fn status_of(database: &Database, backup: &str) -> Result<Value> {
    let read = database.kubectl(&["get", "backup", backup, "-o", "json"]).await?;
    Ok(serde_json::from_str::<Value>(&read)?["status"].clone())
}

async fn completed(database: &Database, backup: &str) -> Result<Value> {
    let look = async || {
        let status = status_of(database, backup).await?;
        ensure!(status["phase"] == "Completed", "{backup}: {status}");
        Ok(status)
    };
    Ok(wait::until(&format!("backup {backup}"), LIMIT, look).await?.0)
}

async fn ids(database: &Database, condition: &str) -> Result<BTreeSet<i64>> {
    let rows = query(database, &format!("SELECT id FROM ledger WHERE {condition}")).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The sample, served and with its first backup.
async fn formed(ground: &Ground, name: &str, replicas: usize) -> Result<Database> {
    formed_as(ground, name, replicas, &ground.sample(replicas)).await
}

async fn formed_as(ground: &Ground, name: &str, replicas: usize, spec: &Value) -> Result<Database> {
    let database = ground.database(name).await?;
    database.apply(spec).await?;
    verdict::whole(&database, replicas, LIMIT).await?;
    create_tables(&database).await?;
    let archives = async || condition(&database, CONTINUOUS_ARCHIVING, "True").await;
    wait::until("archiving", LIMIT, archives).await?;
    completed(&database, &format!("{name}-first")).await?;
    Ok(database)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_sample_is_backed_up_and_restored_between_two_writes() -> Result<()> {
    let Some(ground) = Ground::prepare("backup").await? else { return Ok(()) };
    let database = formed(&ground, "orders-db", 3).await?;
    let schedule = ["get", "cronjob", "orders-db-backup", "-o", "jsonpath={.spec.schedule} {.spec.suspend}"];
    ensure!(database.kubectl(&schedule).await? == "0 3 * * * false");

    query(&database, "INSERT INTO ledger VALUES (1)").await?;
    let between = moment(&database).await?;
    query(&database, "INSERT INTO ledger VALUES (2)").await?;
    archived(&database).await?;
    on_demand(&database).await?;
    by_the_schedule(&database, "orders-db-backup", "tonight").await?;
    told(&database).await?;

    let copy = ground.restored("copy", "orders-db", &json!({"time": between})).await?;
    ensure!(ids(&copy, "true").await? == BTreeSet::from([1]), "exactly what was written before the moment");
    query(&copy, "INSERT INTO ledger VALUES (3)").await?;
    ensure!(ids(&database, "true").await? == BTreeSet::from([1, 2]), "the source is as it was");
    completed(&copy, "copy-first").await.context("the restored one is backed up to its own place")?;
    refused(&ground).await?;
    wrong_bucket(&database, &ground).await?;
    encryption::turned_on(&database, &ground).await?;
    ground.clear().await
}

/// As a person does it.
async fn create(database: &Database, name: &str) -> Result<()> {
    let backup = json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Backup",
        "metadata": {"name": name, "namespace": database.namespace}, "spec": {"database": database.name},
    });
    database.kubectl.run_with(&["create", "-f", "-"], &backup.to_string()).await.map(drop)
}

async fn request(database: &Database, name: &str) -> Result<Value> {
    create(database, name).await?;
    completed(database, name).await
}

async fn on_demand(database: &Database) -> Result<()> {
    let status = request(database, "now").await?;
    let primary = database.primary().await?.name;
    ensure!(status["instance"] != json!(primary), "a standby takes it, not {primary}: {status}");
    for field in ["size", "duration", "beginLsn", "endLsn", "backupId", "completedAt"] {
        ensure!(status[field].is_string(), "{field} in {status}");
    }
    say(&format!("on demand: {} in {}", status["size"], status["duration"]));
    Ok(())
}

/// What the CronJob does when its time has come; returns the status of the Backup, which has the Job's name.
async fn by_the_schedule(database: &Database, cron_job: &str, job: &str) -> Result<Value> {
    database.kubectl(&["create", "job", job, &format!("--from=cronjob/{cron_job}")]).await?;
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let of_job = format!("job/{job}");
    database.kubectl(&["wait", "--for=condition=Complete", &limit, &of_job]).await?;
    completed(database, job).await
}

async fn told(database: &Database) -> Result<()> {
    let times = async || {
        condition(database, RESTORABLE, "True").await?;
        let status = database.status().await?;
        let last = status.last_backup_time.context("no lastBackupTime")?.0;
        let earliest = status.earliest_restorable_time.context("no earliestRestorableTime")?.0;
        let latest = status.latest_restorable_time.context("no latestRestorableTime")?.0;
        ensure!(earliest <= last, "earliest {earliest}, last backup {last}, latest {latest}");
        Ok(())
    };
    wait::until("the status to tell of backups", LIMIT, times).await.map(drop)
}

/// A moment before the first backup cannot be reached, and the reason is said.
async fn refused(ground: &Ground) -> Result<()> {
    let database = ground.database("too-early").await?;
    let mut spec = ground.sample(1);
    let target = json!({"time": "2020-01-01T00:00:00Z"});
    spec["bootstrap"] = json!({"restore": {"from": {"database": "orders-db"}, "target": target}});
    database.apply(&spec).await?;
    let said = async || condition(&database, "Degraded", "True").await;
    let why = async || {
        let message = said().await?;
        ensure!(message.contains("could not restore"), "{message}");
        Ok(message)
    };
    let (message, _) = wait::until("the refusal of a restore", LIMIT, why).await?;
    say(&format!("refused: {message}"));
    database.delete(LIMIT).await
}

async fn wrong_bucket(database: &Database, ground: &Ground) -> Result<()> {
    let mut spec = ground.sample(3);
    spec["backup"]["destination"] = json!("s3://no-such-bucket/orders-db");
    database.apply(&spec).await?;
    query(database, "INSERT INTO ledger VALUES (4)").await?;
    query(database, "SELECT pg_switch_wal()").await?;
    let down = async || condition(database, CONTINUOUS_ARCHIVING, "False").await;
    let (message, took) = wait::until("a wrong bucket to show", TELL_LIMIT, down).await?;
    say(&format!("after {:.0} s: {message}", took.as_secs_f64()));
    database.apply(&ground.sample(3)).await?;
    let up = async || condition(database, CONTINUOUS_ARCHIVING, "True").await;
    wait::until("archiving to go on", LIMIT, up).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn no_row_is_missing_after_a_failover_with_the_store_down() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-failover").await? else { return Ok(()) };
    let Some(lab) = ground.stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    let database = formed(&ground, "busy", 3).await?;
    let writer = Writer::start(database.read_write().await?, 1);
    written(&writer, 300).await?;
    let before = now(&database).await?;
    written(&writer, writer.count() + 100).await?;

    let store = ground.store().await?;
    store.freeze(LIMIT).await?;
    query(&database, "SELECT pg_switch_wal()").await?;
    written(&writer, writer.count() + 200).await?;
    let killed = database.primary().await?;
    fault::kill_container(lab, &database).await?;
    fault::leads_again(&database, &killed).await?;
    written(&writer, writer.count() + 200).await?;
    let during = now(&database).await?;
    written(&writer, writer.count() + 200).await?;
    store.thaw().await?;

    verdict::whole(&database, 3, LIMIT).await?;
    written(&writer, writer.count() + 200).await?;
    let after = now(&database).await?;
    written(&writer, writer.count() + 100).await?;
    let record = writer.stop().await?;
    verdict::nothing_lost(&database, &record).await?;
    archived(&database).await?;
    for (name, moment) in [("before", before), ("during", during), ("after", after)] {
        accounted_for(&ground, &database, name, &moment).await?;
    }
    ground.clear().await
}

async fn now(database: &Database) -> Result<String> {
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    text(database, now).await
}

/// Everything that was committed by the moment is there and nothing that was begun after it. What was under way
/// just then may be either.
async fn accounted_for(ground: &Ground, source: &Database, name: &str, moment: &str) -> Result<()> {
    let must = ids(source, &format!("at < timestamptz '{moment}' - interval '1 second'")).await?;
    let may = ids(source, &format!("at <= timestamptz '{moment}'")).await?;
    let copy = ground.restored(name, "busy", &json!({"time": moment})).await?;
    let there = ids(&copy, "true").await?;
    let (missing, more) = (must.difference(&there).count(), there.difference(&may).count());
    ensure!(missing == 0 && more == 0, "{name}: {missing} rows are missing and {more} should not be there");
    say(&format!("{name}: {} rows, of {} to {}", there.len(), must.len(), may.len()));
    copy.delete(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn what_is_deleted_after_a_last_backup_comes_back_from_it() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-last").await? else { return Ok(()) };
    let database = formed(&ground, "leaving", 1).await?;
    let uid = uid(&database).await?;
    query(&database, "INSERT INTO ledger VALUES (1)").await?;
    let patch = json!({"spec": {"deletionPolicy": "DeleteAfterBackup"}}).to_string();
    database.kubectl(&["patch", "db", "leaving", "--type=merge", "-p", &patch]).await?;
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    database.kubectl(&["delete", "db", "leaving", &limit]).await?;
    let left = ["get", "pvc", "-l", "db.example.com/database=leaving", "-o", "name"];
    let gone = async || {
        ensure!(database.kubectl(&left).await?.is_empty(), "volumes are left");
        Ok(())
    };
    wait::until("the volumes to go", LIMIT, gone).await?;

    let back = ground.database("back").await?;
    let mut spec = ground.sample(1);
    spec["bootstrap"] = json!({"restore": {"from": {"repository": ground.repository(&uid)}}});
    back.apply(&spec).await?;
    verdict::whole(&back, 1, LIMIT).await?;
    ensure!(ids(&back, "true").await? == BTreeSet::from([1]), "the row that was written last");
    ground.clear().await
}
