//! A node without its kubelet: containers run on, but nobody reports, probes, starts or ends them.

use anyhow::Result;

use crate::lab::{Lab, Node, process};

/// Kills the node's kubelet.
pub async fn stop(node: &Node) -> Result<()> {
    process::kill(&node.process_name("kubelet")).await
}

/// Starts it again.
pub fn start(lab: &Lab, node: &Node) -> Result<()> {
    node.start_kubelet(lab.programs())
}
