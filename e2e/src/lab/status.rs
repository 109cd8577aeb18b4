//! What of the lab runs.

use std::fmt;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node as KubernetesNode;
use kube::api::{Api, ListParams};

use super::{Lab, api, paths, process};
use crate::fault::undo;

/// What of the lab runs, as a person reads it.
#[derive(Debug)]
pub struct Status {
    processes: Vec<(String, bool)>,
    /// Those that undo themselves, and whether they still have to.
    faults: Vec<(String, bool)>,
    nodes: Result<Vec<(String, bool)>, String>,
}

/// Asks.
pub(super) async fn status() -> Result<Status> {
    let lab = Lab::attach().await?;
    let nodes = ready_nodes(&lab).await.map_err(|error| format!("{error:#}"));
    let (faults, processes) = process::all().into_iter().partition(|(name, _)| name.starts_with(undo::TIMER));
    Ok(Status { processes, faults, nodes })
}

impl Status {
    /// Whether everything runs and all nodes are ready.
    pub fn is_whole(&self) -> bool {
        let nodes = self.nodes.as_deref().unwrap_or_default();
        self.processes.iter().all(|(_, runs)| *runs)
            && !nodes.is_empty()
            && nodes.iter().all(|(_, ready)| *ready)
    }
}

async fn ready_nodes(lab: &Lab) -> Result<Vec<(String, bool)>> {
    let nodes: Api<KubernetesNode> = Api::all(lab.client().await?);
    let list = nodes.list(&ListParams::default()).await?;
    Ok(list
        .iter()
        .map(|node| (node.metadata.name.clone().unwrap_or_default(), api::is_ready(node)))
        .collect())
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kubeconfig  {}", paths::kubeconfig().display())?;
        match &self.nodes {
            Ok(nodes) => {
                for (name, ready) in nodes {
                    writeln!(f, "node        {name} {}", if *ready { "Ready" } else { "NotReady" })?;
                }
            }
            Err(error) => writeln!(f, "nodes       the API server does not answer: {error}")?,
        }
        for (fault, _) in self.faults.iter().filter(|(_, armed)| *armed) {
            writeln!(f, "fault       {fault}")?;
        }
        for (name, _) in self.processes.iter().filter(|(_, runs)| !runs) {
            writeln!(f, "ended       {name}, see {}", paths::log(name).display())?;
        }
        let running = self.processes.iter().filter(|(_, runs)| *runs).count();
        write!(f, "processes   {running} of {} run", self.processes.len())
    }
}
