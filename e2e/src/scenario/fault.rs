//! Faults as a Database meets them: whatever leads just now is what breaks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::pod::POSTGRES_CONTAINER;

use super::{
    database::{Database, Pod},
    wait,
};
use crate::{
    fault::{container::Container, node},
    lab::Lab,
};

/// Longer than the slowest profile takes to notice a loss.
const TAKE_OVER_LIMIT: Duration = Duration::from_mins(2);
/// Evictions wait for a hand-over each.
const DRAIN_LIMIT: &str = "--timeout=180s";

/// SIGKILL to the postmaster of the primary.
pub async fn kill_postmaster(lab: &Lab, database: &Database) -> Result<()> {
    kill(lab, database, &database.primary().await?, "postgres").await
}

/// SIGKILL to PID 1 of the primary's container.
pub async fn kill_container(lab: &Lab, database: &Database) -> Result<()> {
    kill(lab, database, &database.primary().await?, "agent").await
}

async fn kill(lab: &Lab, database: &Database, pod: &Pod, process: &str) -> Result<()> {
    let container = Container::find(lab, &database.namespace, &pod.name, POSTGRES_CONTAINER).await?;
    let killed = container.kill(process)?;
    ensure!(killed == 1, "{killed} processes called {process} were killed in {}", pod.name);
    Ok(())
}

/// `kubectl delete pod` of the primary. Its pod goes on for a moment, so the fault has begun only once another leads.
pub async fn delete_primary(database: &Database) -> Result<()> {
    let primary = database.primary().await?;
    database.delete_pod(&primary).await?;
    another_leads(database, &primary).await
}

/// `kubectl drain` of the primary's node, and back.
pub async fn drain(database: &Database) -> Result<()> {
    let node = node_of(&database.primary().await?)?;
    let drain = ["drain", node.as_str(), "--ignore-daemonsets", "--delete-emptydir-data", DRAIN_LIMIT];
    let drained = database.kubectl.run(&drain).await;
    database.kubectl.run(&["uncordon", &node]).await?;
    drained.map(drop)
}

/// The primary's node loses power; it boots again once another instance leads.
pub async fn lose_node(lab: &Lab, database: &Database) -> Result<()> {
    let primary = database.primary().await?;
    let name = node_of(&primary)?;
    let lost = lab.node(&name)?;
    node::off(lost).await?;
    let taken_over = another_leads(database, &primary).await;
    node::on(lab, lost).await?;
    taken_over
}

/// A standby loses its volume, and its pod with it.
pub async fn lose_volume(database: &Database) -> Result<()> {
    let standby = database.standby().await?;
    let claim = format!("data-{}", standby.name);
    database.kubectl(&["delete", "pvc", &claim, "--wait=false"]).await?;
    database.delete_pod(&standby).await?;
    ended(database, &standby, TAKE_OVER_LIMIT).await
}

/// Waits until a pod is gone; another one may have its name by then.
pub async fn ended(database: &Database, gone: &Pod, limit: Duration) -> Result<()> {
    let look = async || {
        let pods = database.pods().await?;
        ensure!(pods.iter().all(|pod| pod.uid != gone.uid), "{} has not ended", gone.name);
        Ok(())
    };
    wait::until(&format!("{} to end", gone.name), limit, look).await.map(drop)
}

/// Waits until a pod other than `before` accepts writes.
pub async fn another_leads(database: &Database, before: &Pod) -> Result<()> {
    let look = async || {
        // A lost node cannot take its label off, so that for a while there are two.
        for pod in database.pods().await? {
            if pod.uid != before.uid && pod.role == "primary" && database.accepts_writes(&pod).await {
                return Ok(());
            }
        }
        anyhow::bail!("no other pod accepts writes")
    };
    wait::until(&format!("another primary than {}", before.name), TAKE_OVER_LIMIT, look).await.map(drop)
}

/// Waits until a pod accepts writes that is not what led before: another pod, or a restarted one.
pub async fn leads_again(database: &Database, before: &Pod) -> Result<()> {
    let look = async || {
        let now = database.primary().await?;
        ensure!(database.accepts_writes(&now).await, "{} does not accept writes yet", now.name);
        ensure!(now.uid != before.uid || now.restarts > before.restarts, "{} has not failed yet", now.name);
        Ok(())
    };
    wait::until("a primary", TAKE_OVER_LIMIT, look).await.map(drop)
}

/// Waits until `pod` is the primary.
pub async fn leads(database: &Database, pod: &Pod) -> Result<()> {
    let look = async || {
        let now = database.primary().await?;
        ensure!(now.name == pod.name, "{} leads", now.name);
        Ok(())
    };
    wait::until(&format!("{} to lead", pod.name), TAKE_OVER_LIMIT, look).await.map(drop)
}

/// The node that a pod is on.
pub fn node_of(pod: &Pod) -> Result<String> {
    pod.node.clone().with_context(|| format!("{} is on no node", pod.name))
}
