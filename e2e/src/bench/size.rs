//! Memory of the running programs, and size of their images as kubelet reports it.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};
use proto::api::quantity::Bytes;

use super::Line;
use crate::images::own;

const MIB: u64 = 1 << 20;
/// The agent runs in every pod.
const AGENT_MEMORY: Bytes = Bytes(15 * MIB);
/// With ten Databases.
const OPERATOR_MEMORY: Bytes = Bytes(40 * MIB);
/// Of each image: a node that lost its cache pulls it before a pod can start.
const IMAGE: Bytes = Bytes(25_000_000);

/// Measures the programs of the pods of `namespace`, and the operator.
pub(super) async fn lines(client: &Client, namespace: &str) -> Result<Vec<Line>> {
    Ok(vec![
        memory(client, namespace, "agent", AGENT_MEMORY).await?,
        memory(client, "matriarch-system", "operator", OPERATOR_MEMORY).await?,
        image(client, own::AGENT).await?,
        image(client, own::OPERATOR).await?,
    ])
}

/// The largest resident set of the processes called `program` in the pods of `namespace`.
async fn memory(client: &Client, namespace: &str, program: &str, target: Bytes) -> Result<Line> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default()).await?;
    let uids: BTreeSet<String> = pods.items.iter().filter_map(ResourceExt::uid).collect();
    let mut sizes: Vec<Bytes> = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let process = entry?.path();
        let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
        let group = read("cgroup").replace('_', "-");
        if read("comm").trim_end() == program && uids.iter().any(|uid| group.contains(uid.as_str())) {
            sizes.extend(resident(&read("status")));
        }
    }
    let most = sizes.iter().max().copied();
    let most = most.with_context(|| format!("no process called {program} runs in {namespace}"))?;
    Ok(line(&format!("memory of the {program}, most of {}", sizes.len()), most, target))
}

/// `VmRSS` of /proc/<pid>/status.
fn resident(status: &str) -> Option<Bytes> {
    let text = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(Bytes(text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10))
}

async fn image(client: &Client, reference: &str) -> Result<Line> {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await?;
    let images = nodes.items.iter().filter_map(|node| node.status.as_ref()?.images.as_ref()).flatten();
    let sizes = images
        .filter(|image| image.names.iter().flatten().any(|name| name == reference))
        .filter_map(|image| u64::try_from(image.size_bytes?).ok());
    let largest = sizes.max().with_context(|| format!("no node reports {reference}"))?;
    ensure!(largest > 0, "{reference} is reported as empty");
    Ok(line(&format!("image {reference}"), Bytes(largest), IMAGE))
}

fn line(what: &str, measured: Bytes, target: Bytes) -> Line {
    Line {
        what: what.to_owned(),
        measured: measured.to_string(),
        target: target.to_string(),
        met: measured <= target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_read() {
        assert_eq!(resident("Name:\tagent\nVmRSS:\t    9216 kB\n"), Some(Bytes(9 * MIB)));
        assert_eq!(resident("Name:\tagent\n"), None);
    }
}
