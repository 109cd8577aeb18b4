//! A failover that must not happen by itself, since what is left cannot know what was acknowledged: it is told, with
//! the command by which a human accepts the loss, and that command works (docs/ha.md section 6).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    fault::{cluster::Fault, node},
    lab::{Lab, Node},
    scenario::{
        database::{Database, Pod},
        fault::node_of,
        session::Session,
        stage::Stage,
        trial::create_tables,
        verdict, wait,
        wait::say,
    },
};
use proto::api::status::FAILOVER_BLOCKED;
use serde_json::json;

const NAMESPACE: &str = "blocked";
const COUNT: usize = 3;
/// One on each node, so that the last node has one.
const OPERATORS: u8 = 3;
/// As in `manifests/`.
const USUAL_OPERATORS: u8 = 2;
/// From nothing to whole, or from a fault to whole, on a machine that also builds.
const WHOLE_LIMIT: Duration = Duration::from_mins(4);
/// The lease of the default profile, that of the operators, and a moment.
const TELL_LIMIT: Duration = Duration::from_mins(2);
/// Commits wait for standbys that are gone until the primary goes on without them.
const COMMIT_LIMIT: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_human_accepts_the_loss_of_what_only_lost_members_have() -> Result<()> {
    let stage = Stage::with_operator().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Node) else { return Ok(()) };
    stage.without(NAMESPACE).await?;
    let database = stage.database(NAMESPACE, "stubborn").await?;
    database.apply(&json!({"replicas": COUNT, "version": "16", "storage": {"size": "1Gi"}})).await?;
    verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    create_tables(&database).await?;
    stage.scale_operator(OPERATORS).await?;

    let primary = database.primary().await?;
    let lost = [primary.clone(), database.standby().await?];
    let left = database.pods().await?.into_iter().find(|pod| lost.iter().all(|lost| lost.uid != pod.uid));
    let left = left.context("no third pod")?;
    let mut off = Vec::new();
    for pod in &lost {
        let node = lab.node(&node_of(pod)?)?;
        node::off(node).await?;
        off.push(node);
    }
    let overridden = accept_the_loss(&database, &left).await;
    boot(lab, &off).await?;
    stage.scale_operator(USUAL_OPERATORS).await?;
    overridden?;

    let whole = verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    say(&format!("whole {:.1} s after the others were back", whole.as_secs_f64()));
    for pod in database.pods().await? {
        let session = Session::open_patiently(&database.superuser_on(&pod).await?).await?;
        let rows = session.query("SELECT id FROM ledger", &[], COMMIT_LIMIT).await?;
        ensure!(rows.len() == 1, "{} rows on {}", rows.len(), pod.name);
    }
    let annotation = ["get", "db", &database.name, "-o", "jsonpath={.metadata.annotations}"];
    let kept = database.kubectl(&annotation).await?;
    ensure!(!kept.contains("accept-data-loss"), "the word of a human outlives its use: {kept}");
    database.delete(WHOLE_LIMIT).await
}

/// Does what the message says, and writes.
async fn accept_the_loss(database: &Database, left: &Pod) -> Result<()> {
    let told = async || {
        let status = database.status().await?;
        let blocked = status.conditions.into_iter().find(|condition| condition.type_ == FAILOVER_BLOCKED);
        let blocked = blocked.context("no condition FailoverBlocked")?;
        let (_, command) = blocked.message.split_once("kubectl ").context(blocked.message.clone())?;
        ensure!(blocked.status == "True", "{}: {}", blocked.status, blocked.message);
        Ok(command.to_owned())
    };
    let (command, took) = wait::until("the blocked failover to be told", TELL_LIMIT, told).await?;
    say(&format!("after {:.0} s: kubectl {command}", took.as_secs_f64()));
    ensure!(!database.accepts_writes(left).await, "{} leads without anybody's leave", left.name);
    database.kubectl.run(&command.split_whitespace().collect::<Vec<_>>()).await?;
    let leads = async || {
        ensure!(database.accepts_writes(left).await, "{} does not accept writes yet", left.name);
        Ok(())
    };
    let ((), took) = wait::until(&format!("{} to lead", left.name), TELL_LIMIT, leads).await?;
    say(&format!("{} leads {:.1} s after the loss was accepted", left.name, took.as_secs_f64()));
    let session = Session::open_patiently(&database.superuser_on(left).await?).await?;
    session.query("INSERT INTO ledger VALUES (1)", &[], COMMIT_LIMIT).await.map(drop)
}

async fn boot(lab: &Lab, nodes: &[&Node]) -> Result<()> {
    for node in nodes {
        node::on(lab, node).await?;
    }
    Ok(())
}
