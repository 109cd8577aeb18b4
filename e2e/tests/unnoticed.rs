//! What a Database under load does not notice: the API server away, for everybody or for the primary alone
//! (docs/ha.md section 6, relay or promise), and agents that restart or are replaced by those of another release.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    fault::{
        api_server,
        cluster::Fault,
        container::Container,
        partition::{self, Direction, From},
    },
    images::{self, own},
    lab::{Lab, Node},
    scenario::{
        database::{Database, Pod},
        session::Session,
        stage::Stage,
        trial::survive,
        verdict,
        wait::{self, say},
    },
};
use proto::pod::AGENT_CONTAINER;
use serde_json::{Value, json};
use tokio::{sync::OnceCell, time::sleep};

/// Namespace of this file's Database.
const NAMESPACE: &str = "unnoticed";
/// Three instances.
const COUNT: usize = 3;
/// From nothing to whole, or from a fault to whole, on a machine that also builds.
const WHOLE_LIMIT: Duration = Duration::from_mins(4);
/// Six times the lease of the default profile.
const OUTAGE: Duration = Duration::from_mins(1);
/// A fault undoes itself after this, should the test end before it does.
const UNDO_AFTER: Duration = Duration::from_mins(3);
/// The target is 0 s. Clients on a machine that also builds wait for a processor for seconds; a fence would cost what
/// is left of the outage, a failover at least the lease.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// A query of what never changes, on a machine that also builds.
const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// The agent of another release, as far as Kubernetes can tell.
const NEWER: &str = "docker.io/matriarch/agent:newer";

/// A Database of an earlier run has agents of an earlier build.
static CLEARED: OnceCell<()> = OnceCell::const_new();

/// The Database that all tests share: each leaves it whole.
async fn ground() -> Result<(Stage, Database)> {
    let stage = Stage::with_operator().await?;
    CLEARED.get_or_try_init(|| stage.without(NAMESPACE)).await?;
    let database = stage.database(NAMESPACE, "undisturbed").await?;
    database.apply(&json!({"replicas": COUNT, "version": "16", "storage": {"size": "1Gi"}})).await?;
    verdict::whole(&database, COUNT, WHOLE_LIMIT).await?;
    Ok((stage, database))
}

/// What a failover, a fence or a restart would change.
#[derive(Debug, PartialEq, Eq)]
struct Reign {
    primary: String,
    epoch: String,
    postmaster_since: String,
}

async fn reign(database: &Database) -> Result<Reign> {
    let primary = database.primary().await?;
    let session = Session::open_patiently(&database.superuser_on(&primary).await?).await?;
    let rows = session.query("SELECT pg_postmaster_start_time()::text", &[], QUERY_LIMIT).await?;
    let postmaster_since = rows.first().context("no row")?.try_get(0)?;
    let path = "jsonpath={.spec.leaseTransitions}";
    let epoch = database.kubectl(&["get", "lease", &database.name, "--output", path]).await?;
    Ok(Reign { primary: primary.name, epoch, postmaster_since })
}

/// Nobody notices `fault`: no write waits for long, nothing was fenced, promoted or restarted.
async fn unnoticed(
    database: &Database,
    name: &str,
    limit: Duration,
    fault: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    say(&format!("{name}: begins"));
    let before = reign(database).await?;
    let report = survive(database, COUNT, limit, fault).await.with_context(|| name.to_owned())?;
    say(&format!("{name}: {report}"));
    ensure!(report.outage < PAUSE_LIMIT, "{name}: no write for {:?}", report.outage);
    let after = reign(database).await?;
    ensure!(after == before, "{name}: {before:?} became {after:?}");
    Ok(())
}

fn node_of<'a>(lab: &'a Lab, pod: &Pod) -> Result<&'a Node> {
    lab.node(pod.node.as_deref().with_context(|| format!("{} is on no node", pod.name))?)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_api_server_is_stopped() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::ApiServer) else { return Ok(()) };
    let fault = async || {
        api_server::stop().await?;
        sleep(OUTAGE).await;
        api_server::start(lab).await
    };
    unnoticed(&database, "API server stopped", WHOLE_LIMIT, fault).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_api_server_hangs() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(_lab) = stage.cluster.lab_for(Fault::ApiServer) else { return Ok(()) };
    let fault = async || {
        api_server::pause(UNDO_AFTER).await?;
        sleep(OUTAGE).await;
        api_server::resume().await
    };
    unnoticed(&database, "API server paused", WHOLE_LIMIT, fault).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_api_server_takes_no_writes() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(_lab) = stage.cluster.lab_for(Fault::ApiServer) else { return Ok(()) };
    let fault = async || {
        api_server::refuse_writes().await?;
        sleep(OUTAGE).await;
        api_server::accept_writes().await
    };
    unnoticed(&database, "API server read-only", WHOLE_LIMIT, fault).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_alone_does_not_reach_the_api_server() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Partition) else { return Ok(()) };
    let node = node_of(lab, &database.primary().await?)?;
    let fault = async || {
        partition::cut(node, From::Api, Direction::Both, UNDO_AFTER).await?;
        sleep(OUTAGE).await;
        partition::heal(node, From::Api).await
    };
    unnoticed(&database, "primary's node cut off from the API server", WHOLE_LIMIT, fault).await
}

/// The agent comes back beside a server that runs, and takes nothing over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_agent_of_the_primary_restarts() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    let primary = database.primary().await?;
    let fault = async || {
        let container = Container::find(lab, NAMESPACE, &primary.name, AGENT_CONTAINER).await?;
        let killed = container.kill("agent")?;
        ensure!(killed == 1, "{killed} agents were killed in {}", primary.name);
        Ok(())
    };
    unnoticed(&database, "agent SIGKILL", WHOLE_LIMIT, fault).await
}

/// As an operator of another release does it: one after the other, and the servers go on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn agents_are_replaced_by_those_of_another_release() -> Result<()> {
    let (stage, database) = ground().await?;
    let Some(lab) = stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    images::ensure_as(lab, "agent".parse()?, NEWER).await?;
    let before = agents(&database).await?;
    let fault = async || {
        stage.agent_image(NEWER).await?;
        all_run(&database, NEWER).await
    };
    let unnoticed = unnoticed(&database, "agents replaced", WHOLE_LIMIT, fault).await;
    let after = agents(&database).await?;
    stage.agent_image(own::AGENT).await?;
    all_run(&database, own::AGENT).await?;
    unnoticed?;
    ensure!(after.iter().zip(&before).all(|(new, old)| new.container != old.container), "{after:?}");
    Ok(())
}

/// A pod's agent.
#[derive(Debug)]
struct Agent {
    image: Value,
    container: Value,
    replaced: Value,
    ready: Value,
}

async fn agents(database: &Database) -> Result<Vec<Agent>> {
    let selector = format!("db.example.com/database={}", database.name);
    let list = database.kubectl(&["get", "pods", "-l", &selector, "-o", "json"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    let named = |list: &Value| {
        let found = list.as_array().into_iter().flatten().find(|entry| entry["name"] == AGENT_CONTAINER);
        found.cloned().unwrap_or_default()
    };
    let agent = |pod: &Value| {
        let status = named(&pod["status"]["initContainerStatuses"]);
        Agent {
            image: named(&pod["spec"]["initContainers"])["image"].clone(),
            container: status["containerID"].clone(),
            replaced: pod["metadata"]["annotations"]["db.example.com/replaced-agent"].clone(),
            ready: status["ready"].clone(),
        }
    };
    Ok(list["items"].as_array().into_iter().flatten().map(agent).collect())
}

async fn all_run(database: &Database, image: &str) -> Result<()> {
    let looked = async || {
        let agents = agents(database).await?;
        let good =
            |agent: &Agent| agent.image == image && agent.ready == true && agent.container != agent.replaced;
        ensure!(agents.len() == COUNT && agents.iter().all(good), "{agents:?}");
        Ok(())
    };
    let ((), took) = wait::until(&format!("all agents to be {image}"), WHOLE_LIMIT, looked).await?;
    say(&format!("all agents are {image} after {:.1} s", took.as_secs_f64()));
    Ok(())
}
