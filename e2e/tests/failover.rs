//! A Database of three instances under load survives one fault after another: each test breaks something,
//! and shows that it comes back whole by itself, that no acknowledged row is lost and that there never are
//! two primaries (docs/ha.md, S1 and S2).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    fault::cluster::Fault,
    scenario::{
        database::Database,
        fault,
        stage::Stage,
        switchover,
        trial::{Report, survive},
        verdict,
        wait::say,
    },
};
use serde_json::json;
use tokio::sync::OnceCell;

/// Namespace of this file's Database.
const NAMESPACE: &str = "failover";
/// Three instances.
const COUNT: usize = 3;
/// From nothing to whole, or from a fault to whole, on a machine that also builds. Targets are measured by
/// `cargo lab bench`, not here.
const WHOLE_LIMIT: Duration = Duration::from_mins(4);

/// A Database of an earlier run has agents of an earlier build.
static CLEARED: OnceCell<()> = OnceCell::const_new();

/// The Database that all tests share: each leaves it whole.
async fn ground() -> Result<(Stage, Database)> {
    let stage = Stage::with_operator().await?;
    CLEARED.get_or_try_init(|| stage.without(NAMESPACE)).await?;
    let database = stage.database(NAMESPACE, "survivor").await?;
    database.apply(&json!({"replicas": COUNT, "version": "16", "storage": {"size": "1Gi"}})).await?;
    Ok((stage, database))
}

async fn trial(database: &Database, name: &str, fault: impl AsyncFnOnce() -> Result<()>) -> Result<Report> {
    say(&format!("{name}: begins"));
    let report = survive(database, COUNT, WHOLE_LIMIT, fault).await.with_context(|| name.to_owned())?;
    say(&format!("{name}: {report}"));
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_postmaster_is_killed() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    let fault = async || fault::kill_postmaster(lab, &database).await;
    let report = trial(&database, "postmaster SIGKILL", fault).await?;
    the_members_tell_it(&database, &report.leaders.1).await
}

/// As a person on call would ask, from the pod that did not lead before.
async fn the_members_tell_it(database: &Database, leader: &str) -> Result<()> {
    let timeline = ["exec", leader, "-c", "agent", "--", "/agent", "timeline", "--last", "5m"];
    let text = database.kubectl(&timeline).await?;
    println!("{text}");
    for told in ["stopped: ", "contends: ", "order      promote to timeline ", "is primary to clients"] {
        ensure!(text.contains(told), "nobody tells {told:?}");
    }
    for pod in database.pods().await? {
        ensure!(text.contains(&format!("{}: remembers ", pod.name)), "{} told nothing", pod.name);
    }
    ensure!(text.contains(&format!("{leader} opened epoch ")), "{leader} did not open an epoch");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_container_is_killed() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    trial(&database, "container SIGKILL", async || fault::kill_container(lab, &database).await)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_pod_is_deleted() -> Result<()> {
    let (_stage, database) = ground().await?;
    let mut deleted = String::new();
    let fault = async || {
        deleted = database.primary().await?.name;
        fault::delete_primary(&database).await
    };
    let report = trial(&database, "pod delete", fault).await?;
    ensure!(report.leaders.1 != deleted, "{deleted} did not hand over");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_node_of_the_primary_is_drained() -> Result<()> {
    let (_stage, database) = ground().await?;
    trial(&database, "kubectl drain", async || fault::drain(&database).await).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_node_of_the_primary_is_lost_and_returns() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Node) else { return Ok(()) };
    trial(&database, "node loss and return", async || fault::lose_node(lab, &database).await).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_volume_of_a_replica_is_lost() -> Result<()> {
    let (_stage, database) = ground().await?;
    trial(&database, "volume of a replica lost", async || fault::lose_volume(&database).await).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_fails_while_there_is_no_operator() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    let fault = async || {
        stage.scale_operator(0).await?;
        let before = database.primary().await?;
        fault::kill_container(lab, &database).await?;
        let led = fault::leads_again(&database, &before).await;
        stage.scale_operator(2).await?;
        led
    };
    trial(&database, "operator absent during a failure", fault).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn another_primary_is_asked_for_by_http() -> Result<()> {
    let (_stage, database) = ground().await?;
    verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    let candidate = database.standby().await?;
    let fault = async || {
        switchover::by_http(&database, &database.primary().await?, &candidate).await?;
        fault::leads(&database, &candidate).await
    };
    trial(&database, "switchover by HTTP", fault).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn another_primary_is_asked_for_by_annotation() -> Result<()> {
    let (_stage, database) = ground().await?;
    verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    let candidate = database.standby().await?;
    let fault = async || {
        switchover::by_annotation(&database, &candidate).await?;
        fault::leads(&database, &candidate).await
    };
    trial(&database, "switchover by annotation", fault).await.map(drop)
}
