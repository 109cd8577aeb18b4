//! Backups whose data is in VolumeSnapshots, on the lab's storage.

use super::*;

/// As a person takes one; returns its status.
async fn snapshot(database: &Database, name: &str) -> Result<Value> {
    let backup = json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Backup",
        "metadata": {"name": name, "namespace": database.namespace},
        "spec": {"database": database.name, "method": "VolumeSnapshot"},
    });
    database.kubectl.run_with(&["create", "-f", "-"], &backup.to_string()).await?;
    let status = completed(database, name).await?;
    ensure!(status["kind"] == "Snapshot", "{status}");
    for field in ["volumeSnapshot", "beginLsn", "endLsn", "backupId", "instance", "size"] {
        ensure!(status[field].is_string(), "{field} in {status}");
    }
    say(&format!("{name}: {} of {} in {}", status["size"], status["instance"], status["duration"]));
    Ok(status)
}

/// A Database that begins with the VolumeSnapshot.
fn from_snapshot(ground: &Ground, name: &str, target: &Value) -> Value {
    let mut spec = ground.sample(1);
    let restore = json!({"from": {"database": "still"}, "volumeSnapshot": name, "target": target});
    spec["bootstrap"] = json!({"restore": restore});
    spec
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_snapshot_under_load_is_restored_to_a_moment_after_it() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-snapshot").await? else { return Ok(()) };
    let database = formed(&ground, "still", 2).await?;
    let writer = Writer::start(database.read_write().await?, 1);
    written(&writer, 200).await?;
    let status = snapshot(&database, "held").await?;
    let primary = database.primary().await?.name;
    ensure!(status["instance"] != json!(primary), "a standby holds still, not {primary}: {status}");
    written(&writer, writer.count() + 200).await?;
    let moment = now(&database).await?;
    written(&writer, writer.count() + 200).await?;
    let record = writer.stop().await?;
    verdict::nothing_lost(&database, &record).await?;
    archived(&database).await?;

    let name = status["volumeSnapshot"].as_str().context("no name")?;
    let ready = ["get", "volumesnapshot", name, "-o", "jsonpath={.status.readyToUse}"];
    ensure!(database.kubectl(&ready).await? == "true");
    let copy = ground.database("thawed").await?;
    copy.apply(&from_snapshot(&ground, name, &json!({"time": moment}))).await?;
    let took = verdict::whole(&copy, 1, LIMIT).await?;
    say(&format!("thawed serves {:.1} s after it was applied", took.as_secs_f64()));
    let source = ["get", "pvc", "data-thawed-0", "-o", "jsonpath={.spec.dataSource.name}"];
    ensure!(copy.kubectl(&source).await? == name, "its volume is made of the snapshot");
    let must = ids(&database, &format!("at < timestamptz '{moment}' - interval '1 second'")).await?;
    let may = ids(&database, &format!("at <= timestamptz '{moment}'")).await?;
    let there = ids(&copy, "true").await?;
    let (missing, more) = (must.difference(&there).count(), there.difference(&may).count());
    ensure!(missing == 0 && more == 0, "{missing} rows are missing and {more} should not be there");
    // It is the data of another Database now, and backed up as such.
    completed(&copy, "thawed-first").await?;
    snapshot(&copy, "again").await?;
    scheduled(&database, &ground).await?;
    grows_by_a_snapshot(&database, &ground).await?;
    grows_without_one(&database, &ground).await?;
    missing_snapshot(&ground).await?;
    ground.clear().await
}

/// As the second CronJob does it every few hours.
async fn scheduled(database: &Database, ground: &Ground) -> Result<()> {
    let mut spec = ground.sample(2);
    spec["backup"]["snapshotSchedule"] = json!("0 */4 * * *");
    database.apply(&spec).await?;
    let there = async || database.kubectl(&["get", "cronjob", "still-snapshot"]).await;
    wait::until("the schedule of snapshots", LIMIT, there).await?;
    let status = by_the_schedule(database, "still-snapshot", "noon").await?;
    ensure!(status["kind"] == "Snapshot", "{status}");
    Ok(())
}

/// Applies the sample with so many instances, under load, and waits until all serve.
async fn grown(database: &Database, ground: &Ground, replicas: usize) -> Result<()> {
    let writer = Writer::start(database.read_write().await?, i64::try_from(replicas)? * 1_000_000);
    let mut spec = ground.sample(replicas);
    spec["backup"]["snapshotSchedule"] = json!("0 */4 * * *");
    database.apply(&spec).await?;
    let took = verdict::whole(database, replicas, LIMIT).await?;
    say(&format!("{replicas} instances serve {:.1} s after they were wanted", took.as_secs_f64()));
    verdict::nothing_lost(database, &writer.stop().await?).await
}

/// Which VolumeSnapshot an instance's volume was made of, or nothing.
async fn made_of(database: &Database, instance: u8) -> Result<String> {
    let volume = format!("data-{}-{instance}", database.name);
    let annotations = ["get", "pvc", &volume, "-o", "jsonpath={.metadata.annotations}"];
    let annotations = database.kubectl(&annotations).await?;
    ensure!(!annotations.contains("unfinished"), "{volume} is in use with the mark: {annotations}");
    database.kubectl(&["get", "pvc", &volume, "-o", "jsonpath={.spec.dataSource.name}"]).await
}

async fn grows_by_a_snapshot(database: &Database, ground: &Ground) -> Result<()> {
    grown(database, ground, 3).await?;
    let snapshot = made_of(database, 2).await?;
    ensure!(snapshot.starts_with("still-"), "made of {snapshot:?}");
    let log = database.kubectl(&["logs", "still-2", "--container", "postgres"]).await?;
    ensure!(!log.contains("pg_basebackup"), "it copied everything all the same: {log}");
    let gone = async || {
        let job = database.kubectl(&["get", "job", "still-standby-2", "--ignore-not-found"]).await?;
        ensure!(job.is_empty(), "{job}");
        Ok(())
    };
    wait::until("the Job to be gone", LIMIT, gone).await.map(drop)
}

/// The store knows nothing of the snapshots any more: what was begun with one is thrown away.
async fn grows_without_one(database: &Database, ground: &Ground) -> Result<()> {
    let bucket = ground.bucket()?;
    let entries = bucket.list(FOLDER).await?.into_iter().filter(|key| key.contains("/snapshot/"));
    let entries: Vec<_> = entries.collect();
    ensure!(!entries.is_empty(), "no entry of a snapshot in the store");
    for entry in entries {
        bucket.delete(&entry).await?;
    }
    grown(database, ground, 4).await?;
    ensure!(made_of(database, 3).await?.is_empty(), "its volume is made of a snapshot");
    let told =
        ["get", "events", "--field-selector", "reason=SnapshotNotUsed", "-o", "jsonpath={..note}{..message}"];
    let told = database.kubectl(&told).await?;
    ensure!(told.contains("still-3 could not be made of a VolumeSnapshot"), "{told:?}");
    Ok(())
}

async fn missing_snapshot(ground: &Ground) -> Result<()> {
    let database = ground.database("none").await?;
    database.apply(&from_snapshot(ground, "nowhere", &json!({"immediate": true}))).await?;
    let why = async || {
        let message = condition(&database, "Progressing", "False").await?;
        ensure!(message.contains("no VolumeSnapshot nowhere"), "{message}");
        Ok(message)
    };
    let (message, _) = wait::until("the refusal of a snapshot that is not there", LIMIT, why).await?;
    say(&format!("refused: {message}"));
    database.delete(LIMIT).await
}
