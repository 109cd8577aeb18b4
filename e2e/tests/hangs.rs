//! Something stands still, two things go wrong at once, or something goes wrong during a switchover, under the same
//! clients and judged as in `partitions`. What hangs is the worst of all: it comes back and believes what it knew.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    fault::cluster::Fault,
    scenario::{
        ordeal::{Ordeal, Until},
        stage::Stage,
        trial::{Report, survive_ordeal},
        trouble::{Ground, Manner, Trouble, Who},
    },
};
use tokio::sync::OnceCell;

const NAMESPACE: &str = "hangs";
/// What hung wakes this long after another one leads.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// A Database of an earlier run has agents of an earlier build.
static CLEARED: OnceCell<()> = OnceCell::const_new();

/// Nothing where the cluster is not the lab.
async fn undergo(ordeal: Ordeal) -> Result<Option<Report>> {
    let stage = Stage::with_operator().await?;
    if !stage.cluster.supports(Fault::Container) {
        return Ok(None);
    }
    CLEARED.get_or_try_init(|| stage.without(NAMESPACE)).await?;
    let ground = Ground::prepare(stage, NAMESPACE, "sleepy", Manner::default()).await?;
    survive_ordeal(&ground, &ordeal).await.map(Some)
}

async fn hang_until_another_leads(trouble: Trouble) -> Result<()> {
    let report = undergo(Ordeal::of(trouble, Until::AnotherLeads(AFTERWARDS))).await?;
    report.map_or(Ok(()), |report| {
        ensure!(report.leaders.0 != report.leaders.1, "{} leads as before", report.leaders.0);
        Ok(())
    })
}

/// The second one while what the first one led to is under way.
async fn both(one: Trouble, other: Trouble, stagger: Duration) -> Result<()> {
    let until = Until::Passed(Duration::from_secs(4));
    undergo(Ordeal { troubles: vec![one, other], stagger, until }).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_agent_is_stopped() -> Result<()> {
    hang_until_another_leads(Trouble::AgentStopped(Who::Primary)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_supervisor_is_stopped() -> Result<()> {
    hang_until_another_leads(Trouble::SupervisorStopped(Who::Primary)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_container_is_frozen_past_the_lease_and_wakes() -> Result<()> {
    hang_until_another_leads(Trouble::ContainerFrozen(Who::Primary)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_node_is_paused_past_the_lease_and_wakes() -> Result<()> {
    hang_until_another_leads(Trouble::NodeFrozen(Who::Primary)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_is_killed_while_a_standby_has_no_agent() -> Result<()> {
    let (agent, postmaster) = (Trouble::AgentKilled(Who::Standby), Trouble::PostmasterKilled(Who::Primary));
    both(agent, postmaster, Duration::from_millis(100)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_and_a_standby_lose_power_together() -> Result<()> {
    let (primary, standby) = (Trouble::NodeOff(Who::Primary), Trouble::NodeOff(Who::Standby));
    both(primary, standby, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_candidate_is_killed_during_a_switchover() -> Result<()> {
    let killed = Trouble::PostmasterKilled(Who::Standby);
    both(Trouble::Switchover, killed, Duration::from_millis(150)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_loses_power_during_a_switchover() -> Result<()> {
    let lost = Trouble::NodeOff(Who::Primary);
    both(Trouble::Switchover, lost, Duration::from_millis(150)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_api_server_goes_down_during_a_switchover() -> Result<()> {
    both(Trouble::Switchover, Trouble::ApiDown, Duration::from_millis(150)).await
}
