//! The node of the primary is cut off, wholly and in part, in both directions and in one, while clients with open
//! sessions write on every pod from outside and from inside every node: nothing that anybody was told to be
//! committed is lost, and nobody gets a write accepted on the old side once the new one accepts them (docs/ha.md, S1
//! and S2).

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    fault::{
        cluster::Fault,
        partition::{Direction, From},
    },
    scenario::{
        ordeal::{Ordeal, Until},
        stage::Stage,
        trial::{Report, survive_ordeal},
        trouble::{Ground, Manner, Trouble, Who},
    },
};
use tokio::sync::OnceCell;

const NAMESPACE: &str = "partitions";
/// How long the old side goes on trying after the new one leads: longer than it may take to fence.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// A Database of an earlier run has agents of an earlier build.
static CLEARED: OnceCell<()> = OnceCell::const_new();

/// Cuts the primary's node off; nothing where the cluster is not the lab.
async fn cut(from: From, direction: Direction, until: Until) -> Result<Option<Report>> {
    let stage = Stage::with_operator().await?;
    if !stage.cluster.supports(Fault::Partition) {
        return Ok(None);
    }
    CLEARED.get_or_try_init(|| stage.without(NAMESPACE)).await?;
    let ground = Ground::prepare(stage, NAMESPACE, "divided", Manner::default()).await?;
    let ordeal = Ordeal::of(Trouble::Cut(Who::Primary, from, direction), until);
    survive_ordeal(&ground, &ordeal).await.map(Some)
}

/// The old primary must have lost it: a partition that nobody noticed shows nothing.
async fn cut_until_another_leads(from: From, direction: Direction) -> Result<()> {
    let report = cut(from, direction, Until::AnotherLeads(AFTERWARDS)).await?;
    report.map_or(Ok(()), |report| {
        ensure!(report.leaders.0 != report.leaders.1, "{} leads as before", report.leaders.0);
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_is_cut_off_from_everything() -> Result<()> {
    cut_until_another_leads(From::All, Direction::Both).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_hears_nothing() -> Result<()> {
    cut_until_another_leads(From::All, Direction::Inbound).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_is_not_heard() -> Result<()> {
    cut_until_another_leads(From::All, Direction::Outbound).await
}

/// Whether the lead moves is another matter (`api_outage`); here nothing may be lost and nobody lead twice.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_loses_the_api_server() -> Result<()> {
    cut(From::Api, Direction::Both, Until::Passed(Duration::from_secs(13))).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_loses_its_peers_and_keeps_the_lease() -> Result<()> {
    let report = cut(From::Peers, Direction::Both, Until::Passed(Duration::from_secs(13))).await?;
    report.map_or(Ok(()), |report| {
        ensure!(report.leaders.0 == report.leaders.1, "{} took over", report.leaders.1);
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_primary_is_not_heard_by_its_peers() -> Result<()> {
    cut(From::Peers, Direction::Outbound, Until::Passed(Duration::from_secs(8))).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn clients_alone_lose_the_primary_and_nothing_moves() -> Result<()> {
    let report = cut(From::Clients, Direction::Both, Until::Passed(Duration::from_secs(12))).await?;
    report.map_or(Ok(()), |report| {
        ensure!(report.leaders.0 == report.leaders.1, "{} took over", report.leaders.1);
        ensure!(report.outage > Duration::from_secs(10), "clients were not cut off");
        Ok(())
    })
}
