//! Removes a lab, whole or not: everything is found by where it is, not by what was recorded, so that a
//! crash at any moment leaves nothing that this does not find.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cgroup::Cgroup;
use super::{Node, kernel, mounts, network, paths};

/// Where containerd and kubelet put files whatever they are told.
const SHIM_SOCKETS: &str = "/run/containerd/s";
const CONTAINER_LOGS: &str = "/var/log/containers";
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Removes whatever there is of a lab. It is no error if there is none.
pub(super) async fn down() -> Result<()> {
    let root = Path::new(paths::ROOT);
    mounts::unfreeze_all(root).await?;
    Cgroup::lab().kill().await?;
    network::remove_host_link().await?;
    kernel::put_back()?;
    let sockets = shim_sockets();
    mounts::unmount_all(root).await?;
    mounts::detach_loops(root).await?;
    Cgroup::lab().remove().await?;
    remove_strays(&sockets);
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", root.display()))
        }
        _ => Ok(()),
    }
}

/// The sockets of the shims, which are named by a hash: each container's folder says which is its own.
fn shim_sockets() -> Vec<String> {
    let mut sockets = Vec::new();
    for node in Node::all() {
        let tasks = node.dir().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let address = fs::read_to_string(task.path().join("address")).unwrap_or_default();
            sockets.extend(address.trim().strip_prefix("unix://").map(str::to_owned));
        }
    }
    sockets
}

fn remove_strays(sockets: &[String]) {
    for socket in sockets.iter().filter(|socket| Path::new(socket).starts_with(SHIM_SOCKETS)) {
        let _ = fs::remove_file(socket); // gone already where the shim ended by itself
    }
    let links: Vec<String> = Node::all().iter().map(network::cni_name).collect();
    remove_matching(CNI_RESULTS, |file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        links.iter().any(|link| name.starts_with(link.as_str()))
    });
    remove_matching(CONTAINER_LOGS, |file| fs::read_link(file).is_ok_and(|to| to.starts_with(paths::ROOT)));
    // Only where nobody else has anything in them.
    for folder in [SHIM_SOCKETS, "/run/containerd", CNI_RESULTS, "/var/lib/cni", CONTAINER_LOGS] {
        let _ = fs::remove_dir(folder);
    }
}

fn remove_matching(folder: &str, ours: impl Fn(&Path) -> bool) {
    for file in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if ours(&file) {
            let _ = fs::remove_file(file);
        }
    }
}
