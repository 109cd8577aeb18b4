//! The files that containerd, CNI and kubelet put outside the lab's folder whatever they are told.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Node, paths};

const SHIM_SOCKETS: &str = "/run/containerd/s";
const CONTAINER_LOGS: &str = "/var/log/containers";
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Removes all of them, once nothing runs on any node and while their folders still say what was theirs.
pub(super) fn remove(nodes: &[Node]) {
    nodes.iter().for_each(remove_shim_sockets);
    remove_where(SHIM_SOCKETS, nobody_listens);
    remove_where(DEVICE_PLUGINS, nobody_listens);
    remove_where(CNI_RESULTS, |file| fs::read_to_string(file).is_ok_and(|text| text.contains(paths::ROOT)));
    remove_where(CONTAINER_LOGS, |file| fs::read_link(file).is_ok_and(|to| to.starts_with(paths::ROOT)));
    // Only where nobody else has anything in them.
    let plugins = [DEVICE_PLUGINS, "/var/lib/kubelet"];
    let folders = [SHIM_SOCKETS, "/run/containerd", CNI_RESULTS, "/var/lib/cni", CONTAINER_LOGS];
    for folder in folders.into_iter().chain(plugins) {
        let _ = fs::remove_dir(folder);
    }
}

/// Removes the sockets of the node's shims. They are named by a hash: each container's folder says which is its own.
pub(crate) fn remove_shim_sockets(node: &Node) {
    let tasks = node.dir().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for task in files_in(&tasks) {
        let address = fs::read_to_string(task.join("address")).unwrap_or_default();
        let socket = address.trim().strip_prefix("unix://").map(Path::new);
        if let Some(socket) = socket.filter(|socket| socket.starts_with(SHIM_SOCKETS)) {
            let _ = fs::remove_file(socket); // gone already where the shim ended by itself
        }
    }
}

/// Where a node lost power while a container was being made, no folder says whose the socket was. One that refuses
/// connections is of use to nobody.
fn nobody_listens(socket: &Path) -> bool {
    let is_socket = fs::symlink_metadata(socket).is_ok_and(|file| file.file_type().is_socket());
    is_socket && UnixStream::connect(socket).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn remove_where(folder: &str, ours: impl Fn(&Path) -> bool) {
    for file in files_in(Path::new(folder)).into_iter().filter(|file| ours(file)) {
        let _ = fs::remove_file(file); // two may remove it at once
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
