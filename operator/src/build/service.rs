//! The three Services of a Database.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use proto::{
    identity::Ordinal,
    pod::{HTTP_PORT, LABEL_ROLE, PEER_PORT, POSTGRES_PORT, ROLE_PRIMARY, ROLE_REPLICA, member_host},
};

use crate::cluster::{Cluster, MAX_REPLICAS};

/// Suffix of the Service that gives each member its DNS name.
const HEADLESS: &str = "headless";
/// Suffix of the Service that leads to the primary.
pub(crate) const READ_WRITE: &str = "rw";
/// Suffix of the Service that leads to the replicas.
pub(crate) const READ_ONLY: &str = "ro";

/// All Services.
pub(super) fn services(cluster: &Cluster) -> Vec<Service> {
    vec![headless(cluster), read_write(cluster), read_only(cluster)]
}

/// Every name under which a member is reached: what its certificate must cover.
pub(crate) fn hosts(cluster: &Cluster) -> Vec<String> {
    let namespace = cluster.namespace();
    let services = [READ_WRITE, READ_ONLY].into_iter().flat_map(|suffix| {
        let service = cluster.child(suffix);
        [
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ]
    });
    let members = (0..MAX_REPLICAS).map(|ordinal| member_host(cluster.name(), Ordinal(ordinal), namespace));
    services.chain(members).chain(["localhost".to_owned()]).collect()
}

/// DNS names of members, published before a pod is ready: members need each other to become ready.
fn headless(cluster: &Cluster) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        selector: Some(cluster.pod_selector()),
        ports: Some(vec![port("postgres", POSTGRES_PORT), port("http", HTTP_PORT), port("peer", PEER_PORT)]),
        ..ServiceSpec::default()
    };
    Service { metadata: cluster.owned(cluster.child(HEADLESS)), spec: Some(spec), ..Service::default() }
}

/// The label alone decides: a readiness probe must never delay a failover.
fn read_write(cluster: &Cluster) -> Service {
    by_role(cluster, READ_WRITE, ROLE_PRIMARY, Some(true))
}

/// Only ready replicas: a standby without a leader for long is not a good place to read.
fn read_only(cluster: &Cluster) -> Service {
    by_role(cluster, READ_ONLY, ROLE_REPLICA, None)
}

fn by_role(cluster: &Cluster, suffix: &str, role: &str, not_ready: Option<bool>) -> Service {
    let mut selector = cluster.pod_selector();
    selector.insert(LABEL_ROLE.to_owned(), role.to_owned());
    let spec = ServiceSpec {
        publish_not_ready_addresses: not_ready,
        selector: Some(selector),
        ports: Some(vec![port("postgres", POSTGRES_PORT)]),
        ..ServiceSpec::default()
    };
    Service { metadata: cluster.owned(cluster.child(suffix)), spec: Some(spec), ..Service::default() }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(number))),
        ..ServicePort::default()
    }
}
