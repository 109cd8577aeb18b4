//! On which node a volume is made.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{Topology, TopologyRequirement};

/// The label of a node that says which volumes can be mounted there: those that lie on it.
pub const KEY: &str = "csi.lab.matriarch.test/node";

/// No node of the lab satisfies the request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node of the lab is among those asked for ({asked:?}): the nodes are {nodes:?}")]
pub struct NoNode {
    asked: Vec<String>,
    nodes: BTreeSet<String>,
}

/// The topology of a volume or driver on `node`.
pub fn of(node: &str) -> Topology {
    Topology { segments: BTreeMap::from([(KEY.to_owned(), node.to_owned())]) }
}

/// The first preferred node that exists, else the first of the required ones; without a wish, the first node.
pub fn choose(wish: Option<&TopologyRequirement>, nodes: &BTreeSet<String>) -> Result<String, NoNode> {
    let Some(wish) = wish.filter(|w| !w.preferred.is_empty() || !w.requisite.is_empty()) else {
        return nodes.first().cloned().ok_or(NoNode { asked: Vec::new(), nodes: BTreeSet::new() });
    };
    let asked: Vec<String> =
        wish.preferred.iter().chain(&wish.requisite).filter_map(|t| t.segments.get(KEY)).cloned().collect();
    match asked.iter().find(|name| nodes.contains(*name)) {
        Some(node) => Ok(node.clone()),
        None => Err(NoNode { asked, nodes: nodes.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> BTreeSet<String> {
        ["a", "b", "c"].map(String::from).into()
    }

    fn wish(preferred: &[&str], requisite: &[&str]) -> TopologyRequirement {
        let topologies = |names: &[&str]| names.iter().map(|n| of(n)).collect();
        TopologyRequirement { requisite: topologies(requisite), preferred: topologies(preferred) }
    }

    #[test]
    fn the_preferred_node_wins() {
        assert_eq!(choose(Some(&wish(&["c", "a"], &["a", "c"])), &nodes()).unwrap(), "c");
        assert_eq!(choose(Some(&wish(&[], &["b"])), &nodes()).unwrap(), "b");
        assert_eq!(choose(None, &nodes()).unwrap(), "a");
        assert_eq!(choose(Some(&TopologyRequirement::default()), &nodes()).unwrap(), "a");
    }

    #[test]
    fn a_node_that_is_not_of_the_lab_is_not_replaced_by_another() {
        assert_eq!(choose(Some(&wish(&["x"], &["x", "b"])), &nodes()).unwrap(), "b");
        let refused = choose(Some(&wish(&["x"], &[])), &nodes()).unwrap_err();
        assert_eq!(refused.asked, ["x"]);
        let elsewhere = TopologyRequirement {
            requisite: vec![Topology { segments: [("zone".into(), "a".into())].into() }],
            preferred: vec![],
        };
        assert!(choose(Some(&elsewhere), &nodes()).is_err());
    }
}
