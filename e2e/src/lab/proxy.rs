//! kube-proxy: one on every node, and one in the control plane's namespace, through which the host's
//! packets for ClusterIPs pass.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::cgroup::Cgroup;
use super::process::Process;
use super::{Node, control_plane, network, paths, pki};

/// Starts the one that the host's packets pass through.
pub(super) fn start_for_host(programs: &Path) -> Result<()> {
    start(programs, "control-plane", network::control_plane(), control_plane::cgroup())
}

/// Starts the one of a node.
pub(super) fn start_on(programs: &Path, node: &Node) -> Result<()> {
    start(programs, node.name(), node.namespace(), node.system_cgroup())
}

fn start(programs: &Path, place: &str, namespace: PathBuf, cgroup: Cgroup) -> Result<()> {
    let file = paths::at(&format!("{place}.kube-proxy.json"));
    paths::write(&file, &configuration(place))?;
    let program = programs.join("kube-proxy").display().to_string();
    let command = vec![program, format!("--config={}", file.display())];
    Process { name: format!("{place}.kube-proxy"), namespace, cgroup, command }.start()
}

fn configuration(place: &str) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": place,
        "clientConnection": { "kubeconfig": pki::kubeconfig("kube-proxy") },
        // The limits of connection tracking belong to the whole machine: leave them as they are.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s" },
        "iptables": { "minSyncPeriod": "100ms" },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    })
    .to_string()
}
