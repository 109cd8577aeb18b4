//! Volumes that hang or are full: the lead goes to who has one that works, nothing is lost, and when all are full
//! everything comes back by itself once there is space (docs/ha.md section 6).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    fault::{cluster::Fault, disk::Disk},
    scenario::{
        database::{Database, Pod},
        fault,
        stage::Stage,
        trial::survive,
        verdict,
        wait::{self, say},
    },
};
use serde_json::json;
use tokio::sync::OnceCell;

/// Namespace of this file's Database.
const NAMESPACE: &str = "volumes";
/// Three instances.
const COUNT: usize = 3;
/// From nothing to whole, or from a fault to whole, on a machine that also builds.
const WHOLE_LIMIT: Duration = Duration::from_mins(4);
/// A hung disk thaws by itself after this, whatever becomes of the test.
const FREEZE_LIMIT: Duration = Duration::from_mins(2);
/// Until servers without space have ended and it is told.
const NOTICE_LIMIT: Duration = Duration::from_mins(2);

/// A Database of an earlier run has agents of an earlier build.
static CLEARED: OnceCell<()> = OnceCell::const_new();

async fn ground(name: &str) -> Result<(Stage, Database)> {
    let stage = Stage::with_operator().await?;
    CLEARED.get_or_try_init(|| stage.without(NAMESPACE)).await?;
    let database = stage.database(NAMESPACE, name).await?;
    apply(&database, "1Gi").await?;
    Ok((stage, database))
}

async fn apply(database: &Database, size: &str) -> Result<()> {
    database.apply(&json!({"replicas": COUNT, "version": "16", "storage": {"size": size}})).await
}

fn disk_of(database: &Database, pod: &Pod) -> Result<Disk> {
    Disk::of_claim(&database.namespace, &format!("data-{}", pod.name))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_volume_of_the_primary_hangs_and_then_fills_up() -> Result<()> {
    let (stage, database) = ground("spare").await?;
    if stage.cluster.lab_for(Fault::Disk).is_none() {
        return Ok(());
    }
    let hang = async || {
        let primary = database.primary().await?;
        let disk = disk_of(&database, &primary)?;
        disk.freeze(FREEZE_LIMIT).await?;
        let led = fault::another_leads(&database, &primary).await;
        disk.thaw().await?;
        led
    };
    let report = survive(&database, COUNT, WHOLE_LIMIT, hang).await.context("volume hangs")?;
    say(&format!("volume hangs: {report}"));
    ensure!(report.leaders.0 != report.leaders.1, "{} did not give the lead up", report.leaders.0);

    let fill = async || {
        let primary = database.primary().await?;
        let disk = disk_of(&database, &primary)?;
        disk.fill()?;
        let led = fault::another_leads(&database, &primary).await;
        disk.unfill()?;
        led
    };
    let report = survive(&database, COUNT, WHOLE_LIMIT, fill).await.context("volume full")?;
    say(&format!("volume full: {report}"));
    ensure!(report.leaders.0 != report.leaders.1, "{} did not give the lead up", report.leaders.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn all_volumes_are_full_until_they_grow() -> Result<()> {
    let (stage, database) = ground("crowded").await?;
    if stage.cluster.lab_for(Fault::Disk).is_none() {
        return Ok(());
    }
    verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    let primary = database.primary().await?.name;
    for pod in database.pods().await? {
        disk_of(&database, &pod)?.fill()?;
    }
    wait::until("the full volumes to be told", NOTICE_LIMIT, async || {
        let status = database.status().await?;
        let degraded = status.conditions.iter().find(|condition| condition.type_ == "Degraded");
        let degraded = degraded.context("no condition Degraded")?;
        ensure!(degraded.reason == "DiskFull", "{}: {}", degraded.reason, degraded.message);
        ensure!(degraded.message.contains("raise spec.storage.size"), "{}", degraded.message);
        Ok(())
    })
    .await?;
    write_until_it_panics(&database, &primary).await?;
    wait::until("all servers to end", NOTICE_LIMIT, async || {
        ensure!(database.primary().await.is_err(), "one still leads");
        Ok(())
    })
    .await?;
    apply(&database, "2Gi").await?;
    let whole = verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    say(&format!("whole {:.1} s after the volumes were to grow", whole.as_secs_f64()));
    database.delete(WHOLE_LIMIT).await
}

/// A server finds no space for WAL only when it needs another segment, which this makes it need,
/// unless it needed one before and has ended.
async fn write_until_it_panics(database: &Database, primary: &str) -> Result<()> {
    let more = "DO $$ BEGIN FOR i IN 1..40 LOOP PERFORM pg_logical_emit_message(false, 'fill', 'x'); \
                PERFORM pg_switch_wal(); END LOOP; END $$";
    let psql = ["exec", primary, "-c", "postgres", "--", "psql", "-U", "postgres", "-c", more];
    let written = database.kubectl(&psql).await;
    ensure!(written.is_err(), "forty segments of WAL fit on a full volume");
    Ok(())
}
