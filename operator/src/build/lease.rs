//! The Lease of a Database at its birth: nobody holds it and it has no document (ha.md W4).
//!
//! It is only ever created, never applied, and has no owner: a Database that is deleted with `Retain` and
//! applied again finds its members, configurations and epoch where it left them.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use proto::pod::ANNOTATION_NEVER_INITIALISED;

use crate::cluster::Cluster;

/// An empty Lease that says that there never was a document.
pub(crate) fn empty_lease(cluster: &Cluster) -> Lease {
    let mut metadata = cluster.kept(cluster.name().to_owned());
    metadata.annotations =
        Some(BTreeMap::from([(ANNOTATION_NEVER_INITIALISED.to_owned(), cluster.spec.uid.clone())]));
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }),
    }
}
