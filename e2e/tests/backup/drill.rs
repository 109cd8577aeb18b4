//! Restores that nobody asked for, as a proof.

use proto::api::status::RESTORE_PROVEN;

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_drill_proves_backups_that_build_on_each_other_and_leaves_nothing_behind() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-drill").await? else { return Ok(()) };
    let Some(lab) = ground.stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    images::ensure(lab, &["17".parse()?]).await?;
    let mut spec = ground.sample(2);
    spec["version"] = json!("17");
    spec["backup"]["fullEvery"] = json!(3);
    // With a certificate that no public authority has signed.
    spec["backup"]["endpoint"] = json!(ground.server.endpoint_tls);
    spec["backup"]["credentials"]["customCa"] = json!(true);
    let database = formed_as(&ground, "drilled", 2, &spec).await?;
    let newest = increment(&database).await?;
    query(&database, "INSERT INTO ledger VALUES (3)").await?;
    archived(&database).await?;
    spec["backup"]["drillSchedule"] = json!("0 6 * * 0");
    database.apply(&spec).await?;
    let there = async || database.kubectl(&["get", "cronjob", "drilled-drill"]).await;
    wait::until("the schedule of drills", LIMIT, there).await?;
    let message = drill(&database, "good", "True").await?;
    ensure!(message.contains("pg_amcheck"), "{message}");
    let status = database.status().await?;
    ensure!(status.last_proven_restore_time.is_some());
    let proven = status.restore_drill.as_ref().and_then(|drill| drill.backup_id.as_ref());
    ensure!(newest == json!(proven), "{proven:?} was restored, not {newest}");

    let bucket = "s3://no-such-bucket/orders-db";
    spec["backup"]["destination"] = json!(bucket);
    database.apply(&spec).await?;
    let map = ["get", "configmap", "drilled-drill", "-o", "jsonpath={.data}"];
    let told = async || {
        ensure!(database.kubectl(&map).await?.contains(bucket), "the bucket is not told yet");
        Ok(())
    };
    wait::until("the wrong bucket to be told", LIMIT, told).await?;
    drill(&database, "bad", "False").await?;
    let proven = database.status().await?.last_proven_restore_time;
    ensure!(proven == status.last_proven_restore_time, "a failure takes no proof away");
    ground.clear().await
}

/// Name of an incremental backup, taken from a standby.
async fn increment(database: &Database) -> Result<Value> {
    // The first one of all may be of a time when there was no standby yet to note what changes from then on.
    let parent = changed_and_backed_up(database, "parent", 1).await?;
    let child = changed_and_backed_up(database, "child", 2).await?;
    ensure!(child["kind"] == "Incremental" && child["parent"] == parent["backupId"], "{child}");
    ensure!(child["instance"] != json!(database.primary().await?.name), "a standby takes it: {child}");
    Ok(child["backupId"].clone())
}

/// A standby goes on from the last checkpoint that it has replayed: there has to be a new one.
async fn changed_and_backed_up(database: &Database, name: &str, row: i64) -> Result<Value> {
    query(database, &format!("INSERT INTO ledger VALUES ({row})")).await?;
    query(database, "CHECKPOINT").await?;
    moment(database).await?;
    let status = request(database, name).await?;
    say(&format!("{name}: {} {} in {}", status["kind"], status["size"], status["duration"]));
    Ok(status)
}

/// Runs one by hand until it is told, and its volume gone.
async fn drill(database: &Database, job: &str, expected: &str) -> Result<String> {
    database.kubectl(&["create", "job", job, "--from=cronjob/drilled-drill"]).await?;
    let told = async || condition(database, RESTORE_PROVEN, expected).await;
    let (message, took) = wait::until("a drill to be told", LIMIT, told).await?;
    say(&format!("after {:.0} s: {message}", took.as_secs_f64()));
    let gone = async || {
        let left = database.kubectl(&["get", "pvc,pod", "-l", "db.example.com/helps", "-o", "name"]).await?;
        let left: Vec<_> = left.lines().filter(|name| name.contains(job)).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    };
    wait::until("its volume to go", LIMIT, gone).await?;
    Ok(message)
}
