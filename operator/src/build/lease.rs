//! The Lease of a Database at its birth: nobody holds it and it has no document (ha.md W4).
//!
//! It is only ever created, never applied, and has no owner: a Database that is deleted with `Retain` and
//! applied again finds its members, configurations and epoch where it left them.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

use crate::cluster::Cluster;

/// An empty Lease.
pub(crate) fn empty_lease(cluster: &Cluster) -> Lease {
    Lease {
        metadata: cluster.kept(cluster.name.to_string()),
        spec: Some(LeaseSpec { holder_identity: Some(String::new()), lease_transitions: Some(0), ..LeaseSpec::default() }),
    }
}
