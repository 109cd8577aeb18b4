//! Makes a lab. What does not need another part starts at the same time as it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;

use super::{
    Lab, api, binaries, cgroup::Cgroup, control_plane, dns, down, host, image, kernel, mounts, network,
    node::Node, packages, paths, pki, progress, proxy, storage,
};

/// The programs that a lab is made of.
struct Programs {
    kubernetes: PathBuf,
    coredns: PathBuf,
    pause: PathBuf,
    storage: storage::Programs,
}

/// Makes a lab, or starts what has ended of one that was whole.
pub(super) async fn up() -> Result<Lab> {
    host::check().await?;
    let programs = programs().await?;
    packages::ensure(packages::LAB).await?;
    if host::has_lab() && !paths::complete().exists() {
        progress::of("removing what is left of a lab that was not finished", down::down()).await?;
    }
    let lab = Lab::with_programs(programs.kubernetes.clone());
    let result = progress::of("starting three nodes", start(&lab, &programs)).await;
    if result.is_err() && !paths::complete().exists() {
        explain(&down::down().await);
    }
    result.map(|()| lab)
}

/// One after the other: each build uses all processors.
async fn programs() -> Result<Programs> {
    Ok(Programs {
        kubernetes: binaries::KUBERNETES.build().await?,
        coredns: binaries::COREDNS.build().await?,
        pause: image::pause_archive(&binaries::PAUSE.build().await?).await?,
        storage: storage::programs().await?,
    })
}

async fn start(lab: &Lab, programs: &Programs) -> Result<()> {
    if !paths::complete().exists() {
        prepare(lab.nodes()).await?;
    }
    control_plane::start(&programs.kubernetes).await?;
    storage::start_driver(lab.nodes())?;
    let client = lab.client().await?;
    tokio::try_join!(
        start_control_plane(&client, programs),
        start_storage(&client, &programs.storage),
        try_join_all(lab.nodes().iter().map(|node| start_node(node, &client, programs))),
    )?;
    api::wait("the nodes to be ready", async || {
        all_ready(lab.nodes(), &client, programs).await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    storage::wait_ready(&client, lab.nodes().len()).await?;
    fs::write(paths::complete(), "").context("cannot mark the lab as complete")
}

/// What is made once in a lab's life.
async fn prepare(nodes: &[Node]) -> Result<()> {
    fs::create_dir_all(paths::ROOT).with_context(|| format!("cannot make {}", paths::ROOT))?;
    kernel::keep()?;
    mounts::share_root().await?;
    Cgroup::lab().create()?;
    control_plane::cgroup().create()?;
    pki::create(nodes)?;
    nodes.iter().try_for_each(Node::prepare)?;
    network::create(nodes).await
}

async fn start_control_plane(client: &kube::Client, programs: &Programs) -> Result<()> {
    api::wait_ready(client).await?;
    control_plane::start_controllers(&programs.kubernetes)?;
    proxy::start_for_host(&programs.kubernetes)?;
    api::apply(client, dns::PERMISSIONS).await?;
    dns::start(&programs.coredns)
}

async fn start_storage(client: &kube::Client, programs: &storage::Programs) -> Result<()> {
    api::wait_ready(client).await?;
    storage::start(client, programs).await
}

async fn start_node(node: &Node, client: &kube::Client, programs: &Programs) -> Result<()> {
    node.start_containerd()?;
    image::wait_containerd(node).await?;
    image::import(node, &programs.pause).await?;
    // A kubelet that finds no API server waits ever longer between its attempts.
    api::wait_ready(client).await?;
    node.start_kubelet(&programs.kubernetes)
}

/// All kubelets listen for device plugins at one and the same path, whatever they are told. Each removes the socket
/// of another; of two that do so at the same moment one ends, and is started again, elsewhere by an init system.
async fn all_ready(nodes: &[Node], client: &kube::Client, programs: &Programs) -> Result<()> {
    let ready = api::ready_nodes(client).await?;
    let unready = || nodes.iter().filter(|node| !ready.iter().any(|name| name == node.name()));
    unready().try_for_each(|node| node.start_kubelet(&programs.kubernetes))?;
    if let Some(node) = unready().next() {
        bail!("{} is not: {}", node.name(), node.last_words("kubelet"));
    }
    Ok(())
}

fn explain(result: &Result<()>) {
    if let Err(error) = result {
        eprintln!("lab: what was started could not all be removed, `cargo lab down` tries again: {error:#}");
    }
}
