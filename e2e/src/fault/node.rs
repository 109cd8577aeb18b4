//! A node that loses power, or that stands still as a paused virtual machine does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::undo::Undo;
use crate::lab::addresses;
use crate::lab::network::{self, run_in};
use crate::lab::{Lab, Node, image, mounts, strays};

/// Ends everything on the node at once, as a loss of power: nothing is told, nothing is written back by its
/// programs, and its address answers no more.
pub async fn off(node: &Node) -> Result<()> {
    unplug(node).await?;
    mounts::unfreeze_all(&node.dir()).await?; // a writer that waits for a disk cannot be killed
    node.cgroup().kill().await
}

/// Boots the node: what a reboot forgets is gone, what is on its disk is there.
pub async fn on(lab: &Lab, node: &Node) -> Result<()> {
    forget_what_ran(node).await?;
    plug(node).await?;
    node.start_containerd()?;
    image::wait_containerd(node).await?;
    until_api_server_is_reached(node).await;
    node.start_kubelet(lab.programs())
}

/// Stops everything on the node where it is, for `limit` at most; meanwhile its address does not answer.
pub async fn freeze(node: &Node, limit: Duration) -> Result<()> {
    let undo = undo_freeze(node)?;
    undo.arm(limit).await?;
    unplug(node).await?;
    node.cgroup().freeze()
}

/// Lets the node go on from where it was stopped.
pub async fn thaw(node: &Node) -> Result<()> {
    undo_freeze(node)?.now().await
}

fn undo_freeze(node: &Node) -> Result<Undo> {
    const SCRIPT: &str = r#"echo "$2" > "$1"; ip link set "$3" up"#;
    let (file, [_, thawed]) = node.cgroup().switch()?;
    let arguments = vec![file.display().to_string(), thawed.to_owned(), node.name().to_owned()];
    Ok(Undo::new(format!("frozen.{}", node.name()), SCRIPT, arguments))
}

/// A link takes a moment to carry packets. A kubelet that finds no API server at its very start takes its own node for
/// another and forgets the storage driver for minutes. If there is none to be reached, it starts all the same.
async fn until_api_server_is_reached(node: &Node) {
    const TRIES: u32 = 25;
    let connect = format!("exec 3<>/dev/tcp/{}/6443", addresses::API_SERVER);
    for _ in 0..TRIES {
        if run_in(&node.namespace(), &["timeout", "1", "bash", "-c", &connect]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn unplug(node: &Node) -> Result<()> {
    run_in(&network::control_plane(), &["ip", "link", "set", node.name(), "down"]).await.map(drop)
}

async fn plug(node: &Node) -> Result<()> {
    run_in(&network::control_plane(), &["ip", "link", "set", node.name(), "up"]).await.map(drop)
}

/// Mounts, the runtime's state and the pods' network namespaces do not outlive a reboot.
async fn forget_what_ran(node: &Node) -> Result<()> {
    strays::remove_shim_sockets(node);
    mounts::unmount_all(&node.dir()).await?;
    for state in ["containerd/state", "containerd/runc"] {
        remove(&node.dir().join(state))?;
    }
    node.cgroup().below("kubepods").remove().await
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
