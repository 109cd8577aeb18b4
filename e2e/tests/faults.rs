//! Each fault does what it says, and its opposite or its timer undoes it. Those of disks are in `storage`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::fault::cluster::{Cluster, Fault};
use e2e::fault::container::Container;
use e2e::fault::partition::{Direction, From};
use e2e::fault::{api_server, kubelet, node, partition};
use e2e::lab::{Lab, Node, network};
use e2e::scenario::kubectl::Kubectl;
use e2e::scenario::wait::until;
use serde_json::{Value, json};

const NAMESPACE: &str = "faults";
/// Longer than any test of one fault: what a test wants undone it undoes itself.
const LIMIT: Duration = Duration::from_mins(2);
/// For pods to start on a machine that does other things as well.
const START_LIMIT: Duration = Duration::from_mins(2);
/// A healthy answer takes milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// What undoing takes to be seen: connections are retried, kube-proxy and kubelet come round.
const UNDONE_LIMIT: Duration = Duration::from_mins(1);

/// Counts up ten times a second and serves the count; the server is started again whenever it ends.
const BEAT: &str = "while :; do httpd -f -p 8080 -h /tmp; done & \
                    i=0; while :; do i=$((i+1)); echo $i > /tmp/next; mv /tmp/next /tmp/beat; sleep 0.1; done";

struct Stage {
    lab: Lab,
    kubectl: Kubectl,
    http: reqwest::Client,
}

impl Stage {
    /// Nothing where the cluster is not the lab.
    async fn set(fault: Fault) -> Result<Option<Self>> {
        let cluster = Cluster::connect().await?;
        let Some(lab) = cluster.lab_for(fault) else { return Ok(None) };
        lab.client().await?; // chooses how TLS is done, for `http` as well
        let stage = Self {
            lab: lab.clone(),
            kubectl: Kubectl::new(lab.programs().join("kubectl"), lab.kubeconfig()),
            http: reqwest::Client::builder().timeout(ANSWER_LIMIT).pool_max_idle_per_host(0).build()?,
        };
        stage
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
            .await?;
        stage.apply(&beats()).await?;
        stage.until_ready("daemonset/beat").await?;
        Ok(Some(stage))
    }

    async fn apply(&self, object: &Value) -> Result<()> {
        self.kubectl.run_with(&["apply", "-f", "-"], &object.to_string()).await.map(drop)
    }

    async fn until_ready(&self, what: &str) -> Result<()> {
        let limit = format!("--timeout={}s", START_LIMIT.as_secs());
        self.kubectl.run(&["-n", NAMESPACE, "rollout", "status", what, &limit]).await.map(drop)
    }

    fn node(&self, number: usize) -> &Node {
        &self.lab.nodes()[number]
    }

    /// The name and the address of the pod that beats on the node.
    async fn beat_on(&self, node: &Node) -> Result<(String, String)> {
        let on = format!("--field-selector=spec.nodeName={}", node.name());
        let what = "-o=jsonpath={.items[0].metadata.name} {.items[0].status.podIP}";
        let found = self.kubectl.run(&["-n", NAMESPACE, "get", "pods", "-l", "app=beat", &on, what]).await?;
        let (name, address) = found.split_once(' ').context("no pod beats there")?;
        Ok((name.to_owned(), address.to_owned()))
    }

    async fn container_on(&self, node: &Node) -> Result<Container> {
        let (pod, _) = self.beat_on(node).await?;
        Container::find(&self.lab, NAMESPACE, &pod, "beat").await
    }

    /// What the pod has counted to, asked from the host.
    async fn count(&self, address: &str) -> Result<u64> {
        let answer = self.http.get(format!("http://{address}:8080/beat")).send().await?.error_for_status()?;
        Ok(answer.text().await?.trim().parse()?)
    }

    async fn until_counting(&self, address: &str) -> Result<u64> {
        let (count, _) = until("the pod to count", UNDONE_LIMIT, async || self.count(address).await).await?;
        Ok(count)
    }
}

fn beats() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "beat", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "beat"}},
            "template": {
                "metadata": {"labels": {"app": "beat"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container("beat", BEAT)],
                },
            },
        },
    })
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "docker.io/matriarch/tools:dev", "imagePullPolicy": "Never", "command": ["sh", "-c", script]})
}

/// Whether a connection can be made from the node's namespace.
async fn connects(from: &Node, to: &str, port: u16) -> bool {
    let attempt = format!("exec 3<>/dev/tcp/{to}/{port}");
    let limit = ANSWER_LIMIT.as_secs().to_string();
    network::run_in(&from.namespace(), &["timeout", &limit, "bash", "-c", &attempt]).await.is_ok()
}

/// Whether a packet gets from one node to the other, answered or not: a datagram that nobody waits for is
/// counted where it arrives.
async fn arrives(from: &Node, to: &Node) -> Result<bool> {
    let before = unexpected_datagrams(to).await?;
    let send = format!("for i in 1 2 3; do echo > /dev/udp/{}/9; done", to.address());
    // A refusal that comes back is an error for the second one, and shows as well that the first arrived.
    let _ = network::run_in(&from.namespace(), &["bash", "-c", &send]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(unexpected_datagrams(to).await? > before)
}

async fn unexpected_datagrams(node: &Node) -> Result<u64> {
    let counters = network::run_in(&node.namespace(), &["grep", "^Udp: [0-9]", "/proc/net/snmp"]).await?;
    Ok(counters.split_whitespace().nth(2).context("no counter")?.parse()?)
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_node_cut_off_from_its_peers_reaches_the_api_server_only() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Partition).await? else { return Ok(()) };
    let (one, two) = (stage.node(0), stage.node(1));
    let ((pod, _), (_, far)) = (stage.beat_on(one).await?, stage.beat_on(two).await?);
    let connect = ["-n", NAMESPACE, "exec", &pod, "--", "nc", "-w", "2", &far, "8080"];
    stage.kubectl.run(&connect).await.context("before")?;

    partition::cut(one, From::Peers, Direction::Both, LIMIT).await?;
    ensure!(!stage.kubectl.try_with(&connect, "").await?.success, "the pod still reaches the other node");
    ensure!(connects(one, "10.213.0.1", 6443).await, "the API server is cut off too");

    partition::heal(one, From::Peers).await?;
    stage.kubectl.run(&connect).await.context("after")?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_node_cut_off_from_the_api_server_reaches_its_peers_only() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Partition).await? else { return Ok(()) };
    let (one, two) = (stage.node(0), stage.node(1));
    let ((pod, _), (_, far)) = (stage.beat_on(one).await?, stage.beat_on(two).await?);

    partition::cut(one, From::Api, Direction::Both, LIMIT).await?;
    ensure!(!connects(one, "10.213.0.1", 6443).await, "the API server is still reached");
    ensure!(connects(one, &far, 8080).await, "the other node is cut off too");

    partition::heal(one, From::Api).await?;
    ensure!(connects(one, "10.213.0.1", 6443).await, "the API server is not reached again");
    let echo = ["-n", NAMESPACE, "exec", &pod, "--", "true"];
    until("exec to work again", UNDONE_LIMIT, async || stage.kubectl.run(&echo).await).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_cut_can_be_of_one_direction() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Partition).await? else { return Ok(()) };
    let (one, two) = (stage.node(0), stage.node(1));
    for (direction, hears, is_heard) in
        [(Direction::Inbound, false, true), (Direction::Outbound, true, false)]
    {
        partition::cut(one, From::Peers, direction, LIMIT).await?;
        ensure!(arrives(two, one).await? == hears, "{direction:?}: node 1 hears the wrong thing");
        ensure!(arrives(one, two).await? == is_heard, "{direction:?}: node 1 is heard wrongly");
        partition::heal(one, From::Peers).await?;
        ensure!(arrives(two, one).await? && arrives(one, two).await?, "{direction:?} is not undone");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_cut_that_nobody_heals_heals_itself() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Partition).await? else { return Ok(()) };
    let one = stage.node(0);
    let (_, address) = stage.beat_on(one).await?;
    partition::cut(one, From::All, Direction::Both, Duration::from_secs(5)).await?;
    ensure!(stage.count(&address).await.is_err(), "the pod is still reached");
    ensure!(!arrives(stage.node(1), one).await?, "the other node still reaches it");
    stage.until_counting(&address).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_node_that_loses_power_boots_again_and_starts_its_pods() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Node).await? else { return Ok(()) };
    let three = stage.node(2);
    let (pod, address) = stage.beat_on(three).await?;
    let before = stage.until_counting(&address).await?;

    node::off(three).await?;
    ensure!(three.cgroup().processes()?.is_empty(), "something runs on");
    ensure!(stage.count(&address).await.is_err(), "its pod is still reached");

    node::on(&stage.lab, three).await?;
    let ready =
        ["-n", NAMESPACE, "get", "pod", &pod, "-o=jsonpath={.status.containerStatuses[0].restartCount}"];
    let restarted = until("the pod to be started again", START_LIMIT, async || {
        ensure!(stage.kubectl.run(&ready).await? != "0", "it was not");
        stage.count(&stage.beat_on(three).await?.1).await
    });
    let (after, took) = restarted.await?;
    println!("the pod of a node that lost power runs {:.1} s after power came back", took.as_secs_f32());
    ensure!(after < before || before < 100, "it counts on from {before} to {after}, so it was never off");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_frozen_node_stands_still_and_goes_on() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Node).await? else { return Ok(()) };
    let two = stage.node(1);
    let (_, address) = stage.beat_on(two).await?;
    let before = stage.until_counting(&address).await?;
    node::freeze(two, LIMIT).await?;
    ensure!(stage.count(&address).await.is_err(), "its pod is still reached");
    tokio::time::sleep(Duration::from_secs(3)).await;
    node::thaw(two).await?;
    let after = stage.until_counting(&address).await?;
    ensure!(
        (before..before + 60).contains(&after),
        "from {before} to {after}: it counted while frozen, or anew"
    );
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_node_without_kubelet_keeps_its_containers() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Node).await? else { return Ok(()) };
    let two = stage.node(1);
    let (pod, address) = stage.beat_on(two).await?;
    let logs = ["-n", NAMESPACE, "logs", &pod];
    kubelet::stop(two).await?;
    ensure!(!stage.kubectl.try_with(&logs, "").await?.success, "kubelet still answers");
    stage.count(&address).await.context("the container ended with kubelet")?;
    kubelet::start(&stage.lab, two)?;
    until("kubelet to answer", UNDONE_LIMIT, async || stage.kubectl.run(&logs).await).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_api_server_stops_hangs_and_fails_and_comes_back() -> Result<()> {
    let Some(stage) = Stage::set(Fault::ApiServer).await? else { return Ok(()) };
    let read = ["--request-timeout=5s", "get", "namespace", NAMESPACE];
    api_server::stop().await?;
    let stopped = stage.kubectl.try_with(&read, "").await?.errors;
    api_server::start(&stage.lab).await?;
    ensure!(stopped.contains("refused"), "stopped: {stopped}");
    stage.kubectl.run(&read).await.context("after the stop")?;

    api_server::pause(LIMIT).await?;
    let paused = stage.kubectl.try_with(&read, "").await?.errors;
    api_server::resume().await?;
    ensure!(paused.contains("imeout") || paused.contains("deadline"), "paused: {paused}");
    stage.kubectl.run(&read).await.context("after the pause")?;

    api_server::fail_all().await?;
    let failed = stage.kubectl.try_with(&read, "").await?.errors;
    api_server::recover(&stage.lab).await?;
    ensure!(failed.contains("ServiceUnavailable") || failed.contains("the lab's fault"), "failed: {failed}");
    stage.kubectl.run(&read).await.context("after the failure")?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn the_api_server_refuses_writes_and_goes_on_reading() -> Result<()> {
    let Some(stage) = Stage::set(Fault::ApiServer).await? else { return Ok(()) };
    let now = jiff::Timestamp::now().to_string();
    let note = format!("note={now}");
    let write = ["annotate", "--overwrite", "namespace", NAMESPACE, &note];
    api_server::refuse_writes().await?;
    let written = stage.kubectl.try_with(&write, "").await?;
    let read = stage.kubectl.try_with(&["get", "namespace", NAMESPACE], "").await?;
    api_server::accept_writes().await?;
    ensure!(!written.success && written.errors.contains("space"), "the write: {}", written.errors);
    ensure!(read.success, "the read: {}", read.errors);
    stage.kubectl.run(&write).await.context("after it accepts writes again")?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_process_in_a_container_is_killed_or_stopped() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Container).await? else { return Ok(()) };
    let one = stage.node(0);
    let (_, address) = stage.beat_on(one).await?;
    let before = stage.until_counting(&address).await?;
    let container = stage.container_on(one).await?;

    let server = container.processes("httpd")?;
    ensure!(container.kill("httpd")? == 1, "not one process was killed");
    until("the server to be another process", UNDONE_LIMIT, async || {
        let now = container.processes("httpd")?;
        ensure!(now != server, "it is still {now:?}");
        Ok(())
    })
    .await?;
    ensure!(stage.until_counting(&address).await? >= before, "the whole container was killed");

    container.stop("httpd", LIMIT).await?;
    ensure!(stage.count(&address).await.is_err(), "the stopped server still answers");
    container.resume("httpd").await?;
    stage.count(&address).await.context("after the server goes on")?;
    ensure!(container.kill("no such program").is_err(), "what is not there was killed");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_frozen_container_stands_still_and_goes_on() -> Result<()> {
    let Some(stage) = Stage::set(Fault::Container).await? else { return Ok(()) };
    let one = stage.node(0);
    let (_, address) = stage.beat_on(one).await?;
    let before = stage.until_counting(&address).await?;
    let container = stage.container_on(one).await?;

    container.freeze(LIMIT).await?;
    ensure!(stage.count(&address).await.is_err(), "it still answers");
    tokio::time::sleep(Duration::from_secs(3)).await;
    container.thaw().await?;
    let after = stage.count(&address).await?;
    ensure!(
        (before..before + 40).contains(&after),
        "from {before} to {after}: it counted while frozen, or anew"
    );

    container.freeze(Duration::from_secs(4)).await?;
    ensure!(stage.count(&address).await.is_err(), "it still answers the second time");
    stage.until_counting(&address).await.context("nobody thaws it and its timer does not")?;
    Ok(())
}
