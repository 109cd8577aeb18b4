//! The lab's network: the control plane's namespace holds a bridge, every node hangs on it, and the host has
//! one link and one route to it. The host's own firewall and forwarding are left alone.
//!
//! There is no default route in any namespace: a packet for anywhere else has nowhere to go.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::addresses::{self, API_SERVER, DNS, GATEWAY, HOST};
use super::command::run;
use super::{Node, paths};

/// The host's end of the link to the lab.
pub const HOST_LINK: &str = "matriarch-lab";

/// The bridge that joins the nodes, in the control plane's namespace.
const BRIDGE: &str = "nodes";

/// A node's only interface.
pub const NODE_LINK: &str = "eth0";

/// The file that holds the network namespace of this name.
pub fn namespace(name: &str) -> PathBuf {
    paths::at("net").join(name)
}

/// The namespace of the control plane.
pub fn control_plane() -> PathBuf {
    namespace("control-plane")
}

/// Runs a program in a network namespace.
pub async fn run_in(namespace: &Path, arguments: &[&str]) -> Result<String> {
    let net = format!("--net={}", namespace.display());
    let all: Vec<&str> = std::iter::once(net.as_str()).chain(arguments.iter().copied()).collect();
    run("nsenter", &all).await
}

/// Makes the namespaces, the links and the routes.
pub async fn create(nodes: &[Node]) -> Result<()> {
    create_control_plane().await?;
    futures::future::try_join_all(nodes.iter().map(join_node)).await?;
    for node in nodes {
        let route = format!("route add {} via {}", node.pods(), node.address());
        ip(&control_plane(), &[&route]).await?;
    }
    connect_host().await
}

/// Removes the host's link; all others end with their namespaces.
pub async fn remove_host_link() -> Result<()> {
    if Path::new("/sys/class/net").join(HOST_LINK).exists() {
        run("ip", &["link", "delete", HOST_LINK]).await?;
    }
    Ok(())
}

async fn create_control_plane() -> Result<()> {
    let namespace = control_plane();
    create_namespace(&namespace).await?;
    let commands = [
        format!("link add {BRIDGE} type bridge"),
        format!("addr add {API_SERVER}/24 dev {BRIDGE}"),
        format!("addr add {DNS}/24 dev {BRIDGE}"),
        format!("link set {BRIDGE} up"),
        // For what no other route takes, ClusterIPs before they are translated above all.
        format!("route add {} dev {BRIDGE}", addresses::range()),
    ];
    ip(&namespace, &commands).await
}

async fn connect_host() -> Result<()> {
    let cp = control_plane();
    let add = ["link", "add", HOST_LINK, "type", "veth", "peer", "name", "host", "netns"];
    run("ip", &[add.as_slice(), &[&cp.to_string_lossy()]].concat()).await?;
    ip(&cp, &[format!("addr add {GATEWAY} peer {HOST} dev host"), "link set host up".to_owned()]).await?;
    let (host, gateway, range) = (HOST.to_string(), GATEWAY.to_string(), addresses::range());
    run("ip", &["addr", "add", &host, "peer", &gateway, "dev", HOST_LINK]).await?;
    run("ip", &["link", "set", HOST_LINK, "up"]).await?;
    run("ip", &["route", "add", &range, "via", &gateway, "src", &host]).await.map(drop)
}

async fn join_node(node: &Node) -> Result<()> {
    let (namespace, cp) = (node.namespace(), control_plane());
    create_namespace(&namespace).await?;
    let link =
        format!("link add {} type veth peer name {NODE_LINK} netns {}", node.name(), namespace.display());
    let port = format!("link set {} master {BRIDGE} up", node.name());
    ip(&cp, &[link, port]).await?;
    let mut commands = vec![
        format!("addr add {}/24 dev {NODE_LINK}", node.address()),
        format!("link set {NODE_LINK} up"),
        format!("route add {} dev {NODE_LINK}", addresses::range()),
        format!("route add {HOST} via {API_SERVER}"),
    ];
    commands.extend(node.others().map(|other| format!("route add {} via {}", other.pods(), other.address())));
    ip(&namespace, &commands).await
}

/// A namespace that lives as long as the file that it is mounted on.
async fn create_namespace(file: &Path) -> Result<()> {
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    std::fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    run("unshare", &[&format!("--net={}", file.display()), "true"]).await?;
    let settings = [
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.rp_filter=0", // packets come in on one link and are answered on another
        "net.ipv4.conf.default.rp_filter=0",
        "net.ipv6.conf.all.disable_ipv6=1",
        "net.ipv6.conf.default.disable_ipv6=1",
    ];
    run_in(file, &[["sysctl", "-q", "-w"].as_slice(), &settings].concat()).await?;
    // Where the kernel can filter bridged packets, those between nodes must not meet the filters of the control plane.
    run_in(file, &["sysctl", "-q", "-e", "-w", "net.bridge.bridge-nf-call-iptables=0"]).await?;
    ip(file, &["link set lo up"]).await
}

/// Runs `ip` with each of `commands`.
async fn ip<S: AsRef<str>>(namespace: &Path, commands: &[S]) -> Result<()> {
    for command in commands {
        let words: Vec<&str> = std::iter::once("ip").chain(command.as_ref().split(' ')).collect();
        run_in(namespace, &words).await?;
    }
    Ok(())
}

/// The CNI configuration of a node. Every pod has a link of its own and all its traffic is routed, never
/// bridged: so Services work also where the kernel cannot filter bridged packets.
pub fn cni(node: &Node) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": format!("{HOST_LINK}-{}", node.name()),
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": node.dir().join("addresses"),
                "ranges": [[{ "subnet": node.pods() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
    .to_string()
}
