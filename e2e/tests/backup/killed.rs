//! A backup that is struck while it is taken.

use proto::pod::AGENT_CONTAINER;

use super::*;

/// Name of the agent's process.
const AGENT: &str = "agent";

/// Stands in the middle of its copying, since the store does not answer; returns the instance that takes it.
async fn under_way(database: &Database, name: &str) -> Result<String> {
    create(database, name).await?;
    let running = async || {
        let status = status_of(database, name).await?;
        ensure!(status["phase"] == "Running" && status["startedAt"].is_string(), "{name}: {status}");
        Ok(status["instance"].as_str().context("no instance")?.to_owned())
    };
    Ok(wait::until("a backup to be under way", LIMIT, running).await?.0)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_backup_whose_agent_is_killed_is_taken_again_and_holds_up_nothing() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-killed").await? else { return Ok(()) };
    let Some(lab) = ground.stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    let database = formed(&ground, "struck", 2).await?;
    query(&database, "INSERT INTO ledger VALUES (1)").await?;
    let primary = database.primary().await?.name;

    let store = ground.store().await?;
    store.freeze(LIMIT).await?;
    let instance = under_way(&database, "first-try").await?;
    ensure!(instance != primary, "a standby takes it, not {instance}");
    let agent = Container::find(lab, ground.namespace, &instance, AGENT_CONTAINER).await?;
    ensure!(agent.kill(AGENT)? == 1, "no agent was killed");
    create(&database, "behind-it").await?;
    store.thaw().await?;

    let status = completed(&database, "first-try").await?;
    let struck = database.pods().await?.into_iter().find(|pod| pod.name == instance);
    ensure!(struck.is_some_and(|pod| pod.restarts > 0), "{instance} goes on as if nothing had happened");
    say(&format!("killed on {instance}; {} in attempt {}", status["instance"], status["attempts"]));
    completed(&database, "behind-it").await?;
    verdict::whole(&database, 2, LIMIT).await?;
    ensure!(database.primary().await?.name == primary, "nobody took over");
    query(&database, "INSERT INTO ledger VALUES (2)").await?;
    let moment = moment(&database).await?;
    query(&database, "INSERT INTO ledger VALUES (3)").await?;
    archived(&database).await?;
    let copy = ground.restored("again", "struck", &json!({"time": moment})).await?;
    ensure!(ids(&copy, "true").await? == BTreeSet::from([1, 2]), "what was there at that moment");
    ground.clear().await
}
