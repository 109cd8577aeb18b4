//! A node that is cut off: from the API server, from the other nodes or from everything, in one direction or
//! both. Packets are dropped, never refused: nobody is told.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::undo::Undo;
use crate::lab::Node;
use crate::lab::addresses::{API_SERVER, HOST};
use crate::lab::network::{NODE_LINK, run_in};

/// What the node is cut off from. Each is a partition of its own: a node can be cut off from two and one of
/// them be healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// The API server; pods still reach each other, and names are still resolved.
    Api,
    /// The other nodes and their pods; the API server is still reached.
    Peers,
    /// Clients outside of the cluster, which the host's programs are; everything in it still works.
    Clients,
    /// Everything.
    All,
}

/// Which packets are dropped, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// In both directions.
    Both,
    /// Those that come in: the node sends and hears nothing.
    Inbound,
    /// Those that go out: the node hears and cannot answer.
    Outbound,
}

/// Cuts the node off, with all pods on it, for `limit` at most.
pub async fn cut(node: &Node, from: From, direction: Direction, limit: Duration) -> Result<()> {
    let undo = undo(node, from);
    undo.run().await?; // of an earlier one, which this one replaces
    undo.arm(limit).await?;
    for rule in rules(node, from, direction) {
        let words: Vec<&str> =
            ["iptables", "-w", "-t", "mangle"].into_iter().chain(rule.split(' ')).collect();
        run_in(&node.namespace(), &words).await?;
    }
    Ok(())
}

/// Joins the node again.
pub async fn heal(node: &Node, from: From) -> Result<()> {
    undo(node, from).now().await
}

fn undo(node: &Node, from: From) -> Undo {
    const SCRIPT: &str = r#"
for chain in "$1-IN PREROUTING" "$1-OUT POSTROUTING"; do
    set -- "$1" $chain
    iptables -w -t mangle -D "$3" -j "$2" 2>/dev/null
    iptables -w -t mangle -F "$2" 2>/dev/null
    iptables -w -t mangle -X "$2" 2>/dev/null
done
! iptables -w -t mangle -S | grep -q -e "-j $1-""#;
    Undo {
        fault: format!("cut.{}.{from}", node.name()),
        namespace: node.namespace(),
        script: SCRIPT,
        arguments: vec![chain(from)],
    }
}

/// Before any translation of addresses inbound, and after it outbound: so a packet to a ClusterIP counts as
/// one to where it really goes.
fn rules(node: &Node, from: From, direction: Direction) -> Vec<String> {
    let mut rules = Vec::new();
    let chain = chain(from);
    if direction != Direction::Outbound {
        rules.push(format!("-N {chain}-IN"));
        rules
            .extend(far_side(node, from).map(|far| format!("-A {chain}-IN -i {NODE_LINK} -s {far} -j DROP")));
        rules.push(format!("-I PREROUTING -j {chain}-IN"));
    }
    if direction != Direction::Inbound {
        rules.push(format!("-N {chain}-OUT"));
        rules.extend(
            far_side(node, from).map(|far| format!("-A {chain}-OUT -o {NODE_LINK} -d {far} -j DROP")),
        );
        rules.push(format!("-I POSTROUTING -j {chain}-OUT"));
    }
    rules
}

fn far_side(node: &Node, from: From) -> impl Iterator<Item = String> {
    let far = match from {
        From::Api => vec![API_SERVER.to_string()],
        From::Peers => node.others().flat_map(|other| [other.address().to_string(), other.pods()]).collect(),
        From::Clients => vec![HOST.to_string()],
        From::All => vec!["0.0.0.0/0".to_owned()],
    };
    far.into_iter()
}

fn chain(from: From) -> String {
    format!("LAB-CUT-{}", from.to_string().to_uppercase())
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api => "api",
            Self::Peers => "peers",
            Self::Clients => "clients",
            Self::All => "all",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both directions",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_direction_drops_packets_of_that_direction_only() {
        let node = &Node::all()[0];
        assert_eq!(
            rules(node, From::Api, Direction::Inbound),
            [
                "-N LAB-CUT-API-IN",
                "-A LAB-CUT-API-IN -i eth0 -s 10.213.0.1 -j DROP",
                "-I PREROUTING -j LAB-CUT-API-IN"
            ]
        );
        let both = rules(node, From::Api, Direction::Both);
        let outbound = rules(node, From::Api, Direction::Outbound);
        assert_eq!(both[3..], outbound);
    }

    #[test]
    fn peers_are_the_other_nodes_and_their_pods() {
        let far: Vec<String> = far_side(&Node::all()[1], From::Peers).collect();
        assert_eq!(far, ["10.213.0.11", "10.213.17.0/24", "10.213.0.13", "10.213.19.0/24"]);
    }
}
